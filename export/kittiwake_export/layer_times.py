"""Measures how long single layers take in ONNX Runtime on this machine's CPU, in float32 and in int8.

A layer is timed as it runs in a network: with its activation, in int8 between Q/DQ pairs, and by ONNX Runtime's own
profile of the kernel, so that changes of layout at the borders of a network of one layer don't count. The least of
several runs is taken: what it takes when nothing else runs.
"""

from __future__ import annotations

import copy
import json
import platform
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from tqdm import tqdm

from kittiwake_export.errors import ExportError
from kittiwake_export.golden import example_inputs
from kittiwake_export.graph import IR_VERSION, OPSET, trace
from kittiwake_export.quantize import measure, quantize
from kittiwake_export.variants import prepare
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.manifest import FORMAT_VERSION, DimRange, TensorSpec, parse_manifest
from kittiwake_training.checkpoint import load_checkpoint
from kittiwake_training.pruning.cost import Layer, layers_of
from kittiwake_training.pruning.groups import find_groups, zero_channels
from kittiwake_training.pruning.latency import Geometry, LatencyModel, Times, fit_latency, geometry, save_table
from kittiwake_training.pruning.prunable import prunable
from kittiwake_training.pruning.remove import remove_dead_channels

PRECISIONS = ("fp32", "int8")
_GRID = 6
"""Channel counts for each side of a layer."""
_STEP = 8
_FITTED = 8
"""Whole networks that the rest is fitted to."""
_SECONDS = 0.03
"""To spend on a layer at least, beside its first run."""
_PASSES = 3
"""Over all layers, so that a busy moment doesn't fall on one alone; the same for turns of whole networks."""
_RUNS = 3
_TURNS = 30
_PRODUCTS = ("Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "Gemm", "FusedGemm", "QGemm", "MatMul",
             "FusedMatMul", "MatMulIntegerToFloat", "QLinearMatMul")  # fmt: skip


def measure_checkpoint(
    checkpoint: Path, table: Path, precisions: Sequence[str], threads: int, multiple: int = _STEP
) -> list[LatencyModel]:
    """Measure the layers of a checkpoint's network and write the table; see :func:`measure_layer_times`.

    Raises:
        TrainingError: the checkpoint can't be read, or its network not be pruned.
    """
    loaded = load_checkpoint(checkpoint)
    specs = read_specs(loaded.meta, checkpoint)
    untouched = prunable(loaded.model, loaded.meta["model"]["key"]).untouched
    models = measure_layer_times(
        loaded.model, *specs, untouched=untouched, precisions=precisions, threads=threads, multiple=multiple
    )
    machine = {"cpu": platform.processor() or platform.machine(), "system": platform.platform(terse=True),
               "onnxruntime": ort.__version__, "checkpoint": loaded.meta["name"]}  # fmt: skip
    save_table(table, models, machine)
    return models


def read_specs(
    meta: Mapping[str, Any], checkpoint: Path
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], dict[str, DimRange]]:
    """Inputs, outputs and dims as a checkpoint names them.

    Raises:
        BundleError: a field is wrong.
    """
    variants = {"fp32": {"file": "model.onnx", "parity": {}}}
    written = {"format_version": FORMAT_VERSION, "files": {"model.onnx": "0" * 64}, "variants": variants}
    manifest = parse_manifest(Fields({**meta, **written}, checkpoint / "checkpoint.json"))
    return tuple(manifest.inputs), tuple(manifest.outputs), dict(manifest.dims)


