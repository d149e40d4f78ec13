"""Dead channels are taken out of a network, and the result is proven to be the same function.

A channel is dead when it always holds the same value, as one does whose filter is zero, or when nobody looks at it.
Its value, if it is not zero, is still passed on: by a bias, a normalization, through a sum. So it is handed over
before the channel goes:

- to the bias of whoever reads it (to the running mean of the batch normalization that follows, where there is no
  bias), when that reader has no border: the channel adds the same at every position;
- where a reader pads, to one dead channel that stays and carries for all: with the weights w' = sum of c_i / c_j w_i
  it adds what all of them added, at the border too. This is why no map of biases is needed, and the result is the
  same architecture with other widths.

Sums, concatenations, depthwise and grouped convolutions, and ResNet's padding shortcut (option A) are followed by
:mod:`kittiwake_training.pruning.channels`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.channels import Channels, Product, read_channels
from kittiwake_training.pruning.constants import weight_by_channel

BOUND = 1e-5
"""How far the outputs may lie apart, in float64."""


@dataclass(frozen=True)
class Removal:
    """A network without its dead channels.

    Args:
        network: float64, evaluation mode; its state has the names of the original's.
        removed: how many channels went, by name of the convolution or linear layer that made them.
        carriers: how many dead channels stayed to carry the values of others.
    """

    network: fx.GraphModule
    removed: dict[str, int]
    carriers: int


def remove_dead_channels(
    model: nn.Module, example: Tensor, *, multiple: int = 1, opaque: Collection[nn.Module] = ()
) -> Removal:
    """Take out what is dead.

    Args:
        model: is left as it is; evaluation mode is meant.
        example: (N, C, ...) an input of its shape.
        multiple: channels stay in multiples of this, as far as there are so many; some dead ones then stay.
        opaque: modules of ``model`` that are not looked into; they, and what they take in and give out, stay.

    Raises:
        TrainingError: the network branches on its data, or uses weights twice; the module is named.
    """
    names = [name for name, module in model.named_modules() if module in set(opaque)]
    double = copy.deepcopy(model).double().eval()
    kept_whole = [double.get_submodule(name) for name in names]
    with torch.no_grad():
        channels = read_channels(double, example.double(), kept_whole)
        plan = _Plan(channels)
        plan.choose(multiple)
        _hand_over(channels, plan)
        removed = _cut(channels, plan)
    return Removal(channels.graph, removed, len(set(plan.carrier.values())))


def largest_difference(one: nn.Module, other: nn.Module, inputs: Iterable[Tensor]) -> float:
    """The largest absolute difference of two networks' outputs on the same inputs, in float64; infinite when one
    of them gives NaN."""
    largest = 0.0
    one, other = (copy.deepcopy(model).double().eval() for model in (one, other))
    with torch.no_grad():
        for given in inputs:
            for a, b in zip(_tensors(one(given.double())), _tensors(other(given.double())), strict=True):
                if a.shape != b.shape:
                    return float("inf")
                difference = (a - b).abs().amax() if a.numel() else torch.zeros(())
                largest = max(largest, float(difference.nan_to_num(nan=float("inf"))))
    return largest


def prove(dense: nn.Module, removed: nn.Module, example: Tensor, *, trials: int = 4, seed: int = 0) -> float:
    """Compare both on random inputs of the example's shape, uniform in its range and beyond.

    Returns:
        The largest difference.

    Raises:
        TrainingError: it is above :data:`BOUND`.
    """
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.rand(example.shape, generator=generator, dtype=torch.float64) for _ in range(trials)]
    inputs += [torch.randn(example.shape, generator=generator, dtype=torch.float64) for _ in range(trials)]
    error = largest_difference(dense, removed, [given.to(example.device) for given in inputs])
    if not error <= BOUND:
        raise TrainingError(
            f"the network without its dead channels differs by {error:.3g}; allowed are {BOUND:g}",
            "name the module that this doesn't understand as opaque, and report it",
        )
    return error


class _Plan:
    """Which channels go, and who carries what they held.

    Channels are named by their roots. ``places`` lists, for each, where it is read: (product, position).
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self.gone: set[int] = set()
        self.carrier: dict[int, int] = {}
        self.places: dict[int, list[tuple[Product, int]]] = {}
        self.makers: dict[int, list[str]] = {}
        for product in channels.products:
            if not product.depthwise:
                for position, root in enumerate(channels.roots(product.taken.ids)):
                    self.places.setdefault(root, []).append((product, position))
            for position, root in enumerate(channels.roots(product.made.ids)):
                self.makers.setdefault(root, []).append(f"{product.name}{_group_of_made(product, position)}")
        for padding in channels.paddings:
            for ids, side in ((padding.before, "before"), (padding.after, "after")):
                for root in channels.roots(ids):
                    self.makers.setdefault(root, []).append(f"{padding.node}.{side}")

    def choose(self, multiple: int) -> None:
        """Fill ``gone`` and ``carrier``."""
        fixed = {root for ids in self.channels.fixed for root in self.channels.roots(ids)}
        self.gone = {root for root in self.makers if root not in fixed and self._is_dead(root)}
        self._choose_carriers()
        self._round(multiple)
        self._balance()

    def needs_carrier(self, root: int) -> bool:
        """Whether a reader with a border sees a value that isn't zero."""
        return any(
            not product.foldable and _reads(product, position) and product.taken.constant[position] != 0
            for product, position in self.places.get(root, ())
        )

    def _is_dead(self, root: int) -> bool:
        return all(
            not _reads(product, position) or not product.taken.constant[position].isnan()
            for product, position in self.places.get(root, ())
        )

    def _choose_carriers(self) -> None:
        """Of the dead channels that the same readers see, one stays for those that must be carried."""
        families: dict[tuple[Any, ...], list[int]] = {}
        for root in sorted(self.gone):
            if self.needs_carrier(root):
                families.setdefault(self._family(root), []).append(root)
        for members in families.values():
            carrier = next((root for root in members if self._can_carry(root)), None)
            for root in members:
                if carrier is None or root == carrier:
                    self.gone.discard(root)
                else:
                    self.carrier[root] = carrier

    def _family(self, root: int) -> tuple[Any, ...]:
        return tuple((product.name, _group_of_taken(product, position)) for product, position in self.places[root])

    def _can_carry(self, root: int) -> bool:
        return all(
            product.foldable or product.taken.constant[position].abs() > 1e-6 for product, position in self.places[root]
        )

    def _round(self, multiple: int) -> None:
        """Let dead channels stay until the rest is a multiple; at least one stays."""
        classes: dict[tuple[str, ...], list[int]] = {}
        for root, makers in self.makers.items():
            classes.setdefault(tuple(makers), []).append(root)
        for members in classes.values():
            going = [root for root in members if root in self.gone]
            rest = max(len(members) - len(going), 1)
            stay = min(-(-rest // multiple) * multiple, len(members))
            self.gone -= set(going[len(members) - stay :])
        self.carrier = {root: carrier for root, carrier in self.carrier.items() if root in self.gone}

    def _balance(self) -> None:
        """The groups of a grouped convolution stay equally large on both sides, and none is emptied."""
        grouped = [p for p in self.channels.products if getattr(p.module, "groups", 1) > 1 and not p.depthwise]
        before = None
        while before != len(self.gone):
            before = len(self.gone)
            for product in grouped:
                for ids in (product.taken.ids, product.made.ids):
                    groups = torch.tensor(self.channels.roots(ids)).reshape(product.module.groups, -1).tolist()
                    most = min(min(sum(root in self.gone for root in group), len(group) - 1) for group in groups)
                    for group in groups:
                        self.gone -= set([root for root in group if root in self.gone][most:])
        self.carrier = {root: carrier for root, carrier in self.carrier.items() if root in self.gone}


def _hand_over(channels: Channels, plan: _Plan) -> None:
    """Give the readers of dead channels, in bias or in a carrier's weights, what those passed on."""
    for product in channels.products:
        if product.depthwise:
            continue
        weight = weight_by_channel(product.module)
        roots = channels.roots(product.taken.ids)
        shift = torch.zeros(weight.shape[0], dtype=torch.float64)
        for position, root in enumerate(roots):
            constant = product.taken.constant[position]
            if root not in plan.gone or constant.isnan() or constant == 0:
                continue
            rows, column = _seen_by(product, position, weight)
            if product.foldable:
                shift[rows] += constant * weight[rows, column].sum(dim=1)
            elif _reads(product, position):
                carrier = _same_occurrence(roots, position, plan.carrier[root])
                _, target = _seen_by(product, carrier, weight)
                weight[rows, target] += constant / product.taken.constant[carrier] * weight[rows, column]
        if shift.any():
            _add_bias(channels, product, shift)


def _add_bias(channels: Channels, product: Product, shift: Tensor) -> None:
    module = product.module
    if module.bias is not None:
        module.bias += shift
    elif product.norm:  # so that a layer without bias stays one
        channels.graph.get_submodule(product.norm).running_mean -= shift
    else:
        module.bias = nn.Parameter(shift)


def _cut(channels: Channels, plan: _Plan) -> dict[str, int]:
    """Take the channels out of all tensors; how many went, by the layer that made them."""

    def kept(ids: Tensor) -> Tensor:
        return torch.tensor([root not in plan.gone for root in channels.roots(ids)], dtype=torch.bool)

    removed = {}
    for product in channels.products:
        stay = kept(product.made.ids)
        _cut_product(product, kept(product.taken.ids), stay)
        if not stay.all():
            removed[product.name] = int((~stay).sum())
    for name, ids in channels.norms.items():
        norm, stay = channels.graph.get_submodule(name), kept(ids)
        for entry in ("weight", "bias", "running_mean", "running_var"):
            _replace(norm, entry, lambda tensor, stay=stay: tensor[stay])
        norm.num_features = int(stay.sum())
    nodes = {node.name: node for node in channels.graph.graph.nodes}
    for padding in channels.paddings:
        node = nodes[padding.node]
        along = tuple(int(kept(ids).sum()) for ids in (padding.before, padding.after))
        node.args = (node.args[0], (*node.args[1][:4], *along), *node.args[2:])
    channels.graph.recompile()
    return removed


def _cut_product(product: Product, taken: Tensor, made: Tensor) -> None:
    module: Any = product.module
    if product.depthwise:
        _replace(module, "weight", lambda weight: weight[made])
        module.groups = module.in_channels = module.out_channels = int(made.sum())
    elif isinstance(module, nn.ConvTranspose2d):
        _replace(module, "weight", lambda weight: weight[taken][:, made])
        module.in_channels, module.out_channels = int(taken.sum()), int(made.sum())
    elif isinstance(module, nn.Linear):
        _replace(module, "weight", lambda weight: weight[made][:, taken])
        module.in_features, module.out_features = int(taken.sum()), int(made.sum())
    else:
        rows = made.nonzero()[:, 0]
        in_group = taken.reshape(module.groups, -1)[rows // (len(made) // module.groups)]
        each = int(in_group[0].sum())
        _replace(module, "weight", lambda w: w[made][in_group].reshape(len(rows), each, *w.shape[2:]))
        module.in_channels, module.out_channels = int(taken.sum()), len(rows)
    _replace(module, "bias", lambda bias: bias[made])


def _replace(module: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
    tensor = getattr(module, name)
    if isinstance(tensor, nn.Parameter):
        setattr(module, name, nn.Parameter(change(tensor.detach()).clone(), requires_grad=tensor.requires_grad))
    elif tensor is not None:
        setattr(module, name, change(tensor).clone())


def _reads(product: Product, position: int) -> bool:
    weight = weight_by_channel(product.module)
    rows, column = _seen_by(product, position, weight)
    return bool((weight[rows, column] != 0).any())


def _seen_by(product: Product, position: int, weight: Tensor) -> tuple[slice, int]:
    """Rows of the weights that see a position of the input, and the column in which they do."""
    group = _group_of_taken(product, position)
    each = weight.shape[0] // getattr(product.module, "groups", 1)
    return slice(group * each, (group + 1) * each), position % weight.shape[1]


def _group_of_taken(product: Product, position: int) -> int:
    return position * getattr(product.module, "groups", 1) // len(product.taken.ids)


def _group_of_made(product: Product, position: int) -> int:
    return 0 if product.depthwise else position * getattr(product.module, "groups", 1) // len(product.made.ids)


def _same_occurrence(roots: list[int], position: int, carrier: int) -> int:
    """Where the carrier stands that takes over a position: its first for the first, its second for the second."""
    nth = roots[:position].count(roots[position])
    return [i for i, root in enumerate(roots) if root == carrier][nth]


def _tensors(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)
