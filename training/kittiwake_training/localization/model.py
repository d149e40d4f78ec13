"""The descriptor network: a disc of 33 px of ground in, a unit vector out, dense over a map.

One idea: everything between pixels and descriptor lies inside the graph and is convolutional, so a map is
described in one dense pass, a single 33 x 33 patch gives one vector, and both come from the same arithmetic.

1. ``LocalContrast`` subtracts from every seen pixel the mean of its seen surroundings and divides by their
   spread, both Gaussian-weighted, at one scale or several: gain, offset and slow shading vanish. Of a view in
   colour it does so to luma and to what red and blue have beyond it; a gray one has nothing there.
2. Nine unpadded 3 x 3 convolutions, the second with stride 2, then a 1 x 1: a receptive field of exactly
   33 px and one vector every 2 px. Six of them are three residual blocks whose skip is a centre crop.
3. The vector is scaled to unit length, so that a dot product is a cosine.

The recipe follows the season-invariant descriptors of Kinnari et al. (SIVL, RA-L 2022; LSVL, arXiv
2212.03581); the dense normalization and the single descriptor per cell (the query is rotated, not the map)
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from kittiwake_runtime.localization.descriptor import LUMA
from kittiwake_training.errors import TrainingError

DISC_PX = 33
"""Receptive field, and the diameter of the disc of ground that a query shows."""
CELL_PX = 2
"""Stride: one descriptor every so many pixels."""
BLOCKS = 3
"""Residual blocks."""
LARGEST_PX = 4096
"""Greatest height and width of a view that the exported network takes."""
HALO_PX = 15
"""How far local normalization looks beyond the receptive field."""


class LocalContrast(nn.Module):
    """Masked local normalization: (x - mean) / spread over Gaussian neighbourhoods of seen pixels.

    What is normalized is gray, or of a view in colour luma, red less luma, and blue less luma.

    Each Gaussian is cut at 15 px; sums run over zeros beyond the border, where nothing is seen either. The
    results are clamped to +-3 and zero where unseen. Never below float32: the variance is a difference of near-equal
    numbers, which half precision can't hold.

    The blur is a product with a banded matrix along each axis, for all neighbourhoods and moments at once. A
    convolution of a channel by itself would do a tenth of the arithmetic on a large map and takes ten times as long on
    the discs that a vehicle describes.

    Args:
        sigmas_px: one neighbourhood each: a narrow one shows borders, a wide one the tones of fields.
        colours: of a view; 1 for gray, 3 for red, green and blue.
    """

    spread_floor = 0.01
    chroma_floor = 0.02
    limit = 3.0

    def __init__(self, sigmas_px: Sequence[float] = (5.0,), colours: int = 1) -> None:
        super().__init__()
        self.scales, self.colours = len(sigmas_px), colours
        taps = torch.arange(-HALO_PX - 1, HALO_PX + 2, dtype=torch.float32)
        kernels = torch.exp(-0.5 * (taps / torch.tensor(sigmas_px)[:, None]) ** 2)
        kernels[:, [0, -1]] = 0.0  # what lies farther off than the halo
        self.register_buffer("kernels", kernels / kernels.sum(dim=1, keepdim=True), persistent=False)

    def forward(self, view: Tensor) -> Tensor:
        """(N, colours + 1, H, W) colours times mask, and mask -> (N, colours scales + 1, H, W) float32.

        Normalized luma at each scale, the mask, then red and blue.
        """
        with torch.autocast(view.device.type, enabled=False):
            view = view.to(torch.promote_types(view.dtype, torch.float32))
            mask = view[:, -1:]
            planes = self._planes(view[:, :-1], mask)
            seen, *moments = self._blurred([mask, *planes, *(plane * plane for plane in planes)]).unbind(dim=3)
            weight = seen + 1e-6
            contrasts = []
            for number, plane in enumerate(planes):
                mean = moments[number] / weight
                variance = (moments[number + len(planes)] / weight - mean * mean).clamp(min=0.0)
                floor = self.chroma_floor if number else self.spread_floor
                contrast = (plane - mean) / torch.sqrt(variance + floor**2)
                contrasts.append(contrast.clamp(-self.limit, self.limit) * mask)
            return torch.cat([contrasts[0], mask, *contrasts[1:]], dim=1)

    def _planes(self, colours: Tensor, mask: Tensor) -> list[Tensor]:
        """What is normalized, each (N, 1, H, W) and around zero: squares are small, and the variance keeps its digits."""
        if self.colours == 1:
            return [colours - 0.5 * mask]
        red, green, blue = colours.split(1, dim=1)
        luma = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        return [luma - 0.5 * mask, red - luma, blue - luma]

    def _blurred(self, images: Sequence[Tensor]) -> Tensor:
        """M of (N, 1, H, W) -> (N, scales, H, M, W), each with every kernel; zeros beyond the border."""
        height, width = images[0].shape[-2:]
        down = _banded(self.kernels, height).flatten(0, 1) @ torch.cat(list(images), dim=3)
        across = down.reshape(-1, self.scales, height * len(images), width) @ _banded(self.kernels, width)
        return across.reshape(-1, self.scales, height, len(images), width)


def _banded(kernels: Tensor, size: int) -> Tensor:
    """The matrices that convolve ``size`` values with symmetric kernels whose first and last tap are zero.

    (scales, taps) -> (scales, size, size).
    """
    # Traced, the size is no int, and the ramp is to be a piece of a constant: the GPU's graph then has no size in it.
    at = torch.arange(max(size, LARGEST_PX) if isinstance(size, int) else LARGEST_PX, device=kernels.device)[:size]
    reach = kernels.shape[1] // 2
    return kernels[:, (at[:, None] - at).clamp(-reach, reach) + reach]


class ConvNorm(nn.Sequential):
    """An unpadded 3 x 3 convolution and its batch normalization, which folds into it after training."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride=stride, bias=False),
            nn.BatchNorm2d(channels_out, momentum=0.05),
        )


