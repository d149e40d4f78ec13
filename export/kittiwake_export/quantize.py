"""INT8 as explicit Q/DQ: weights per channel, activations in ranges measured on real data.

Quantized are convolutions and products with constant weights, and between them the cheap operators that need no
float: sums, ReLU, pooling, slices. Every tensor that they read or write passes a QuantizeLinear/DequantizeLinear
pair, which runtimes fuse into integer kernels.

Two forms, since nothing suits both. For CPUs activations are unsigned with a zero point (signed ones have no fast
kernels on x86: measured, no faster than float32), weights have 7 bits (x86 without VNNI adds pairs of products in 16
bits, which 8-bit weights overflow) and biases are int32. TensorRT takes signed activations with zero point 0 alone
(its parser reads unsigned ones as signed, with no more than a warning), and biases in float: ``symmetric``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from kittiwake_runtime.machine import usable_cpus

PRODUCTS = ("Conv", "Gemm", "MatMul")
_FOLDED = ("Relu", "Clip")
"""Runtimes fold these into what computes their input: no Q/DQ in between."""
_MOVED = ("Slice", "MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze")
"""These move values without changing them: the output has the input's range."""
_JOINED = ("Add", "Concat", "GlobalAveragePool")
_SEVEN_BITS, _EIGHT_BITS = 64, 127
"""The largest weight."""
_FLOAT_SHARE = 0.1
_WORTH = 2.0
_MOVE = 16.0
"""Multiply-adds in the time of reading or writing a value: depthwise convolutions do little else. (16 to 60 on one
thread of an Intel Xeon with VNNI.)"""
_AT_ONCE = 4
"""Input channels that ONNX Runtime's fast integer convolution takes at once on x86 (MLAS's
``KernelInputChannelAlignment``); what isn't a multiple goes through a slower one."""
_FEW = 16
"""Below so many input channels, zeros up to a multiple of that pay: 3 to 32 of 3x3 for 36 views of 29x29 take 1.1 ms,
4 to 32 take 0.56 (float32: 0.47 and 0.62), but 33 to 32 take 1.3 and 36 to 32 take 1.5. (One thread of an Intel Xeon
with VNNI.)"""
_BIAS_LIMIT = 2.0**30
_FLAT = 1e-30
"""A range below this counts as zero: its step would be no normal float32."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What running real samples shows of a network.

    Args:
        ranges: of every float32 tensor that a node makes or the graph takes in: the mean over samples of the
            lowest and of the highest value. Rare outliers, which would make all steps coarser, are clipped
            (on the localization descriptor half the noise of the whole range).
        work: multiply-adds of every product by node name, over all samples.
        moved: values that each product reads and writes, likewise.
    """

    ranges: Mapping[str, tuple[float, float]]
    work: Mapping[str, float]
    moved: Mapping[str, float]

    @property
    def cost(self) -> dict[str, float]:
        """Of every product by node name: what it takes, in multiply-adds."""
        return {name: work + _MOVE * self.moved[name] for name, work in self.work.items()}


def measure(network: onnx.ModelProto, samples: Sequence[Arrays]) -> Measured:
    """Run samples, each a batch of real inputs, and note every tensor's range and every product's work."""
    tapped = onnx.shape_inference.infer_shapes(network)
    outputs = {value.name for value in tapped.graph.output}
    floats = [v.name for v in tapped.graph.value_info if v.type.tensor_type.elem_type == TensorProto.FLOAT]
    tapped.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in floats if name not in outputs
    )
    session = open_session(tapped)
    names = [output.name for output in session.get_outputs() if output.type == "tensor(float)"]
    weights = {tensor.name: tensor for tensor in network.graph.initializer}
    products = {node.output[0]: node for node in network.graph.node if weight_of(node, weights) is not None}
    extremes: dict[str, list[tuple[float, float]]] = {}
    sizes: Counter[str] = Counter()
    for sample in samples:
        taken = {name: array for name, array in sample.items() if array.dtype == np.float32}
        for name, array in (*zip(names, session.run(names, dict(sample)), strict=True), *taken.items()):
            if array.size:
                extremes.setdefault(name, []).append((float(array.min()), float(array.max())))
            sizes[name] += array.size
    means = {name: np.mean(found, axis=0) for name, found in extremes.items()}
    return Measured(
        ranges={name: (float(low), float(high)) for name, (low, high) in means.items()},
        work={node.name: float(sizes[name] * _terms(node, weights)) for name, node in products.items()},
        moved={node.name: float(sizes[node.input[0]] + sizes[name]) for name, node in products.items()},
    )


