"""From a torch module to the bytes of an ONNX network that loads everywhere.

Opset 18 (19 where modelopt quantizes) and IR 10 are what the oldest supported ONNX Runtime and TensorRT still read;
the onnx package writes newer ones by itself, so both are set and checked here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxslim
import torch
from onnxscript import optimizer
from torch import nn

from kittiwake_export.errors import ExportError
from kittiwake_runtime.manifest import DimRange, TensorSpec

OPSET = 18
IR_VERSION = 10


def trace(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    example: Mapping[str, np.ndarray],
) -> bytes:
    """Trace a model with torch.export and turn it into a slimmed ONNX network.

    Args:
        model: in evaluation mode, on the CPU; takes its inputs in their order.
        inputs: its inputs; a size that is a name stays dynamic.
        outputs: its outputs.
        dims: the ranges of the dynamic sizes.
        example: one array per input, at sizes above one.

    Raises:
        ExportError: the model doesn't trace with these dynamic sizes, or needs a newer opset.
    """
    named = {name: torch.export.Dim(name, min=limits.min, max=limits.max) for name, limits in dims.items()}
    dynamic = tuple(
        {axis: named[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)} for spec in inputs
    )
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns on every run of a missing torchvision
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # deprecations inside torch.onnx, which nobody here can mend
            program = torch.onnx.export(
                model,
                tuple(torch.from_numpy(example[spec.name]) for spec in inputs),
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                opset_version=OPSET,
                external_data=False,
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # torch.export and the exporter raise classes of many modules
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ExportError(
            f"the model can't be traced with dynamic {', '.join(named) or 'nothing'}: {reason}",
            "`kittiwake --traceback export …` shows where",
        ) from error
    # The exporter's own optimizer takes any constant below 1e-8 for zero, and so removes the 1e-12 that keeps
    # a division finite (add_0 in onnxscript's rewriter); folding constants and onnxslim do without it.
    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)
    slim: onnx.ModelProto = onnxslim.slim(_keep_sizes_vectors(program.model_proto))
    _name_sizes(slim, outputs)
    return settle(slim).SerializeToString()


def _keep_sizes_vectors(network: onnx.ModelProto) -> onnx.ModelProto:
    """Undo what the exporter does to a dynamic size: made a scalar, and a vector of one again for Slice and its like.

    With channels last, ONNX Runtime 1.31 computes that scalar on the GPU, from and to the host's memory, and can't
    capture the network as a CUDA graph then.

    Args:
        network: changed in place; nodes that nothing needs any more are left to onnxslim.
    """
    makers = {output: node for node in network.graph.node for output in node.output}
    sizes = {}
    for node in network.graph.node:
        if node.op_type == "Reshape" and _is_vector_of_one(makers.get(node.input[1])):
            squeeze = makers.get(node.input[0])
            size = makers.get(squeeze.input[0]) if squeeze and squeeze.op_type == "Squeeze" else None
            if size and size.op_type == "Shape" and _taken(size) == 1:
                sizes[node.output[0]] = size.output[0]
    for node in network.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = sizes.get(name, name)
    return network


def _is_vector_of_one(shape: onnx.NodeProto | None) -> bool:
    """Whether the shape that a Reshape asks for is (1,)."""
    if shape is None or shape.op_type != "Constant":
        return False
    given = onnx.helper.get_attribute_value(shape.attribute[0])
    numbers = onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.array(given)
    return numbers.ravel().tolist() in ([1], [-1])


def _taken(shape: onnx.NodeProto) -> int:
    """How many sizes a Shape node takes, where its attributes say it; else 0."""
    given = {attribute.name: attribute.i for attribute in shape.attribute}
    return given["end"] - given.get("start", 0) if "end" in given else 0


def settle(network: onnx.ModelProto, opset: int = OPSET) -> onnx.ModelProto:
    """Fix the versions, drop what tells of this machine, and check the network.

    Args:
        network: changed in place.
        opset: version of ONNX's operators that it may need.

    Raises:
        ExportError: it needs other operators than ONNX's own.
    """
    used = {node.domain for node in network.graph.node}
    opsets = {entry.domain: entry.version for entry in network.opset_import if entry.domain in used}
    if opsets != {"": opset}:
        raise ExportError(f"the network needs the operator sets {opsets}; expected ONNX's own, {opset}")
    del network.opset_import[:]
    network.opset_import.append(onnx.helper.make_opsetid("", opset))
    network.ir_version = IR_VERSION
    del network.graph.value_info[:]
    # The exporter notes, on every node and value, the source lines with the paths of this machine.
    graph = network.graph
    for part in (network, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        _forget(part)
    onnx.checker.check_model(network, full_check=True)
    return network


def _name_sizes(network: onnx.ModelProto, outputs: Sequence[TensorSpec]) -> None:
    """Name the outputs' dynamic sizes as the manifest does."""
    for spec, value in zip(outputs, network.graph.output, strict=True):
        for size, dim in zip(spec.shape, value.type.tensor_type.shape.dim, strict=True):
            if isinstance(size, str):
                dim.dim_param = size


def _forget(part: Any) -> None:
    del part.metadata_props[:]
    part.doc_string = ""