class Residual(nn.Module):
    """Two unpadded 3 x 3 convolutions beside a skip that drops the two border pixels they consume."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, inner)
        self.second = ConvNorm(inner, channels)
        # A block starts as its skip: deep stacks then train at once.
        nn.init.zeros_(self.second[1].weight)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H - 4, W - 4)."""
        return functional.relu(self.second(functional.relu(self.first(x))) + x[:, :, 2:-2, 2:-2])


class DescriptorCNN(nn.Module):
    """The descriptor network; see the module's text.

    Args:
        width: channels of the seven layers after the stride; the first two have a quarter and a half of it.
        dim: length of the descriptor.
        sigmas_px: neighbourhoods of ``LocalContrast``.
        widths: channels of single layers, as pruning leaves them: of the first layer, the second, the third and
            all blocks' outputs together, and within each of the three blocks. Empty: as ``width`` says.
        colours: of a view; 1 for gray, 3 for red, green and blue.

    With the defaults it has 0.99 M parameters and costs 0.49 MFLOP a map pixel.
    """

    def __init__(
        self,
        width: int = 128,
        dim: int = 48,
        sigmas_px: Sequence[float] = (5.0,),
        widths: Sequence[int] = (),
        colours: int = 1,
    ) -> None:
        super().__init__()
        self.width, self.dim, self.colours = width, dim, colours
        first, second, trunk, *inner = widths or (width // 4, width // 2, *[width] * 4)
        if len(inner) != BLOCKS:
            raise TrainingError(
                f"widths {list(widths)}: expected {3 + BLOCKS} numbers, one for each layer that has any"
            )
        self.contrast = LocalContrast(sigmas_px, colours)
        self.stem = nn.Sequential(
            ConvNorm(colours * len(sigmas_px) + 1, first),
            nn.ReLU(),
            ConvNorm(first, second, stride=CELL_PX),
            nn.ReLU(),
            ConvNorm(second, trunk),
            nn.ReLU(),
        )
        self.blocks = nn.Sequential(*(Residual(trunk, channels) for channels in inner))
        self.head = nn.Conv2d(trunk, dim, 1)

    def forward(self, view: Tensor) -> Tensor:
        """Describe views of the ground.

        Args:
            view: (N, colours + 1, H, W) float32, H, W >= 33: gray, or red, green and blue, in [0, 1] times mask,
                and mask (1 seen, 0 unseen).

        Returns:
            (N, dim, (H - 33) // 2 + 1, (W - 33) // 2 + 1) float32 of unit length over ``dim``; entry (r, c)
            describes the disc centred at pixel (16 + 2 r, 16 + 2 c).
        """
        return self.describe(self.contrast(view))

    def describe(self, contrast: Tensor) -> Tensor:
        """The same from what ``self.contrast`` gave, float32."""
        return unit_length(self.head(self.blocks(self.stem(contrast))))

    def widened(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A state of a gray network of this size, to start from: it says nothing of red and blue."""
        first = "stem.0.0.weight"
        weight = torch.zeros_like(self.stem[0][0].weight)
        weight[:, : state[first].shape[1]] = state[first]
        return {**state, first: weight}

    @property
    def untouched(self) -> tuple[nn.Module, ...]:
        """What pruning leaves alone."""
        return (self.contrast,)

    @staticmethod
    def widths_in(state: Mapping[str, Tensor]) -> dict[str, list[int]]:
        """The arguments that make a network of this state's shapes."""
        layers = ["stem.0.0", "stem.2.0", "stem.4.0", *(f"blocks.{i}.first.0" for i in range(BLOCKS))]
        return {"widths": [len(state[f"{layer}.weight"]) for layer in layers]}


def unit_length(x: Tensor) -> Tensor:
    """Scale (N, D, h, w) to unit L2 length over D, in float32 at least; a zero vector stays near zero."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x / torch.sqrt((x * x).sum(dim=1, keepdim=True) + 1e-12)


fx.wrap("unit_length")  # one step for torch.fx, which can't ask a traced tensor for its dtype


def flops_per_pixel(width: int, dim: int, scales: int = 1) -> float:
    """Floating-point operations (two a multiply-add) that a large map costs per map pixel."""
    normalization = scales * 3 * 2 * (2 * HALO_PX + 1)  # as a convolution would; see LocalContrast
    first = 9 * (scales + 1) * (width // 4)
    after_stride = 9 * ((width // 4) * (width // 2) + (width // 2) * width + 6 * width * width) + width * dim
    return 2 * (normalization + first + after_stride / CELL_PX**2)
