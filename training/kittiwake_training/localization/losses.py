"""The contrastive loss: in a batch, each query must find its own map disc among all the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from kittiwake_training.distributed import ALONE, Peers


def info_nce(
    queries: Tensor, maps: Tensor, excluded: Tensor, usable: Tensor, temperature: float, peers: Peers = ALONE
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE (van den Oord et al., arXiv 1807.03748), query to map and map to query.

    Args:
        queries: (n, D) unit vectors; row i belongs with row i of ``maps``.
        maps: (n, D) unit vectors.
        excluded: (n, n) bool, symmetric; true where pair (i, j) is neither right nor wrong: too near a neighbour.
        usable: (n,) bool; false for a pair that shows too little ground, which then counts nowhere.
        temperature: what a cosine is divided by; the quotient is later read as a log-likelihood ratio.
        peers: processes that each hold such a share of the batch; wrong answers come from all of them.

    Returns:
        The loss, and the share of usable queries whose own map disc scores highest: two scalars, of the whole batch.
        The loss's gradient is that of this process's share (``Peers.for_backward``).
    """
    count, first = len(queries), peers.rank * len(queries)
    queries, maps = queries.float(), maps.float()
    everywhere = peers.gather(usable.float()) > 0
    target = torch.arange(first, first + count, device=queries.device)
    dropped = ~everywhere[None, :] | ~usable[:, None]
    dropped[:, first : first + count] |= excluded
    dropped[torch.arange(count), target] = False

    def classify(rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        logits = (rows @ peers.gather(columns).T / temperature).masked_fill(dropped, float("-inf"))
        return functional.cross_entropy(logits, target, reduction="none"), logits.argmax(dim=1) == target

    to_map, right = classify(queries, maps)
    to_query, _ = classify(maps, queries)
    weight = usable.float() / everywhere.sum().clamp(min=1)
    loss = peers.for_backward(0.5 * ((to_map + to_query) * weight).sum())
    return loss, peers.total((right.float() * weight).sum())
