"""The hand-made descriptor: where edges of which direction lie in the disc. Nothing is learned.

The same interface as the network, so that it is exported, indexed and measured through the same path:

1. local contrast as in the network, then central-difference gradients;
2. four soft bins of edge direction, modulo a half turn: snow or harvest may swap light and dark, but an edge
   stays an edge;
3. each is pooled by twelve Gaussians: four around the centre, eight on a ring;
4. square root (so that one strong edge doesn't drown the rest), mean removed, unit length.

It is HOG (Dalal and Triggs, CVPR 2005) with DAISY's layout (Tola et al., PAMI 2010), turned into
convolutions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kittiwake_training.localization.model import CELL_PX, DISC_PX, LocalContrast, unit_length

DIRECTIONS = 4
RINGS = ((4, 5.0, 2.5), (8, 11.0, 3.0))
"""(number of Gaussians, their distance from the centre, their sigma), the last two in pixels."""


class GradientDescriptor(nn.Module):
    """Histograms of edge direction over a polar layout; see the module's text. 48 numbers, 25 kFLOP a
    pixel."""

    dim = DIRECTIONS * sum(count for count, _, _ in RINGS)
    colours = 1

    def __init__(self) -> None:
        super().__init__()
        self.contrast = LocalContrast()
        difference = torch.tensor([[0.0, 0.0, 0.0], [-0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
        self.register_buffer("differences", torch.stack([difference, difference.T])[:, None], persistent=False)
        self.register_buffer("regions", _regions().repeat(DIRECTIONS, 1, 1)[:, None], persistent=False)
        angles = torch.arange(DIRECTIONS) * (2 * math.pi / DIRECTIONS)
        self.register_buffer("cosines", angles.cos()[None, :, None, None], persistent=False)
        self.register_buffer("sines", angles.sin()[None, :, None, None], persistent=False)

    def forward(self, view: Tensor) -> Tensor:
        """(N, 2, H, W) float32 gray times mask, mask -> (N, 48, (H-33)//2+1, (W-33)//2+1), unit length."""
        return self.describe(self.contrast(view))

    def describe(self, contrast: Tensor) -> Tensor:
        """The same from what ``self.contrast`` gave, (N, 2, H, W) float32."""
        gradient = functional.conv2d(contrast[:, :1], self.differences)
        # At the edge of what is seen there is a step that the ground doesn't have.
        seen = -functional.max_pool2d(-contrast[:, 1:], 3, stride=1)
        across, down = gradient[:, :1], gradient[:, 1:]
        power = across * across + down * down
        # Doubling the angle makes it the same for an edge and its negative.
        double_cosine, double_sine = across * across - down * down, 2 * across * down
        aligned = functional.relu(double_cosine * self.cosines + double_sine * self.sines)
        edges = seen * aligned / torch.sqrt(power + 1e-6)
        pooled = functional.conv2d(edges, self.regions, stride=CELL_PX, groups=DIRECTIONS)
        vector = torch.sqrt(pooled.clamp(min=0.0) + 1e-6)
        return unit_length(vector - vector.mean(dim=1, keepdim=True))


def _regions() -> Tensor:
    """(12, 31, 31) float32 Gaussians, each of sum one; 31 = the disc less what the gradient consumes."""
    half = (DISC_PX - 3) // 2
    axis = torch.arange(-half, half + 1, dtype=torch.float32)
    down, across = torch.meshgrid(axis, axis, indexing="ij")
    inside = across**2 + down**2 <= (half + 0.5) ** 2
    kernels = []
    for count, distance_px, sigma_px in RINGS:
        for step in range(count):
            angle = 2 * math.pi * (step + 0.5) / count
            squared = (across - distance_px * math.cos(angle)) ** 2 + (down - distance_px * math.sin(angle)) ** 2
            kernel = torch.exp(-0.5 * squared / sigma_px**2) * inside
            kernels.append(kernel / kernel.sum())
    return torch.stack(kernels)
