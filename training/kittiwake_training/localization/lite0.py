"""A descriptor on EfficientNet-Lite0's first ten blocks: separable convolutions, weights of ImageNet to start from.

It sees what :class:`DescriptorCNN` sees, a disc of 33 px, and gives one vector every 2 px. No convolution is padded
and none has a stride, so that a patch alone and the same patch inside a map agree; the receptive field of the stem
and ten blocks is 31 px, so one pixel is cropped at each side, and every second result is kept. Without the strides it
is the network of public weights on an image of twice the size, as far as the first stage goes; the rest is for
training to settle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from kittiwake_training.efficientnet_lite0 import (
    STAGES,
    Block,
    Stage,
    block_widths,
    pretrained,
    published_blocks,
)
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.model import CELL_PX, LocalContrast, unit_length

KEY = "localization.lite0"
"""Of the registry of models."""
DEPTH = 10
"""Blocks: stem and these see 31 px."""
_STEM = 32


class UnpaddedBlock(Block):
    """A block whose depthwise convolution isn't padded; the skip drops the border that it consumes."""

    def __init__(self, channels_in: int, wide: int, channels_out: int, stage: Stage, skips: bool) -> None:
        super().__init__(channels_in, wide, channels_out, stage, 1, skips)
        self._depthwise_conv = nn.Conv2d(wide, wide, stage.kernel, groups=wide, bias=False)
        self.border = stage.kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H - kernel + 1, W - kernel + 1)."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        b = self.border
        return y + x[:, :, b:-b, b:-b] if self.skips else y


class Lite0Descriptor(nn.Module):
    """The descriptor; with the interface of :class:`DescriptorCNN`.

    Args:
        dim: length of the descriptor.
        sigmas_px: two neighbourhoods of ``LocalContrast``; with the mask they stand where colours stood.
        stem: channels of the first convolution.
        blocks: for each of the ten blocks its depthwise channels and its output's; None for the published ones.
    """

    colours = 1

    def __init__(
        self,
        dim: int = 64,
        sigmas_px: Sequence[float] = (5.0, 12.0),
        stem: int = _STEM,
        blocks: Sequence[Sequence[int]] | None = None,
    ) -> None:
        super().__init__()
        counts = [(int(wide), int(out)) for wide, out in blocks] if blocks else published_blocks()[:DEPTH]
        if len(counts) != DEPTH or len(sigmas_px) != 2:
            raise TrainingError(f"{len(counts)} blocks and {len(sigmas_px)} neighbourhoods; expected {DEPTH} and 2")
        self.dim = dim
        self.contrast = LocalContrast(sigmas_px)
        self._conv_stem = nn.Conv2d(3, stem, 3, bias=False)
        self._bn0 = nn.BatchNorm2d(stem, eps=1e-3)
        kinds = [(stage, i > 0) for stage in STAGES for i in range(stage.repeats)][:DEPTH]
        made, channels = [], stem
        for (wide, out), (stage, skips) in zip(counts, kinds, strict=True):
            made.append(UnpaddedBlock(channels, wide, out, stage, skips))
            channels = out
        self._blocks = nn.Sequential(*made)
        self.head = nn.Conv2d(channels, dim, 1)

    def forward(self, view: Tensor) -> Tensor:
        """(N, 2, H, W) float32 gray times mask, mask -> (N, dim, (H - 33) // 2 + 1, (W - 33) // 2 + 1), unit length."""
        return self.describe(self.contrast(view))

    def describe(self, contrast: Tensor) -> Tensor:
        """The same from what ``self.contrast`` gave, (N, 3, H, W) float32."""
        x = functional.relu6(self._bn0(self._conv_stem(contrast[:, :, 1:-1, 1:-1])))
        return unit_length(self.head(self._blocks(x)[:, :, ::CELL_PX, ::CELL_PX]))

    def load_imagenet(self) -> None:
        """Take the public weights as far as there are such layers; the mask begins unseen.

        Raises:
            TrainingError: the weights are not installed.
        """
        own = self.state_dict()
        given = {name: tensor for name, tensor in pretrained().state_dict().items() if name in own}
        # Both contrasts stand for gray: what three colours together said is halved; the mask said nothing.
        gray = given["_conv_stem.weight"].sum(dim=1, keepdim=True)
        given["_conv_stem.weight"] = gray.repeat(1, 3, 1, 1) / 2
        given["_conv_stem.weight"][:, 2] = 0.0
        self.load_state_dict({**own, **given})

    @property
    def untouched(self) -> tuple[nn.Module, ...]:
        """What pruning leaves alone."""
        return (self.contrast,)

    @staticmethod
    def widths_in(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments that make a network of this state's shapes."""
        return {"stem": len(state["_conv_stem.weight"]), "blocks": block_widths(state, DEPTH)}