def measure_layer_times(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    *,
    untouched: Collection[nn.Module] = (),
    precisions: Sequence[str] = PRECISIONS,
    threads: int = 1,
    multiple: int = _STEP,
    seed: int = 0,
) -> list[LatencyModel]:
    """The tables of a network and of all that pruning can make of it.

    Args:
        model: in evaluation mode, on the CPU; it takes its one input at the typical size.
        inputs, outputs, dims: as its checkpoint names them.
        untouched: modules that pruning leaves alone.
        precisions: of :data:`PRECISIONS`.
        threads: of ONNX Runtime.
        multiple: of the channels in the networks that the rest is fitted to, as pruning will leave them.
        seed: of their widths.
    """
    example = typical_input(inputs, dims)
    layers = layers_of(model, torch.from_numpy(example[inputs[0].name]))
    networks = [model, *random_widths(model, example[inputs[0].name], untouched, _FITTED - 1, seed, multiple)]
    changing = _changing(model, torch.from_numpy(example[inputs[0].name]), untouched)
    named = tqdm(networks, desc="networks", disable=None)
    graphs = [build(network, inputs, outputs, dims, precisions) for network in named]
    sizes = [layers_of(network, torch.from_numpy(example[inputs[0].name])) for network in networks]
    models = []
    for i, precision in enumerate(precisions):
        table = _measure_table(layers, changing, precision, threads)
        seconds = run_seconds([found[i] for found in graphs], example, threads)
        backend = f"onnxruntime-cpu {precision}, {threads} thread{'s' * (threads > 1)}"
        models.append(fit_latency(backend, table, list(zip(sizes, seconds, strict=True))))
    return models


def typical_input(inputs: Sequence[TensorSpec], dims: Mapping[str, DimRange]) -> dict[str, np.ndarray]:
    """Random inputs at the typical sizes."""
    return example_inputs(inputs, dims, {spec.name: (0.0, 1.0) for spec in inputs})[2]


def random_widths(
    model: nn.Module,
    example: np.ndarray,
    untouched: Collection[nn.Module],
    count: int,
    seed: int,
    multiple: int = _STEP,
) -> Iterator[nn.Module]:
    """Networks with a random number of channels in each group, in multiples; float32."""
    rng = np.random.default_rng(seed)
    given = torch.from_numpy(example[:2])
    names = [name for name, module in model.named_modules() if module in set(untouched)]
    groups = find_groups(model, given, untouched)
    for _ in range(count):
        zeroed = copy.deepcopy(model)
        share = rng.uniform(0.1, 1.0)
        for group in groups:
            blocks = max(group.channels // multiple, 1)
            kept = multiple * int(np.clip(round(blocks * share * rng.uniform(0.6, 1.4)), 1, blocks))
            zero_channels(zeroed, group, range(kept, group.channels))
        opaque = [zeroed.get_submodule(name) for name in names]
        yield remove_dead_channels(zeroed, given, multiple=multiple, opaque=opaque).network.float()


def build(
    network: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], dims: Mapping[str, DimRange],
    precisions: Sequence[str],
) -> list[onnx.ModelProto]:  # fmt: skip
    """A network as export makes it in each precision; int8 with ranges of random inputs, which don't change how long
    it takes."""
    cases = example_inputs(inputs, dims, {spec.name: (0.0, 1.0) for spec in inputs})
    graph = onnx.load_from_string(trace(network, inputs, outputs, dims, cases[-1]))
    return [prepare(graph, cases[1:2]).int8() if precision == "int8" else graph for precision in precisions]


def run_seconds(networks: Sequence[onnx.ModelProto], example: dict[str, np.ndarray], threads: int) -> list[float]:
    """The least of several runs of each network; all take turns, so that a busy moment doesn't fall on one alone.

    With one thread its own processor time counts, which other processes take nothing of.
    """
    clock = time.thread_time if threads == 1 else time.perf_counter
    sessions = [_session(network, threads) for network in networks]
    least = [float("inf")] * len(sessions)
    for turn in range(_TURNS):
        for i, session in enumerate(sessions):
            for _ in range(_RUNS + (turn == 0)):
                started = clock()
                session.run(None, example)
                least[i] = min(least[i], clock() - started)
    return least


