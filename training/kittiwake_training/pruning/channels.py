"""Which channels of a network are one and the same, and which always hold the same value.

A network is traced with torch.fx and read once, from its inputs to its outputs. Every channel of every tensor gets
an id: a convolution makes new ones, what works on channels one by one (normalization, activations, depthwise
convolutions, pooling) hands them on, a sum makes those of both sides one. Beside the ids runs what is known of their
values: a filter of zeros gives its bias everywhere, a normalization and an activation turn one constant into
another, and a padded convolution of a constant is none at its border, unless the constant is zero.

What this reading does not know keeps all the channels that it takes in and gives out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.constants import UNKNOWN, is_foldable, normalized_constant, product_constant

PRODUCTS = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_ELEMENTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.LeakyReLU, nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.GELU,
    nn.ELU, nn.Identity, nn.Dropout, nn.Dropout2d,
)  # fmt: skip
_ELEMENTWISE_FUNCTIONS = {
    torch.relu, torch.sigmoid, torch.tanh, torch.clamp, torch.sqrt, functional.relu, functional.relu6,
    functional.hardtanh, functional.leaky_relu, functional.silu, functional.hardswish, functional.gelu,
    functional.dropout,
}  # fmt: skip
_ELEMENTWISE_METHODS = {"relu", "sigmoid", "tanh", "clamp", "sqrt", "float", "double", "contiguous", "clone"}
_PAIRWISE = {
    operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, torch.add, torch.sub,
    torch.mul, torch.div,
}  # fmt: skip
_POOLING_MODULES = (
    nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample, nn.UpsamplingNearest2d,
    nn.UpsamplingBilinear2d,
)  # fmt: skip
_POOLING_FUNCTIONS = {
    functional.max_pool2d, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d, functional.interpolate,
}  # fmt: skip
_SHAPES_ONLY = {"size", "dim"}


@dataclass(frozen=True)
class Flow:
    """The channels of a tensor, along its axis 1.

    Args:
        ids: (C,) int64; :meth:`Channels.roots` makes those equal that are one channel.
        constant: (C,) float64, what the channel holds at every position; NaN where that is not known.
    """

    ids: Tensor
    constant: Tensor


@dataclass(frozen=True)
class Product:
    """One convolution or linear layer: it reads channels, mixes them, and makes new ones.

    Args:
        name: of the module.
        module: the layer.
        taken: what it reads.
        made: what it gives; for a depthwise convolution the ids that it takes.
        depthwise: a filter for each channel: nothing is mixed.
        foldable: whether a constant input adds the same at every position, so that a bias can stand for it.
        norm: name of the batch normalization that alone reads the result; empty without one.
    """

    name: str
    module: nn.Module
    taken: Flow
    made: Flow
    depthwise: bool
    foldable: bool
    norm: str


@dataclass(frozen=True)
class Padding:
    """A call that adds channels of zeros before and after those that it takes (ResNet's shortcut A).

    Args:
        node: name of the call; its second argument ends with the two numbers.
        before, after: ids of the added channels.
    """

    node: str
    before: Tensor
    after: Tensor


@dataclass
class Channels:
    """What was read of a network.

    Args:
        graph: the traced network; its modules are the network's own.
        products: in the order in which they run.
        norms: ids by name of the normalization.
        paddings: calls that add channels.
        fixed: ids that must stay.
    """

    graph: fx.GraphModule
    products: list[Product] = field(default_factory=list)
    norms: dict[str, Tensor] = field(default_factory=dict)
    paddings: list[Padding] = field(default_factory=list)
    fixed: list[Tensor] = field(default_factory=list)
    _parent: list[int] = field(default_factory=list)

    def fresh(self, count: int) -> Tensor:
        """New ids."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        return torch.arange(first, first + count)

    def tie(self, one: Tensor, other: Tensor) -> None:
        """Make channels one, pair by pair."""
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            self._parent[self._root(a)] = self._root(b)

    def roots(self, ids: Tensor) -> list[int]:
        """One number for each, the same for all that are one channel."""
        return [self._root(i) for i in ids.tolist()]

    def _root(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i


def read_channels(model: nn.Module, example: Tensor, opaque: Collection[nn.Module] = ()) -> Channels:
    """Trace a network and follow its channels.

    Args:
        model: in evaluation mode, in float64.
        example: an input of its shape.
        opaque: modules that are not looked into; they, and what they take in and give out, stay as they are.

    Raises:
        TrainingError: the network branches on its data, or uses weights twice; the module is named.
    """
    refuse_shared_weights(model)
    tracer = _Tracer(frozenset(opaque))
    try:
        graph = fx.GraphModule(model, tracer.trace(model))
    except (fx.proxy.TraceError, TypeError, RuntimeError, AttributeError) as error:
        raise TrainingError(
            f"module '{tracer.inside}' ({tracer.kind}) can't be traced: {str(error).splitlines()[0]}",
            "what it computes may not depend on the values in its input",
        ) from error
    ShapeProp(graph).propagate(example)
    return _Reader(graph).read()


def refuse_shared_weights(model: nn.Module) -> None:
    """Raise when one tensor of weights stands in two places: what is cut for one would be cut for the other.

    Raises:
        TrainingError: it names both places.
    """
    seen: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            raise TrainingError(
                f"'{name}' and '{seen[id(parameter)]}' are the same weights; shared weights can't be pruned",
                "give each module weights of its own",
            )
        seen[id(parameter)] = name


class _Tracer(fx.Tracer):
    """Keeps layers and opaque modules whole, and remembers where it was when tracing failed."""

    def __init__(self, opaque: frozenset[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque
        self.inside, self.kind = "", ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.opaque or isinstance(m, PRODUCTS) or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        outer = self.inside, self.kind
        self.inside, self.kind = self.path_of_module(m), type(m).__name__
        result = super().call_module(m, forward, args, kwargs)
        self.inside, self.kind = outer  # not when it failed: the innermost module is to blame
        return result

    def trace(self, root: nn.Module, concrete_args: Any = None) -> fx.Graph:
        self.kind = type(root).__name__
        return super().trace(root, concrete_args)


class _Reader:
    """Follows the channels through the nodes, in their order."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self.channels = Channels(graph)
        self.modules = dict(graph.named_modules())
        self.flows: dict[fx.Node, Flow] = {}
        self.called: set[str] = set()

    def read(self) -> Channels:
        for node in self.channels.graph.graph.nodes:
            flow = self._flow(node)
            if flow is not None:
                self.flows[node] = flow
        return self.channels

    def _flow(self, node: fx.Node) -> Flow | None:
        inputs = [self.flows[given] for given in node.all_input_nodes if given in self.flows]
        if node.op == "call_module":
            self._refuse_second_call(str(node.target))
            return self._module(node, self.modules[str(node.target)], inputs)
        if node.op == "call_function":
            return self._function(node, node.target, inputs)
        if node.op == "call_method":
            return self._method(node, str(node.target), inputs)
        return self._opaque(node, inputs)

    def _refuse_second_call(self, name: str) -> None:
        module = self.modules[name]
        if name in self.called and next(module.parameters(), None) is not None:
            raise TrainingError(
                f"module '{name}' ({type(module).__name__}) runs twice; shared weights can't be pruned",
                "give each place a module of its own",
            )
        self.called.add(name)

    def _module(self, node: fx.Node, module: nn.Module, inputs: list[Flow]) -> Flow | None:
        if isinstance(module, PRODUCTS) and _is_plain_product(node, module):
            return self._product(node, module, inputs[0])
        if isinstance(module, _NORMS) and module.running_mean is not None:
            self.channels.norms[str(node.target)] = inputs[0].ids
            return Flow(inputs[0].ids, normalized_constant(module, inputs[0].constant))
        if isinstance(module, _ELEMENTWISE_MODULES):
            return Flow(inputs[0].ids, module(inputs[0].constant.clone()))  # it may work in place
        if isinstance(module, _POOLING_MODULES) or (isinstance(module, nn.AvgPool2d) and module.padding in (0, (0, 0))):
            return inputs[0]
        if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            return self._flattened(node, inputs[0])
        return self._opaque(node, inputs)

    def _function(self, node: fx.Node, target: Any, inputs: list[Flow]) -> Flow | None:
        if target is getattr:
            return None
        if target is operator.getitem and inputs and _takes_all_channels(node.args[1]):
            return inputs[0]
        if target in _ELEMENTWISE_FUNCTIONS and len(inputs) == 1:
            return Flow(inputs[0].ids, self._computed(node, target))
        if target in _PAIRWISE:
            return self._pairwise(node, target, inputs)
        if target in _POOLING_FUNCTIONS and len(inputs) == 1:
            return inputs[0]
        if target is torch.cat and node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0) == 1:
            parts = [self.flows[given] for given in node.args[0]]
            return Flow(torch.cat([p.ids for p in parts]), torch.cat([p.constant for p in parts]))
        if target is functional.pad:
            return self._padded(node, inputs)
        if target is torch.flatten and node.args[1:] == (1,):
            return self._flattened(node, inputs[0])
        return self._opaque(node, inputs)

    def _method(self, node: fx.Node, target: str, inputs: list[Flow]) -> Flow | None:
        if target in _SHAPES_ONLY:
            return None
        if target in _ELEMENTWISE_METHODS and len(inputs) == 1:
            return Flow(inputs[0].ids, self._computed(node, getattr(Tensor, target)))
        if target == "mean" and set(node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())) == {2, 3}:
            return inputs[0]
        if target == "flatten" and node.args[1:] == (1,):
            return self._flattened(node, inputs[0])
        return self._opaque(node, inputs)

    def _computed(self, node: fx.Node, function: Callable[..., Tensor]) -> Tensor:
        """An elementwise call on the constants; NaN, not known, stays NaN."""

        def constant(given: Any) -> Any:
            return self.flows[given].constant.clone() if isinstance(given, fx.Node) else given

        return function(*map(constant, node.args), **{key: constant(value) for key, value in node.kwargs.items()})

    def _pairwise(self, node: fx.Node, function: Callable[..., Tensor], inputs: list[Flow]) -> Flow | None:
        operands = [given for given in node.args[:2] if isinstance(given, fx.Node)]
        if any(given not in self.flows for given in operands) or not operands:
            return self._opaque(node, inputs)
        if len(operands) == 1 or operands[0] is operands[1]:
            return Flow(inputs[0].ids, self._computed(node, function))
        one, other = (self.flows[given] for given in operands)
        if len(one.ids) != len(other.ids):  # one value for all channels: it can't be cut
            narrow, wide = sorted((one, other), key=lambda flow: len(flow.ids))
            self.channels.fixed.append(narrow.ids)
            return Flow(wide.ids, torch.full_like(wide.constant, UNKNOWN))
        self.channels.tie(one.ids, other.ids)
        return Flow(one.ids, self._computed(node, function))

    def _product(self, node: fx.Node, module: nn.Module, taken: Flow) -> Flow:
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1
        foldable = is_foldable(module)
        constant = product_constant(module, taken.constant, foldable)
        made = Flow(taken.ids if depthwise else self.channels.fresh(len(constant)), constant)
        self.channels.products.append(
            Product(str(node.target), module, taken, made, depthwise, foldable, self._norm_after(node))
        )
        return made

    def _norm_after(self, node: fx.Node) -> str:
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module":
            module = self.modules[str(users[0].target)]
            if isinstance(module, _NORMS) and module.running_mean is not None:
                return str(users[0].target)
        return ""

    def _padded(self, node: fx.Node, inputs: list[Flow]) -> Flow | None:
        amounts = node.args[1] if len(node.args) > 1 else node.kwargs.get("pad")
        value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else 0)
        mode = node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")
        if mode != "constant" or not all(isinstance(a, int) for a in amounts) or len(amounts) > 6:
            return self._opaque(node, inputs)
        flow, spatial, along = inputs[0], amounts[:4], amounts[4:]
        constant = flow.constant.clone()
        if any(spatial):
            constant[constant != (value or 0)] = UNKNOWN
        if not any(along) or len(node.args) < 2 or value:
            return self._opaque(node, inputs) if any(along) else Flow(flow.ids, constant)
        before, after = (self.channels.fresh(count) for count in along)
        self.channels.paddings.append(Padding(node.name, before, after))
        zeros = [torch.zeros(len(ids), dtype=torch.float64) for ids in (before, after)]
        return Flow(torch.cat([before, flow.ids, after]), torch.cat([zeros[0], constant, zeros[1]]))

    def _flattened(self, node: fx.Node, flow: Flow) -> Flow:
        times = node.meta["tensor_meta"].shape[1] // len(flow.ids)
        return Flow(flow.ids.repeat_interleave(times), flow.constant.repeat_interleave(times))

    def _opaque(self, node: fx.Node, inputs: list[Flow]) -> Flow | None:
        """Whatever it does, it keeps its channels; so do the network's inputs and outputs."""
        self.channels.fixed += [flow.ids for flow in inputs]
        meta = node.meta.get("tensor_meta")
        if node.op == "output" or not hasattr(meta, "shape") or len(meta.shape) < 2:
            return None
        ids = self.channels.fresh(meta.shape[1])
        self.channels.fixed.append(ids)
        return Flow(ids, torch.full((len(ids),), UNKNOWN, dtype=torch.float64))


def _is_plain_product(node: fx.Node, module: nn.Module) -> bool:
    if isinstance(module, nn.Linear):
        return len(node.meta["tensor_meta"].shape) == 2
    return not isinstance(module, nn.ConvTranspose2d) or module.groups == 1


def _takes_all_channels(index: Any) -> bool:
    """Only slices, and all of axis 1."""
    return (
        isinstance(index, tuple)
        and all(isinstance(part, slice) or part is Ellipsis for part in index)
        and (len(index) < 2 or (Ellipsis not in index[:2] and index[1] == slice(None)))
    )
