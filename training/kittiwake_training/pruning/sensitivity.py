"""Shrinking what the loss is insensitive to, while training: LOBSTER for weights, SeReNe for channels.

LOBSTER (Tartaglione et al., "Loss-based sensitivity regularization", 2020, arXiv 2011.09905) decays a weight by its
insensitivity, w <- w - strength * w * relu(1 - |dL/dw|): what the loss doesn't feel goes to zero, what it feels
stays. SeReNe (arXiv 2102.03773) does so for whole neurons; here a channel's sensitivity is the mean of its filter's,
so that whole channels fade and can be removed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


@torch.no_grad()
def shrink_insensitive(module: nn.Module, strength: float, *, channels: bool = True) -> None:
    """One step of the decay, between a loss's gradients and the optimizer's step.

    Args:
        module: its convolutions' and linear layers' weights are changed in place; those without gradients stay.
        strength: the decay of a weight that the loss doesn't feel at all; 1e-4 in the paper.
        channels: a filter shrinks as a whole (SeReNe), or each weight by itself (LOBSTER).
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)) and part.weight.grad is not None:
            sensitivity = part.weight.grad.abs()
            if channels:
                sensitivity = _by_channel(sensitivity, 1 if isinstance(part, nn.ConvTranspose2d) else 0)
            part.weight -= strength * part.weight * functional.relu(1 - sensitivity)


def _by_channel(values: Tensor, axis: int) -> Tensor:
    others = [i for i in range(values.ndim) if i != axis]
    return values.mean(dim=others, keepdim=True)