def _measure_table(
    layers: Sequence[Layer], changing: dict[str, tuple[bool, bool]], precision: str, threads: int
) -> dict[Geometry, Times]:
    """Each geometry at a grid of channel counts that holds those of all its layers."""
    counts: dict[Geometry, tuple[set[int], set[int], Layer]] = {}
    for layer in layers:
        takes, makes = changing.get(layer.name, (False, False))
        taken, made, _ = counts.setdefault(geometry(layer), (set(), set(), layer))
        taken.update(_grid(layer.taken) if takes and layer.kind != "depthwise" else [layer.taken])
        made.update(_grid(layer.made) if makes else [layer.made])
    jobs = [(key, i, j) for key, (a, b, layer) in counts.items()
            for i in range(1 if layer.kind == "depthwise" else len(a)) for j in range(len(b))]  # fmt: skip
    seconds = {key: np.full((1 if layer.kind == "depthwise" else len(a), len(b)), np.inf)
               for key, (a, b, layer) in counts.items()}  # fmt: skip
    for key, i, j in tqdm(jobs * _PASSES, desc=f"layers, {precision}", disable=None):
        taken, made, layer = counts[key]
        channels = sorted(made)[j]
        sized = layer.resized(channels if layer.kind == "depthwise" else sorted(taken)[i], channels)
        seconds[key][i, j] = min(seconds[key][i, j], layer_seconds(sized, precision, threads))
    return {
        key: Times((1,) if layer.kind == "depthwise" else tuple(sorted(taken)), tuple(sorted(made)), seconds[key])
        for key, (taken, made, layer) in counts.items()
    }


def layer_seconds(layer: Layer, precision: str, threads: int) -> float:
    """The least time of a layer's kernel."""
    network = _one_layer(layer)
    names = [value.name for value in network.graph.input]
    shape = [d.dim_value for d in network.graph.input[0].type.tensor_type.shape.dim]
    given = {names[0]: np.random.default_rng(0).random(shape, np.float32)}
    if precision == "int8":
        ranges = measure(network, [given])
        network = quantize(network, ranges, list(ranges.work))
    with tempfile.TemporaryDirectory(prefix="kittiwake-layer-") as folder:
        session = _session(network, threads, profile=Path(folder) / "profile")
        started, runs = time.perf_counter(), 0
        while runs <= _RUNS or time.perf_counter() - started < _SECONDS:
            session.run(None, given)
            runs += 1
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event["dur"] for event in events
               if event.get("cat") == "Node" and event.get("args", {}).get("op_name") in _PRODUCTS]  # fmt: skip
    return float(min(kernels[1:])) * 1e-6


def _one_layer(layer: Layer) -> onnx.ModelProto:
    """The layer and its activation, as ONNX."""
    if layer.kind == "transposed":
        raise ExportError(f"'{layer.name}' is a transposed convolution: there are no layer times for these yet",
                          "prune to --target flops=... or params=...")  # fmt: skip
    rng = np.random.default_rng(1)
    linear = layer.kind == "linear"
    taps = () if linear else layer.kernel
    weight = rng.standard_normal((layer.made, layer.taken // layer.groups, *taps), np.float32)
    weights = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(layer.made, np.float32), "b")]
    if linear:
        shape: list[int] = [layer.batch, layer.taken]
        node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="layer", transB=1)
    else:
        sides = [(size - 1) * stride + kernel for size, stride, kernel
                 in zip((layer.height, layer.width), layer.stride, layer.kernel, strict=True)]  # fmt: skip
        shape = [layer.batch, layer.taken, *sides]
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"], name="layer", kernel_shape=layer.kernel,
                                strides=layer.stride, group=layer.groups)  # fmt: skip
    graph = helper.make_graph(
        [node, helper.make_node("Relu", ["y"], ["z"], name="relu")],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _session(network: onnx.ModelProto, threads: int, profile: Path | None = None) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(network.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _changing(
    model: nn.Module, example: torch.Tensor, untouched: Collection[nn.Module]
) -> dict[str, tuple[bool, bool]]:
    """For each layer, whether pruning can change what it takes and what it makes."""
    changing: dict[str, tuple[bool, bool]] = {}
    for group in find_groups(model, example[:2], untouched):
        for name in {*group.taken, *group.made}:
            takes, makes = changing.get(name, (False, False))
            changing[name] = (takes or name in group.taken, makes or name in group.made)
    return changing


def _grid(channels: int) -> list[int]:
    """Multiples of 8 up to the layer's own count, denser where there are few."""
    spaced = np.geomspace(min(_STEP, channels), channels, _GRID)
    return sorted({*(int(_STEP * max(round(count / _STEP), 1)) for count in spaced[:-1]), channels})
