"""Golden values: inputs made from a seed, and what the model gives for them in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from kittiwake_export.errors import ExportError
from kittiwake_runtime.manifest import DimRange, TensorSpec

_SEED = 0
_STEPS = 255


def example_inputs(
    inputs: Sequence[TensorSpec],
    dims: Mapping[str, DimRange],
    ranges: Mapping[str, tuple[float, float]],
) -> list[dict[str, np.ndarray]]:
    """Inputs at the smallest sizes, at the typical ones, and at sizes that are all different.

    A further one, of the smallest sizes, holds the lowest value everywhere: where nothing varies, all depends
    on what keeps a network's divisions finite, and only there it shows when a converter has dropped it.

    Args:
        inputs: the tensors.
        dims: the ranges of their dynamic dimensions.
        ranges: lowest and highest value by tensor name.

    Returns:
        Four sets of arrays. Floats are uniform in 256 steps (as 8-bit images are, and small when packed).
    """
    apart = {name: limits.typical + 1 + i for i, (name, limits) in enumerate(dims.items())}
    sizes = [
        {name: limits.min for name, limits in dims.items()},
        {name: limits.typical for name, limits in dims.items()},
        {name: min(apart[name], limits.max or apart[name]) for name, limits in dims.items()},
    ]
    rng = np.random.default_rng(_SEED)
    flat = {spec.name: _flat(spec, sizes[0], ranges[spec.name][0]) for spec in inputs}
    return [flat, *({s.name: _values(s, size, ranges[s.name], rng) for s in inputs} for size in sizes)]


def reference_outputs(
    model: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    example: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """What the model gives, by the names of the outputs; it takes its inputs in their order.

    Raises:
        ExportError: it fails, gives another number of outputs, or one of another dtype.
    """
    tensors = [torch.from_numpy(example[spec.name]) for spec in inputs]
    try:
        with torch.inference_mode():
            result = model(*tensors)
    except (RuntimeError, TypeError, ValueError) as error:
        shapes = {name: array.shape for name, array in example.items()}
        raise ExportError(f"the model fails on inputs of shape {shapes}: {error}") from error
    results = (result,) if isinstance(result, torch.Tensor) else tuple(result)
    if len(results) != len(outputs):
        raise ExportError(f"the model gives {len(results)} outputs; the checkpoint names {len(outputs)}")
    arrays = {spec.name: tensor.numpy() for spec, tensor in zip(outputs, results, strict=True)}
    for spec in outputs:
        if arrays[spec.name].dtype != spec.dtype:
            raise ExportError(f"output {spec.name} is {arrays[spec.name].dtype}; expected {spec.dtype}")
    return arrays


def _flat(spec: TensorSpec, sizes: Mapping[str, int], value: float) -> np.ndarray:
    return np.full(_shape(spec, sizes), value, spec.dtype)


def _values(
    spec: TensorSpec, sizes: Mapping[str, int], values: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    shape = _shape(spec, sizes)
    lowest, highest = values
    if np.issubdtype(np.dtype(spec.dtype), np.floating):
        steps = rng.integers(0, _STEPS, shape, endpoint=True)
        return (lowest + (highest - lowest) / _STEPS * steps).astype(spec.dtype)
    return rng.integers(int(lowest), int(highest), shape, endpoint=True).astype(spec.dtype)


def _shape(spec: TensorSpec, sizes: Mapping[str, int]) -> list[int]:
    return [sizes[size] if isinstance(size, str) else size for size in spec.shape]