def choose_products(network: onnx.ModelProto, measured: Measured, samples: Sequence[Arrays]) -> list[str]:
    """Which products to quantize: all but those at the network's ends that cost much accuracy and save little time.

    Each is quantized alone, and its noise is what that changes in the outputs. Those with the most noise for their cost
    stay in float, as long as their share of the noise is well above their share of the cost and together they hold at
    most a tenth of it: the first layers of a network, typically, and arithmetic that is written as convolutions. None
    between two in int8: there ONNX Runtime quantizes the weights after all, with one step for all channels (its
    ``WeightBiasQuantization``), and the way to float and back takes longer than the layer.

    None for speed alone, though some layers are faster in float: a wide tensor's way from float32's layout to int8
    takes longer than they save. (A pruned EfficientNet-Lite0 on one thread of an Intel Xeon with VNNI: of 8.6 ms its
    first convolution and the depthwise one behind it save 0.6; reordering and quantizing what they make takes 0.7.)

    Returns:
        Names in the graph's order.
    """
    expected = _outputs(network, samples)
    power = [np.maximum(np.mean(np.square(output)), np.finfo(np.float32).tiny) for output in expected]

    def noise(name: str) -> float:
        found = _outputs(quantize(network, measured, [name]), samples)
        pairs = zip(found, expected, power, strict=True)
        return float(sum(np.mean(np.square(given - right)) / size for given, right, size in pairs))

    cost, noises = measured.cost, {name: noise(name) for name in measured.work}
    whole_cost, whole_noise = sum(cost.values()), sum(noises.values())
    before = _feeding(network, cost)
    after = {name: {other for other in cost if name in before[other]} for name in cost}
    ranked = sorted(cost, key=lambda name: noises[name] / cost[name], reverse=True)
    floats: set[str] = set()

    def stays(name: str) -> bool:
        at_an_end = before[name] <= floats or after[name] <= floats
        few = sum(cost[other] for other in (*floats, name)) <= _FLOAT_SHARE * whole_cost
        left = whole_noise - sum(noises[other] for other in floats)
        return at_an_end and few and noises[name] > _WORTH * cost[name] / whole_cost * left

    while found := next((name for name in ranked if name not in floats and stays(name)), None):
        floats.add(found)
    return [name for name in cost if name not in floats]


def _feeding(network: onnx.ModelProto, products: Collection[str]) -> dict[str, set[str]]:
    """For each product those whose results reach it with no other product in between."""
    reaching: dict[str, set[str]] = {}
    feeding: dict[str, set[str]] = {}
    for node in network.graph.node:
        found = set().union(*(reaching.get(name, ()) for name in node.input))
        if node.name in products:
            feeding[node.name], found = found, {node.name}
        reaching.update(dict.fromkeys(node.output, found))
    return feeding


def _outputs(network: onnx.ModelProto, samples: Sequence[Arrays]) -> list[np.ndarray]:
    """All float outputs over the samples, flattened and joined."""
    session = open_session(network)
    names = [output.name for output in session.get_outputs() if output.type == "tensor(float)"]
    found = [session.run(names, dict(sample)) for sample in samples]
    return [np.concatenate([np.ravel(outputs[i]) for outputs in found]) for i in range(len(names))]


def quantize(
    network: onnx.ModelProto, measured: Measured, products: Iterable[str], symmetric: bool = False
) -> onnx.ModelProto:
    """The network with these products, and what lies between them, in int8.

    Args:
        network: in float32.
        measured: of it, see :func:`measure`.
        products: names of the nodes to quantize, among ``measured.work``.
        symmetric: signed activations with zero point 0, for TensorRT; unsigned with a zero point without.
    """
    writer = _Writer(network, measured, frozenset(products), symmetric)
    return writer.write()


def open_session(network: onnx.ModelProto) -> ort.InferenceSession:
    """The network in ONNX Runtime on the CPU, and quiet; identities stay, which hold roundings apart (half.py)."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cpus()  # by itself it counts cores that this process may not use
    return ort.InferenceSession(
        network.SerializeToString(), options, ["CPUExecutionProvider"], disabled_optimizers=["EliminateIdentity"]
    )


def weight_of(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> np.ndarray | None:
    """The constant float32 weights of a product; None when it isn't one, or multiplies two activations."""
    if node.op_type not in PRODUCTS or len(node.input) < 2 or node.input[0] in weights:
        return None
    tensor = weights.get(node.input[1])
    if tensor is None or tensor.data_type != TensorProto.FLOAT or len(tensor.dims) < 2:
        return None
    return numpy_helper.to_array(tensor)


