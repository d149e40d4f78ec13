"""Small networks on which the removal of dead channels is proven: every family of the field, and random mixtures.

Channels are killed as training kills them: filters of zeros whose biases and normalizations stay, so that a dead
channel still passes on a value.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE_PX = 12


class ConvNorm(nn.Sequential):
    """A convolution, a normalization or a bias, and an activation."""

    def __init__(
        self, taken: int, made: int, kernel: int = 3, stride: int = 1, groups: int = 1, padded: bool = True,
        norm: bool = True, activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:  # fmt: skip
        padding = kernel // 2 if padded else 0
        conv = nn.Conv2d(taken, made, kernel, stride, padding, groups=groups, bias=not norm)
        super().__init__(conv, *([nn.BatchNorm2d(made)] if norm else []), activation())


class Residual(nn.Module):
    """ResNet's block with its three shortcuts: identity, A (subsampled, zeros added), B (a projection)."""

    def __init__(self, taken: int, made: int, stride: int = 1, option: str = "B") -> None:
        super().__init__()
        self.option, self.missing, self.stride = option, made - taken, stride
        self.first = ConvNorm(taken, made, stride=stride)
        self.second = ConvNorm(made, made, activation=nn.Identity)
        if option == "B":
            self.shortcut = ConvNorm(taken, made, kernel=1, stride=stride, activation=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = self.second(self.first(x))
        if self.option == "B":
            return functional.relu(y + self.shortcut(x))
        before = self.missing // 2
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.missing - before))
        return functional.relu(y + shortcut)


