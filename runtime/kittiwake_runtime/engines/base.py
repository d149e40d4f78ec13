"""What every engine is: a bundle's network on some device, with its inputs and outputs checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.errors import EngineError
from kittiwake_runtime.manifest import TensorSpec

Self = TypeVar("Self", bound="Engine")
Arrays = dict[str, npt.NDArray[Any]]


class DeviceUnavailable(EngineError):
    """This machine can't run the network on the device that was asked for; another one may do."""


@dataclass(frozen=True)
class EngineReport:
    """What really runs.

    Args:
        backend: the library, as "onnxruntime".
        device: "cpu", "cuda" or "tensorrt".
        precision: of the variant, as "fp32".
        file: the network's file within the bundle.
        providers: as the backend reports them after loading, best first.
        reasons: why what was asked for, or something better, does not run; empty when it does.
    """

    backend: str
    device: str
    precision: str
    file: str
    providers: tuple[str, ...]
    reasons: tuple[str, ...] = ()


class Engine(ABC):
    """A network that is loaded and ready. A context manager; ``close`` frees its memory.

    A backend derives from it and computes in ``_infer``; what can be checked once for all is checked here.
    """

    def __init__(self, bundle: Bundle, report: EngineReport) -> None:
        self.bundle = bundle
        self.report = report
        self._closed = False
        self._inputs = tuple((spec, np.dtype(spec.dtype)) for spec in bundle.inputs)
        self._outputs = tuple((spec, np.dtype(spec.dtype)) for spec in bundle.outputs)

    def infer(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run the network.

        Args:
            inputs: one array per input, by the names, dtypes and shapes of ``bundle.inputs``.

        Returns:
            One array per output, as ``bundle.outputs`` says.

        Raises:
            EngineError: an input is missing, unknown, or of another dtype or shape; the engine is closed; the
                backend failed.
        """
        if self._closed:
            raise EngineError(f"{self.bundle.name}: the engine is closed", "open it again with open_engine")
        if inputs.keys() != {spec.name for spec in self.bundle.inputs}:
            expected = ", ".join(spec.name for spec in self.bundle.inputs)
            given = ", ".join(map(str, inputs)) or "none"
            raise EngineError(f"{self.bundle.name}: the inputs are {expected}; given: {given}")
        sizes: dict[str, int] = {}
        for spec, dtype in self._inputs:
            self._check("input", spec, dtype, inputs[spec.name], sizes)
        for name, limits in self.bundle.dims.items():
            if sizes[name] not in limits:
                raise EngineError(f"{self.bundle.name}: size {name} is {sizes[name]}; expected {limits}")

        outputs = self._infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        for spec, dtype in self._outputs:
            self._check("output", spec, dtype, outputs[spec.name], sizes)
        return outputs

    def close(self) -> None:
        """Free what the engine holds; closing twice does nothing."""
        self._closed = True

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _infer(self, inputs: Arrays) -> Arrays:
        """Compute: the inputs are checked and C-contiguous, every output of the bundle must be returned."""

    def _check(self, side: str, spec: TensorSpec, dtype: np.dtype[Any], array: object, sizes: dict[str, int]) -> None:
        """Check one array, and note the sizes of its dynamic dimensions in ``sizes``."""
        label = f"{self.bundle.name}: {side} {spec.name}"
        if not isinstance(array, np.ndarray):
            raise EngineError(f"{label} is of type {type(array).__name__}; expected a numpy array")
        if array.dtype != dtype:
            hint = f"convert with .astype('{dtype}')"
            raise EngineError(f"{label} is {array.dtype}; expected {dtype}", hint)
        fits = array.ndim == len(spec.shape)
        for size, wanted in zip(array.shape, spec.shape, strict=False):
            fits &= size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted)
        if not fits:
            shape = ", ".join(map(str, spec.shape))
            known = {name: sizes[name] for name in spec.shape if isinstance(name, str) and name in sizes}
            where = " where " + ", ".join(f"{k} = {v}" for k, v in known.items()) if known else ""
            raise EngineError(f"{label} has shape {array.shape}; expected ({shape}){where}")


def golden_errors(engine: Engine) -> dict[str, float]:
    """Run the bundle's golden inputs.

    Returns:
        For every output, the largest absolute difference from the golden output, in the output's units; NaN
        if any value is NaN where the golden one is not.

    Raises:
        BundleError: the bundle has no golden file.
        EngineError: a golden input doesn't fit, or an output has another shape than its golden one.
    """
    errors = dict.fromkeys((spec.name for spec in engine.bundle.outputs), 0.0)
    for case in engine.bundle.golden():
        outputs = engine.infer(case.inputs)
        for name, golden in case.outputs.items():
            if outputs[name].shape != golden.shape:
                raise EngineError(
                    f"{engine.bundle.name}: output {name} has shape {outputs[name].shape}; "
                    f"the golden one has {golden.shape}"
                )
            difference = np.abs(outputs[name].astype(np.float64) - golden.astype(np.float64))
            same = np.isnan(outputs[name]) & np.isnan(golden)
            errors[name] = float(np.max(difference, where=~same, initial=errors[name]))
    return errors