def _channel_axis(node: onnx.NodeProto, weight: np.ndarray) -> int:
    """Along which axis of the weights the output's channels lie."""
    if node.op_type == "Conv":
        return 0
    transposed = node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else weight.ndim - 1


def _is_depthwise(node: onnx.NodeProto, weight: np.ndarray) -> bool:
    """Whether it is a convolution of each channel by itself, which runtimes sum up in 32 bits."""
    return node.op_type == "Conv" and _groups(node) == weight.shape[0] and weight.shape[1] == 1


def _groups(node: onnx.NodeProto) -> int:
    return int(next((a.i for a in node.attribute if a.name == "group"), 1))


def _terms(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> int:
    """Multiply-adds for one value of the output."""
    shape = list(weights[node.input[1]].dims)
    if node.op_type == "Conv":
        return int(np.prod(shape[1:]))
    return shape[1 - _channel_axis(node, np.empty(shape[-2:]))] if node.op_type == "Gemm" else shape[-2]


class _Writer:
    """One quantized copy of a network in the making."""

    def __init__(self, network: onnx.ModelProto, measured: Measured, products: frozenset[str], symmetric: bool) -> None:
        self.network, self.symmetric = network, symmetric
        self.weights = {tensor.name: tensor for tensor in network.graph.initializer}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in network.graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
        self.made_by = {name: node for node in network.graph.node for name in node.output}
        self.results = {value.name for value in network.graph.output}
        self.chosen = self._choose(products)
        self.ranges = self._settle_ranges(measured.ranges)
        self.result = onnx.ModelProto()
        self.result.CopyFrom(network)
        self.graph = self.result.graph
        del self.graph.node[:], self.graph.value_info[:]
        self.pairs: set[str] = set()

    def write(self) -> onnx.ModelProto:
        """Copy the nodes with their Q/DQ pairs."""
        for node in self.network.graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            chosen = node.name in self.chosen
            for i, name in enumerate(node.input):
                made_in_int8 = name in self.made_by and self.made_by[name].name in self.chosen
                if name in self.weights or name not in self.ranges or not (chosen or made_in_int8):
                    continue
                missing = self._missing_channels(node) if chosen and i == 0 else 0
                copy.input[i] = self._dequantized(self._widened(name, node, missing) if missing else name)
            if chosen and weight_of(node, self.weights) is not None:
                self._quantize_weights(copy, node)
            if chosen and node.output[0] in self.results and node.output[0] in self.ranges:
                copy.output[0] += ".float"
            self.graph.node.append(copy)
            if copy.output[0] != node.output[0]:
                self._pair(copy.output[0], node.output[0], self.ranges[node.output[0]])
        used = {name for node in self.graph.node for name in node.input} | self.results
        kept = [tensor for tensor in self.graph.initializer if tensor.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)
        return self.result

    def _choose(self, products: frozenset[str]) -> set[str]:
        """The products, and the cheap operators all of whose activations come from chosen nodes."""
        chosen: set[str] = set()
        for node in self.network.graph.node:
            made = [name for name in node.input if name in self.made_by]
            cheap = node.op_type in (*_FOLDED, *_MOVED, *_JOINED) and len(node.output) == 1
            follows = bool(made) and all(self.made_by[name].name in chosen for name in made)
            if node.name in products or (cheap and follows and self._takes_activations_alone(node)):
                chosen.add(node.name)
        return chosen

    def _takes_activations_alone(self, node: onnx.NodeProto) -> bool:
        """A sum with a constant is no joining of activations."""
        return node.op_type not in _JOINED or not any(name in self.weights for name in node.input)

    def _settle_ranges(self, measured: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        """The range of every tensor that gets a pair; what moves values hands on its input's."""
        ranges = dict(measured)
        for node in self.network.graph.node:
            if node.name in self.chosen and node.op_type in _MOVED and node.input[0] in ranges:
                ranges[node.output[0]] = ranges[node.input[0]]
        for node in self.network.graph.node:
            after = self.readers.get(node.output[0], [])
            alone = len(after) == 1 and node.output[0] not in self.results
            if node.name in self.chosen and alone and after[0].op_type in _FOLDED and after[0].name in self.chosen:
                ranges.pop(node.output[0], None)
        return ranges

    def _missing_channels(self, node: onnx.NodeProto) -> int:
        """How many input channels of zeros make a convolution faster on CPUs, where what it takes is made in float.

        They change no result.
        """
        weight = weight_of(node, self.weights)
        if self.symmetric or node.op_type != "Conv" or weight is None or _groups(node) > 1:
            return 0
        maker = self.made_by.get(node.input[0])
        made_in_int8 = maker is not None and maker.name in self.chosen
        if made_in_int8 or _is_depthwise(node, weight) or weight.shape[1] >= _FEW:
            return 0
        return int(-weight.shape[1] % _AT_ONCE)

    def _widened(self, name: str, reader: onnx.NodeProto, missing: int) -> str:
        """The tensor with so many more channels, of zeros."""
        result = f"{name}.widened"
        if result not in self.ranges:
            self.ranges[result] = self.ranges[name]
            pads = np.zeros((2, len(self.weights[reader.input[1]].dims)), np.int64)
            pads[1, 1] = missing
            self._constant(f"{result}.pads", pads.ravel())
            self.graph.node.append(helper.make_node("Pad", [name, f"{result}.pads"], [result], f"{result}.pad"))
        return result

    def _dequantized(self, name: str) -> str:
        """The tensor after its Q/DQ pair."""
        result = name + ".int8"
        if result not in self.pairs:
            self.pairs.add(result)
            self._pair(name, result, self.ranges[name])
        return result

    def _pair(self, source: str, result: str, limits: tuple[float, float]) -> None:
        scale, zero = _steps(limits, self.symmetric)
        self._constant(f"{result}.scale", np.float32(scale))
        self._constant(f"{result}.zero", zero)
        steps = [f"{result}.scale", f"{result}.zero"]
        self.graph.node.extend(
            [
                helper.make_node("QuantizeLinear", [source, *steps], [f"{result}.q"], f"{result}.quantize"),
                helper.make_node("DequantizeLinear", [f"{result}.q", *steps], [result], f"{result}.dequantize"),
            ]
        )

    def _quantize_weights(self, copy: onnx.NodeProto, node: onnx.NodeProto) -> None:
        """Weights as int8, a step a channel; for CPUs the bias as int32 in steps of input times weights."""
        weight = weight_of(node, self.weights)
        assert weight is not None
        largest = _EIGHT_BITS if self.symmetric or _is_depthwise(node, weight) else _SEVEN_BITS
        axis = _channel_axis(node, weight)
        others = tuple(i for i in range(weight.ndim) if i != axis)
        step = np.abs(weight).max(axis=others).astype(np.float64) / largest
        bias = None if self.symmetric else self._bias(node)
        input_step = _steps(self.ranges[node.input[0]], self.symmetric)[0]
        if bias is not None:
            step = np.maximum(step, np.abs(bias) / (input_step * _BIAS_LIMIT))
        step = np.where(step > 0, step, 1.0).astype(np.float32)
        along = step.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        whole = np.clip(np.round(weight / along), -largest, largest).astype(np.int8)
        if missing := self._missing_channels(node):
            whole = np.pad(whole, [(0, missing if i == 1 else 0) for i in range(whole.ndim)])
        copy.input[1] = self._constant_dequantized(f"{node.name}.weight", whole, step, axis)
        if bias is not None:
            bias_step = (input_step * step).astype(np.float32)
            whole = np.round(bias / bias_step).astype(np.int32)
            copy.input[2] = self._constant_dequantized(f"{node.name}.bias", whole, bias_step, 0)

    def _bias(self, node: onnx.NodeProto) -> np.ndarray | None:
        """A constant bias, one value a channel."""
        if len(node.input) < 3 or node.input[2] not in self.weights:
            return None
        bias = numpy_helper.to_array(self.weights[node.input[2]])
        return bias if bias.ndim == 1 else None

    def _constant_dequantized(self, name: str, whole: np.ndarray, step: np.ndarray, axis: int) -> str:
        self._constant(f"{name}.q", whole)
        self._constant(f"{name}.scale", step)
        self._constant(f"{name}.zero", np.zeros(step.shape, whole.dtype))
        inputs = [f"{name}.q", f"{name}.scale", f"{name}.zero"]
        self.graph.node.append(helper.make_node("DequantizeLinear", inputs, [name], f"{name}.dequantize", axis=axis))
        return name

    def _constant(self, name: str, value: np.ndarray | np.generic) -> None:
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def _steps(limits: tuple[float, float], symmetric: bool) -> tuple[float, np.ndarray]:
    """Scale and zero point for a range, which is stretched to hold zero."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if high - low < _FLAT:
        return 1.0, np.array(0, np.int8 if symmetric else np.uint8)
    if symmetric:
        return max(-low, high) / 127, np.array(0, np.int8)
    scale = float(np.float32((high - low) / 255))
    return scale, np.array(min(255, round(-low / scale)), np.uint8)
