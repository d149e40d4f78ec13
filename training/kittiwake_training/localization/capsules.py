"""A capsule head for the descriptor: parts vote for wholes, and the wholes that are agreed upon describe the ground.

The backbone is ``DescriptorCNN``'s. Its features become primary capsules of 8 numbers, whose length says how sure a
part is and whose direction how it lies; each votes, through a matrix of its own, for every output capsule; three rounds
of routing by agreement weigh the votes (Sabour et al., arXiv 1710.09829, procedure 1); the output capsules side by
side, scaled to unit length, are the descriptor. A capsule head for place descriptors is ours, after the thesis
2405.19861, which localizes UAVs with capsules.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kittiwake_training.localization.model import DescriptorCNN, unit_length

PART = 8
"""Numbers in a capsule."""


class CapsuleDescriptor(DescriptorCNN):
    """See the module's text; the interface is ``DescriptorCNN``'s.

    Args:
        width: of the backbone.
        dim: length of the descriptor, a multiple of 8.
        sigmas_px: neighbourhoods of the local contrast.
        parts: primary capsules of each cell.
        rounds: of routing; the gradient flows through the last alone.
    """

    def __init__(
        self,
        width: int = 128,
        dim: int = 64,
        sigmas_px: Sequence[float] = (5.0, 12.0),
        parts: int = 24,
        rounds: int = 3,
    ) -> None:
        super().__init__(width, dim, sigmas_px)
        self.parts, self.rounds = parts, rounds
        self.head = nn.Conv2d(width, parts * PART, 1)
        self.votes = nn.Parameter(0.1 * torch.randn(parts, dim // PART, PART, PART))

    def describe(self, contrast: Tensor) -> Tensor:
        """(N, scales + 1, H, W) -> (N, dim, h, w) of unit length."""
        features = self.head(self.blocks(self.stem(contrast)))
        primary = squash(features.unflatten(1, (self.parts, PART)), 2)
        # (N, parts, wholes, PART, h, w): what each part says of each whole.
        votes = torch.einsum("pwoi,npihv->npwohv", self.votes, primary)
        wholes = route(votes, self.rounds)
        return unit_length(wholes.flatten(1, 2))


def squash(x: Tensor, dim: int) -> Tensor:
    """Keep a capsule's direction, bring its length into [0, 1): |s|²/(1+|s|²) s/|s| (1710.09829, eq. 1)."""
    square = x.float().square().sum(dim=dim, keepdim=True)
    return x.float() * (square / (1 + square) * torch.rsqrt(square + 1e-9))


def route(votes: Tensor, rounds: int) -> Tensor:
    """Routing by agreement: (N, parts, wholes, numbers, h, w) votes -> (N, wholes, numbers, h, w) capsules."""
    agreement = torch.zeros_like(votes[:, :, :, :1])
    for _ in range(rounds - 1):
        still = votes.detach()
        wholes = squash((torch.softmax(agreement, dim=2) * still).sum(dim=1), 2)
        agreement = agreement + (still * wholes[:, None]).sum(dim=3, keepdim=True)
    return squash((torch.softmax(agreement, dim=2) * votes).sum(dim=1), 2)