class Depthwise(nn.Module):
    """MobileNet's inverted residual."""

    def __init__(self, channels: int, wide: int, kernel: int = 3) -> None:
        super().__init__()
        self.expand = ConvNorm(channels, wide, kernel=1, activation=nn.ReLU6)
        self.filter = ConvNorm(wide, wide, kernel=kernel, groups=wide, activation=nn.ReLU6)
        self.project = ConvNorm(wide, channels, kernel=1, activation=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return x + self.project(self.filter(self.expand(x)))


class Grouped(nn.Module):
    """ResNeXt's block."""

    def __init__(self, channels: int, wide: int, groups: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, wide, kernel=1)
        self.split = ConvNorm(wide, wide, groups=groups, norm=False)
        self.widen = ConvNorm(wide, channels, kernel=1, activation=nn.Identity)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return functional.relu(x + self.widen(self.split(self.reduce(x))))


class UNet(nn.Module):
    """One step down and up, joined by concatenation."""

    def __init__(self, channels: int, wide: int, transposed: bool) -> None:
        super().__init__()
        self.before = ConvNorm(channels, channels, norm=False)
        self.down = ConvNorm(channels, wide)
        up = nn.ConvTranspose2d(wide, wide, 2, stride=2) if transposed else nn.Upsample(scale_factor=2)
        self.up = nn.Sequential(nn.MaxPool2d(2), ConvNorm(wide, wide), up)
        self.after = ConvNorm(channels + wide, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape, H and W even."""
        skip = self.before(x)
        return self.after(torch.cat([skip, self.up(self.down(x))], dim=1))


class Small(nn.Module):
    """A stem, some blocks, and a head: means and a linear layer, or a linear layer that sees every pixel."""

    def __init__(self, blocks: list[nn.Module], channels_in: int, channels: int, flat: bool, side_px: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, channels_in)
        self.blocks = nn.Sequential(*blocks)
        self.flat = flat
        self.head = nn.Linear(channels * side_px**2 if flat else channels, 5)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, 12, 12) -> (N, 5)."""
        x = self.blocks(self.stem(image))
        return self.head(x.flatten(1) if self.flat else x.mean(dim=(2, 3)))


def folded(model: nn.Module) -> nn.Module:
    """The network with its normalizations folded into the convolutions before them."""
    for module in model.modules():
        if isinstance(module, ConvNorm) and isinstance(module[1], nn.BatchNorm2d):
            module[0] = nn.utils.fuse_conv_bn_eval(module[0].eval(), module[1].eval())
            module[1] = nn.Identity()
    return model


FAMILIES: dict[str, Callable[[], list[nn.Module]]] = {
    "plain": lambda: [ConvNorm(16, 24), ConvNorm(24, 16, padded=False, norm=False), ConvNorm(16, 16, 1)],
    "residual A": lambda: [Residual(16, 16, option="A"), Residual(16, 32, 2, "A"), Residual(32, 32, option="A")],
    "residual B": lambda: [Residual(16, 16, option="B"), Residual(16, 32, 2, "B"), Residual(32, 32, option="A")],
    "depthwise": lambda: [Depthwise(16, 48), ConvNorm(16, 16, groups=16, padded=False), Depthwise(16, 32, 5)],
    "grouped": lambda: [Grouped(16, 32, 4), Grouped(16, 16, 2)],
    "concatenating": lambda: [UNet(16, 24, transposed=False), UNet(16, 24, transposed=True)],
}


def family(name: str, seed: int, *, fold: bool = False) -> nn.Module:
    """A network of one family, randomly initialized, with dead channels; in evaluation mode."""
    torch.manual_seed(seed)
    blocks = FAMILIES[name]()
    model = _joined(blocks, 16, flat=seed % 2 == 1)
    return _killed(_worn(model, seed), seed, fold)


def random_network(seed: int) -> nn.Module:
    """A random mixture of all blocks, with dead channels; in evaluation mode."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    channels = first = int(rng.choice([8, 12, 16]))
    blocks: list[nn.Module] = []
    for _ in range(int(rng.integers(1, 5))):
        kind = int(rng.integers(6))
        wide = int(rng.choice([8, 16, 24]))
        if kind == 0:
            padded, norm = bool(rng.integers(2)), bool(rng.integers(2))
            blocks.append(ConvNorm(channels, wide, int(rng.choice([1, 3])), padded=padded, norm=norm))
            channels = wide
        elif kind == 1:
            blocks.append(Residual(channels, channels, option="A"))
        elif kind == 2:
            more = int(rng.integers(0, 9))
            blocks.append(Residual(channels, channels + more, int(rng.integers(1, 3)), str(rng.choice(["A", "B"]))))
            channels += more
        elif kind == 3:
            blocks.append(Depthwise(channels, wide, int(rng.choice([3, 5]))))
        elif kind == 4:
            blocks.append(Grouped(channels, wide, int(rng.choice([2, 4]))))
        else:
            blocks += [nn.AdaptiveAvgPool2d(8), UNet(channels, wide, bool(rng.integers(2)))]
    model = _joined(blocks, first, flat=bool(rng.integers(2)))
    return _killed(_worn(model, seed), seed, fold=bool(rng.integers(2)))


def _joined(blocks: list[nn.Module], first: int, flat: bool) -> nn.Module:
    with torch.no_grad():
        out = nn.Sequential(*blocks).eval()(torch.zeros(1, first, SIDE_PX, SIDE_PX))
    return Small(blocks, first, out.shape[1], flat, out.shape[-1]).eval()


def _worn(model: nn.Module, seed: int) -> nn.Module:
    """As after training: every normalization has statistics of its own."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model


def _killed(model: nn.Module, seed: int, fold: bool) -> nn.Module:
    """Filters set to zero, a third of each layer's or nearly all; here and there a normalization's scale."""
    generator = torch.Generator().manual_seed(seed + 1)
    model = folded(model) if fold else model
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)):
            share = float(torch.rand((), generator=generator)) ** 2
            axis = 1 if isinstance(module, nn.ConvTranspose2d) else 0
            dead = torch.rand(module.weight.shape[axis], generator=generator) < share
            if isinstance(module, nn.BatchNorm2d):
                dead &= torch.rand(dead.shape, generator=generator) < 0.2
            module.weight.data[(slice(None), dead) if axis else dead] = 0.0
    return model
