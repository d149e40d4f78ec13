"""The contrastive loss: in a batch, each query must find its own map disc among all the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(
    queries: Tensor, maps: Tensor, excluded: Tensor, usable: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE (van den Oord et al., arXiv 1807.03748), query to map and map to query.

    Args:
        queries: (N, D) unit vectors; row i belongs with row i of ``maps``.
        maps: (N, D) unit vectors.
        excluded: (N, N) bool; true where pair (i, j) is neither right nor wrong: too near a neighbour.
        usable: (N,) bool; false for a pair that shows too little ground, which then counts nowhere.
        temperature: what a cosine is divided by; the quotient is later read as a log-likelihood ratio.

    Returns:
        The loss, and the share of usable queries whose own map disc scores highest: two scalars.
    """
    logits = queries.float() @ maps.float().T / temperature
    eye = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
    dropped = (excluded | ~usable[None, :] | ~usable[:, None]) & ~eye
    logits = logits.masked_fill(dropped, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    both = functional.cross_entropy(logits, target, reduction="none") + functional.cross_entropy(
        logits.T, target, reduction="none"
    )
    weight = usable.float() / usable.sum().clamp(min=1)
    right = (logits.argmax(dim=1) == target).float()
    return 0.5 * (both * weight).sum(), (right * weight).sum()
