"""FP16 by casts in the graph: inputs and outputs stay float32, and so do the nodes that can't bear it.

A node in half precision reads and writes tensors with the suffix ``.fp16``; a tensor's own name stays its float32
form, made by a cast where a float32 node, a graph output or a subgraph asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SUFFIX = ".fp16"
_FLOAT, _HALF = TensorProto.FLOAT, TensorProto.FLOAT16
_TYPED = {"Cast": "to", "EyeLike": "dtype"}
"""Operators whose output's type is an attribute."""


def halvable_nodes(network: onnx.ModelProto) -> list[str]:
    """The names, in the graph's order, of the nodes that may compute in float16.

    Not among them are nodes without a float32 tensor, nodes with subgraphs, and inputs to an operator that takes
    float32 alone there (the scales of a Resize, say, stay as they are; an operator with nothing else stays out).
    """
    types = _types(network)
    return [node.name for node in network.graph.node if _half_places(node, types) is not None]


def to_half(network: onnx.ModelProto, keep: Iterable[str]) -> onnx.ModelProto:
    """The network with all nodes that may and aren't kept computing in float16.

    Args:
        network: in float32; its nodes have names of their own.
        keep: names of the nodes that stay in float32.
    """
    types, keep = _types(network), set(keep)
    places = {
        node.name: found
        for node in network.graph.node
        if node.name not in keep and (found := _half_places(node, types)) is not None
    }
    made_half = {node.output[i] for node in network.graph.node if node.name in places for i in places[node.name][1]}
    constants = {tensor.name: tensor for tensor in network.graph.initializer}
    result = onnx.ModelProto()
    result.CopyFrom(network)
    graph = result.graph
    del graph.node[:], graph.initializer[:], graph.value_info[:]

    there: set[str] = set(constants) | {value.name for value in network.graph.input}

    def provide(name: str, half: bool) -> str:
        """The name under which a tensor is there in that precision, making it when it isn't yet."""
        wanted = name + SUFFIX if half else name
        if wanted not in there:
            there.add(wanted)
            if half and name in constants:
                array = numpy_helper.to_array(constants[name])
                with np.errstate(over="ignore"):  # an overflow is infinite, as a cast would make it
                    graph.initializer.append(numpy_helper.from_array(array.astype(np.float16), wanted))
            else:
                source = name if half else name + SUFFIX
                cast = helper.make_node("Cast", [source], [wanted], f"{wanted}.cast", to=_HALF if half else _FLOAT)
                graph.node.append(cast)
        return wanted

    for node in network.graph.node:
        read, written = places.get(node.name, ((), ()))
        for i, name in enumerate(node.input):
            if name in made_half or i in read:
                provide(name, i in read)
        for name in _captured(node) & made_half:
            provide(name, False)
        copy = graph.node.add()
        copy.CopyFrom(node)
        for i in read:
            copy.input[i] += SUFFIX
        for i in written:
            copy.output[i] += SUFFIX
        if node.name in places:
            _retype(copy, _FLOAT, _HALF)
        there.update(copy.output)
    for value in graph.output:
        provide(value.name, False)
    used = {name for node in graph.node for name in [*node.input, *_captured(node)]}
    used |= {value.name for value in graph.output}
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in used)
    return result


def rounded(network: onnx.ModelProto, keep: Iterable[str]) -> onnx.ModelProto:
    """What :func:`to_half` computes, for a machine that has no float16: in float32, every tensor that would be float16
    rounded to it (infinite where it overflows) as it is made; sums within an operator stay in float32, as on GPUs.

    ONNX Runtime on a CPU would run the float16 network itself in float32 and leave the roundings out, so that nothing
    overflows there.
    """
    result = to_half(network, keep)
    graph = result.graph
    nodes, constants = list(graph.node), list(graph.initializer)
    del graph.node[:], graph.initializer[:]
    for tensor in constants:
        if tensor.name.endswith(SUFFIX):
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        graph.initializer.append(tensor)
    for node in nodes:
        copy = graph.node.add()
        copy.CopyFrom(node)
        _retype(copy, _HALF, _FLOAT)
        for i, name in enumerate(node.output):
            if name.endswith(SUFFIX):
                copy.output[i] += ".exact"
                graph.node.extend(_rounding(copy.output[i], name))
    return result


def _rounding(source: str, result: str) -> list[onnx.NodeProto]:
    """To float16 and back; the identity between keeps a runtime from taking the two casts for none."""
    half, same = f"{result}.half", f"{result}.same"
    return [
        helper.make_node("Cast", [source], [half], f"{result}.round", to=_HALF),
        helper.make_node("Identity", [half], [same], f"{result}.hold"),
        helper.make_node("Cast", [same], [result], f"{result}.widen", to=_FLOAT),
    ]


def find_float_nodes(nodes: list[str], passes: Callable[[list[str]], bool]) -> list[str] | None:
    """The nodes that have to stay in float32, found by bisection.

    Nodes are halved in the graph's order as long as the gate passes; the one that first fails it is kept, and so
    on from there. Each kept node costs log2(len(nodes)) tries, a network that can be halved whole a single one.

    Args:
        nodes: all that could be in float16.
        passes: whether the network is good enough with these nodes kept in float32.

    Returns:
        Names in the order of ``nodes``; None when the gate fails even with all of them kept.
    """
    kept: list[str] = []
    done = 0  # nodes[:done] are settled: halved, or in ``kept``
    while not passes(kept):
        good, bad = done, len(nodes)
        if not passes(kept + nodes[good:]):
            return None
        while bad - good > 1:
            middle = (good + bad) // 2
            if passes(kept + nodes[middle:]):
                good = middle
            else:
                bad = middle
        kept.append(nodes[bad - 1])
        done = bad
    return kept


def _half_places(node: onnx.NodeProto, types: dict[str, int]) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Which inputs and outputs become float16; None when the node can't compute in it."""
    if node.domain or any(a.type in (a.GRAPH, a.GRAPHS) for a in node.attribute):
        return None
    schema = onnx.defs.get_schema(node.op_type, _OPSET)
    able = {c.type_param_str: "tensor(float16)" in c.allowed_type_strs for c in schema.type_constraints}

    def places(names: Iterable[str], formal: list[onnx.defs.OpSchema.FormalParameter]) -> tuple[int, ...] | None:
        found = []
        for i, name in enumerate(names):
            if types.get(name) == _FLOAT:
                kind = formal[min(i, len(formal) - 1)].type_str
                if able.get(kind):
                    found.append(i)
        return tuple(found)

    read, written = places(node.input, schema.inputs), places(node.output, schema.outputs)
    made_by_attribute = node.op_type in ("Constant", "ConstantOfShape", "RandomNormal", "RandomUniform")
    return (read, written) if written and not made_by_attribute else None


_OPSET = 18


def _types(network: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor by name."""
    graph = onnx.shape_inference.infer_shapes(network).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _retype(node: onnx.NodeProto, found: int, wanted: int) -> None:
    name = _TYPED.get(node.op_type)
    for attribute in node.attribute:
        if attribute.name == name and attribute.i == found:
            attribute.i = wanted


def _captured(node: onnx.NodeProto) -> set[str]:
    """What a node's subgraphs may read of the graph around them."""
    graphs = [g for a in node.attribute for g in ([a.g] if a.type == a.GRAPH else a.graphs)]
    inner = [n for g in graphs for n in g.node]
    names = {name for n in inner for name in [*n.input, *_captured(n)]}
    return names | {value.name for g in graphs for value in g.output}
