"""The network in other precisions, each behind its gate: what fails it is refused, not written.

FP16 has to come within a share of each output's size of the float32 network, on the golden inputs and on real ones
where there are any; nodes are kept in float32 until it does. INT8 and FP8 have to keep the accuracy of the task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from kittiwake_export import modelopt
from kittiwake_export.errors import ExportError
from kittiwake_export.half import find_float_nodes, halvable_nodes, rounded, to_half
from kittiwake_export.quantize import PRODUCTS, Arrays, Measured, choose_products, measure, open_session, quantize
from kittiwake_runtime.bundle import Bundle, Golden
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.manifest import Accuracy
from kittiwake_training.tasks import Task, Trial

HALF_SHARE = 0.005
"""How far an output in float16 may be off, as a share of its largest value: ten times the format's rounding."""
_SENSITIVITY_SAMPLES = 8
_RESAMPLES = 2000


def make_half(network: onnx.ModelProto, samples: Sequence[Arrays]) -> tuple[onnx.ModelProto, list[str]]:
    """The network in float16, and the names of the nodes that had to stay in float32.

    Args:
        network: in float32.
        samples: inputs to compare on.

    Raises:
        ExportError: no convolution or matrix product can be halved, so that nothing would be gained.
    """
    expected = _run(network, samples)
    # An output's size is taken over all samples, so that one that is flat doesn't ask for the impossible.
    sizes = [max(float(np.abs(case[i]).max(initial=0.0)) for case in expected) for i in range(len(expected[0]))]

    def passes(keep: Iterable[str]) -> bool:
        found = _run(rounded(network, keep), samples)
        return all(
            np.abs(given - right).max(initial=0.0) <= HALF_SHARE * size  # false for NaN
            for case, reference in zip(found, expected, strict=True)
            for given, right, size in zip(case, reference, sizes, strict=True)
        )

    nodes = halvable_nodes(network)
    keep = find_float_nodes(nodes, passes)
    kinds = {node.name: node.op_type for node in network.graph.node}
    if keep is None or not any(kinds[name] in PRODUCTS for name in set(nodes) - set(keep)):
        raise ExportError(
            "fp16 is refused: no convolution or matrix product can be in float16 without the outputs being off by "
            f"more than {HALF_SHARE:.1%} of their size",
            "export without fp16, or train with smaller activations",
        )
    return to_half(network, keep), keep


def half_parity(network: onnx.ModelProto, keep: Iterable[str], cases: Sequence[Golden]) -> dict[str, float]:
    """How far each output is off the golden ones in real float16, which a CPU doesn't show."""
    session = open_session(rounded(network, keep))
    names = [output.name for output in session.get_outputs()]
    errors = dict.fromkeys(names, 0.0)
    for case in cases:
        for name, given in zip(names, session.run(names, dict(case.inputs)), strict=True):
            difference = np.abs(given.astype(np.float64) - case.outputs[name].astype(np.float64))
            errors[name] = max(errors[name], float(difference.max(initial=0.0)))
    return errors


@dataclass(frozen=True)
class Quantizable:
    """A float32 network with what has to be known to quantize it.

    Attributes:
        network: in float32.
        samples: real inputs.
        measured: what they show of it.
        products: names of the nodes to quantize,
        floats: and of those that stay in float32.
    """

    network: onnx.ModelProto
    samples: Sequence[Arrays]
    measured: Measured
    products: list[str]
    floats: list[str]

    def int8(self) -> onnx.ModelProto:
        """For ONNX Runtime on CPUs."""
        return quantize(self.network, self.measured, self.products)

    def int8_tensorrt(self, by_modelopt: bool) -> onnx.ModelProto:
        """For TensorRT."""
        if by_modelopt:
            return modelopt.quantize(self.network, self.samples, "int8", self.products)
        return quantize(self.network, self.measured, self.products, symmetric=True)

    def fp8(self) -> onnx.ModelProto:
        """For TensorRT on GPUs of compute capability 8.9 and newer."""
        return modelopt.quantize(self.network, self.samples, "fp8", self.products)


def prepare(network: onnx.ModelProto, samples: Sequence[Arrays]) -> Quantizable:
    """Measure a float32 network on real inputs, and choose what of it to quantize.

    Raises:
        ExportError: there is no convolution or product with constant weights.
    """
    measured = measure(network, samples)
    if not measured.work:
        raise ExportError("it can't be quantized: the network has no convolution or product with constant weights")
    spread = samples[:: max(1, len(samples) // _SENSITIVITY_SAMPLES)][:_SENSITIVITY_SAMPLES]
    products = choose_products(network, measured, spread)
    return Quantizable(network, samples, measured, products, [name for name in measured.work if name not in products])


def run_trial(draft: Bundle, precision: str, task: Task, data: Path) -> Trial:
    """How well one of a bundle's networks does its task on this machine's CPU."""
    # A task asks from as many threads as there are cores.
    with open_engine(draft, device="cpu", precision=precision, policy="require", threads=1) as engine:
        return task.trial(engine.infer, data)


def judge(reference: Trial, trial: Trial, precision: str, allowed: float) -> dict[str, Any]:
    """What a precision loses against the reference on the same samples, as a manifest says it.

    Raises:
        ExportError: more than ``allowed``, in the metric's unit.
    """
    losses = reference.values - trial.values
    low, high = _interval(losses, reference.groups)
    loss = float(losses.mean())
    accuracy = Accuracy(
        name=reference.name,
        unit=reference.unit,
        split=reference.split,
        n=len(losses),
        reference=round(float(reference.values.mean()), 4),
        value=round(float(trial.values.mean()), 4),
        loss=round(loss, 4),
        interval=(round(low, 4), round(high, 4)),
        allowed=allowed,
    )
    if not loss <= allowed:
        raise ExportError(
            f"{precision} is refused: it loses {loss:.3g} {trial.unit} of {trial.name} ({low:.3g} to {high:.3g}, "
            f"n = {len(losses)}); allowed are {allowed:g}",
            f"export without {precision}, or train with the quantization in the loop",
        )
    return asdict(accuracy)


def _interval(losses: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """95 % of the mean, by a bootstrap that draws whole groups."""
    _, index = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(index, losses), np.bincount(index)
    picks = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _run(network: onnx.ModelProto, samples: Sequence[Arrays]) -> list[list[np.ndarray]]:
    session = open_session(network)
    return [[output.astype(np.float64) for output in session.run(None, dict(sample))] for sample in samples]
