"""A network that is deliberately awkward, which export and engines are tried on besides those that are shipped.

It has, at a small size, what makes export, float16 and int8 hard: attention over a grid of any height and width,
LayerNorm, a stream whose values don't fit into float16, Gaussian error units.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Awkward(nn.Module):
    """Patches of 4 px, two layers of attention over them, a vector for each patch.

    Args:
        width: channels.
        magnitude: of what the last norm sees; from 1e5 on it leaves float16, whose largest value is 65504.
    """

    def __init__(self, width: int = 32, magnitude: float = 1e5) -> None:
        super().__init__()
        self.magnitude = magnitude
        self.patches = nn.Conv2d(1, width, 4, stride=4)
        self.layers = nn.ModuleList(Attention(width) for _ in range(2))
        self.head = nn.Linear(width, 8)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 1, H, W) float32 in [0, 1] -> (N, 8, H // 4, W // 4)."""
        grid = self.patches(image)
        x = grid.flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        y = torch.tanh(self.head(functional.layer_norm(x * self.magnitude, x.shape[-1:])))
        return y.transpose(1, 2).unflatten(2, (grid.shape[2], grid.shape[3]))


class Attention(nn.Module):
    """A transformer's layer with its norms first, four heads."""

    heads = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, C) -> the same shape."""
        query, key, value = self.mix(self.first(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.narrow(functional.gelu(self.wide(self.second(x))))
