"""One round of structured pruning: which channels go so that a cost falls to a limit, and taking them out.

Channels go in blocks of ``multiple``, the least important of a group first. Of all groups the one goes next whose
block loses the least importance for what it saves (as in HALP, Shen et al., NeurIPS 2022, arXiv 2110.10811): a
latency target then prunes where time is spent. The chosen channels are set to zero, the zeros are removed, and the
removal is proven, before anything is trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.cost import Cost, Layer, layers_of
from kittiwake_training.pruning.groups import ChannelGroup, find_groups, resize, zero_channels
from kittiwake_training.pruning.remove import Removal, prove, remove_dead_channels

IMPORTANCES: dict[str, Callable[[], Callable[[object], Tensor]]] = {
    "magnitude": torch_pruning.importance.GroupMagnitudeImportance,
    # Changes of the loss add up, over layers too: nothing is normalized.
    "taylor": lambda: torch_pruning.importance.GroupTaylorImportance(group_reduction="sum", normalizer=None),
    "lamp": torch_pruning.importance.LAMPImportance,
    "sensitivity": torch_pruning.importance.GroupMagnitudeImportance,
}
"""Measures of torch-pruning: of the filters' norms (Li et al., ICLR 2017), of the first order of the loss (Molchanov
et al., CVPR 2019), of norms relative to the larger ones of their layer (Lee et al., ICLR 2021); and again norms, once
training has shrunk what the loss is insensitive to (see sensitivity.py)."""


@dataclass(frozen=True)
class Round:
    """What one round gave.

    Args:
        removal: the network without the chosen channels, float64.
        error: largest difference between it and the network in which they are zero.
        layers: of the smaller network.
    """

    removal: Removal
    error: float
    layers: list[Layer]


def prune_once(
    model: nn.Module,
    example: Tensor,
    cost: Cost,
    limit: float,
    *,
    importance: str = "magnitude",
    multiple: int = 8,
    untouched: Collection[nn.Module] = (),
) -> Round:
    """Remove the least important channels until the cost is at most the limit.

    Args:
        model: is left as it is, its gradients too; "taylor" takes the importances from the gradients that it has.
        example: (N, C, ...) an input, on the model's device.
        cost: of a network's layers.
        limit: in the cost's unit.
        importance: a key of :data:`IMPORTANCES`.
        multiple: channels stay in multiples of this.
        untouched: modules of the model that stay as they are.

    Raises:
        TrainingError: the network can't be pruned (see :func:`find_groups`), or the limit not be reached.
    """
    groups = find_groups(model, example, untouched)
    layers = layers_of(model, example)
    measure = IMPORTANCES[importance]()
    scores = [measure(group.found).detach().double().cpu() for group in groups]
    counts = choose_counts(groups, scores, layers, cost, limit, multiple)
    zeroed = copy.deepcopy(model).cpu()
    for group, score, count in zip(groups, scores, counts, strict=True):
        zero_channels(zeroed, group, score.argsort()[:count].tolist())
    names = [name for name, module in model.named_modules() if module in set(untouched)]
    removal = remove_dead_channels(
        zeroed, example.cpu(), multiple=multiple, opaque=[zeroed.get_submodule(name) for name in names]
    )
    error = prove(zeroed, removal.network, example.cpu())
    smaller = layers_of(removal.network, example.cpu().double())
    if cost(smaller) > limit * (1 + 1e-6):
        raise TrainingError(
            f"channels of {', '.join(_stayed(smaller, resize(layers, groups, counts)))} stayed though they were chosen",
            "the dependency graph and the removal read the network differently there: list the module as untouched",
        )
    return Round(removal, error, smaller)


def choose_counts(
    groups: Sequence[ChannelGroup],
    scores: Sequence[Tensor],
    layers: Sequence[Layer],
    cost: Cost,
    limit: float,
    multiple: int = 8,
) -> list[int]:
    """How many channels of each group go.

    Args:
        groups: what can go.
        scores: for each group (channels,) importances, comparable over groups.
        layers: of the network as it is.
        cost: of a network's layers.
        limit: in the cost's unit.
        multiple: of what stays in each group, and the least that stays.

    Raises:
        TrainingError: the limit lies below what the smallest network costs; it says what can be reached.
    """
    ordered = [score.sort().values.cumsum(0) for score in scores]
    most = [max(group.channels - multiple, 0) for group in groups]
    least_cost, whole = cost(resize(layers, groups, most)), cost(layers)
    if least_cost > limit:
        raise TrainingError(
            f"the target can't be reached: with {multiple} channels left in each of {len(groups)} groups the network "
            f"still costs {least_cost / whole:.3g} of what it costs now, and {limit / whole:.3g} is asked for",
            f"ask for a little more than {least_cost / whole:.3g}, or start from a network of other proportions",
        )
    gone = [0] * len(groups)
    now = whole
    while now > limit:
        best, best_worth = -1, float("inf")
        for i in range(len(groups)):
            after = _next(groups[i].channels, gone[i], multiple)
            if after > most[i]:
                continue
            saved = now - cost(resize(layers, groups, [*gone[:i], after, *gone[i + 1 :]]))
            lost = float(ordered[i][after - 1] - (ordered[i][gone[i] - 1] if gone[i] else 0.0))
            worth = lost / max(saved / whole, 1e-9)
            if worth < best_worth:
                best, best_worth = i, worth
        gone[best] = _next(groups[best].channels, gone[best], multiple)
        now = cost(resize(layers, groups, gone))
    return gone


def _next(channels: int, gone: int, multiple: int) -> int:
    """What has gone after the next block: the first brings the rest to a multiple."""
    rest = channels - gone
    return gone + (rest % multiple or multiple)


def _stayed(found: Sequence[Layer], expected: Sequence[Layer]) -> list[str]:
    return [f"'{a.name}'" for a, b in zip(found, expected, strict=True) if a.made > b.made or a.taken > b.taken]


def accumulate_gradients(model: nn.Module, losses: Callable[[nn.Module, int], Tensor], batches: int) -> None:
    """Fill the gradients for the importance "taylor": their mean over some batches, normalizations frozen.

    Raises:
        TrainingError: a loss is not finite.
    """
    model.zero_grad(set_to_none=True)
    training = model.training
    model.eval()
    for step in range(batches):
        loss = losses(model, step) / batches
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss is {float(loss.detach())} before any channel was removed", "check the checkpoint"
            )
        loss.backward()
    model.train(training)
