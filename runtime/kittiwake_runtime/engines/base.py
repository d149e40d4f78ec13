"""What every engine is: a bundle's network on some device, with its inputs and outputs checked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.errors import EngineError
from kittiwake_runtime.manifest import DimRange, TensorSpec

if TYPE_CHECKING:
    from kittiwake_runtime.engines.gpu_arrays import GpuArray

Self = TypeVar("Self", bound="Engine")
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class EngineReport:
    """What really runs.

    Args:
        backend: the library, as "onnxruntime".
        device: "cpu", "cuda", "tensorrt", or "tensorrt-ep" for ONNX Runtime's TensorRT provider.
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
        self._sizes: Mapping[str, DimRange] = bundle.dims
        self._advice = ""  # what to do when a size is out of range
        self._array_types: Any = np.ndarray

    def infer(self, inputs: Mapping[str, Any]) -> Arrays:
        """Run the network.

        Args:
            inputs: one array per input, by the names, dtypes and shapes of ``bundle.inputs``. On a GPU they may be
                there already: see :meth:`infer_gpu`.

        Returns:
            One numpy array per output, as ``bundle.outputs`` says.

        Raises:
            EngineError: an input is missing, unknown, of another dtype or shape, or holds NaN; the engine is
                closed; the backend failed.
        """
        sizes = self._check_inputs(inputs)
        outputs = self._infer({name: np.ascontiguousarray(array) for name, array in inputs.items()})
        self._check_outputs(outputs, sizes)
        return outputs

    def infer_each(self, inputs: Iterable[Mapping[str, Any]]) -> Iterator[Arrays]:
        """Run the network on a stream of inputs; a GPU copies one in and one out while it computes a third.

        Args:
            inputs: for each inference what :meth:`infer` takes.

        Yields:
            The outputs of each, in order.
        """
        return map(self.infer, inputs)

    def infer_gpu(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None = None, stream: object = None
    ) -> dict[str, GpuArray]:
        """Run the network and leave its outputs on the GPU.

        Args:
            inputs: arrays on the GPU, of PyCUDA, CuPy, torch or whatever offers ``__cuda_array_interface__`` or
                DLPack: used where they are, without a copy. numpy arrays are copied there.
            out: arrays on the GPU to write outputs to, by name; for the others memory is allocated.
            stream: the caller's CUDA stream (of any of these libraries, or its handle). The inference takes its
                place in it: it begins after what is queued there, what is queued later waits for it, and this
                call doesn't. None waits until the outputs are there.

        Raises:
            EngineError: as :meth:`infer`; this engine doesn't run on a GPU; an array is of another context, is not
                C-contiguous, or may not be written.
        """
        raise self._not_on_gpu()

    def bind_gpu(self, inputs: Mapping[str, Any], out: Mapping[str, Any], stream: object = None) -> Callable[[], None]:
        """Get ready to run on the same arrays again and again: what is checked is checked once, here.

        Args:
            inputs: arrays on the GPU, as for :meth:`infer_gpu`. They are read anew at each call, which waits for
                what is queued on ``stream`` and for nothing else.
            out: arrays on the GPU for all outputs.
            stream: as for :meth:`infer_gpu`.

        Returns:
            A call that does what :meth:`infer_gpu` does with these arguments, in a small part of its time on the
            host. It keeps the arrays alive, and may be called until the engine is closed; until then what it needs
            on the GPU is kept too, so bind once.

        Raises:
            EngineError: as :meth:`infer_gpu`; an input is on the host; an output is not given.
        """
        raise self._not_on_gpu()

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

    def _check_inputs(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        """Check state, names, arrays and sizes; return the sizes of the dynamic dimensions."""
        if self._closed:
            raise self._is_closed()
        if inputs.keys() != {spec.name for spec in self.bundle.inputs}:
            expected = ", ".join(spec.name for spec in self.bundle.inputs)
            given = ", ".join(map(str, inputs)) or "none"
            raise EngineError(f"{self.bundle.name}: the inputs are {expected}; given: {given}")
        sizes: dict[str, int] = {}
        for spec, dtype in self._inputs:
            self._check("input", spec, dtype, inputs[spec.name], sizes)
        for name, limits in self._sizes.items():
            if sizes[name] not in limits:
                raise EngineError(f"{self.bundle.name}: size {name} is {sizes[name]}; expected {limits}", self._advice)
        for spec, dtype in self._inputs:
            array = inputs[spec.name]
            # NaN anywhere makes the least value NaN: that is found without an array of truth values.
            if dtype.kind == "f" and isinstance(array, np.ndarray) and np.isnan(np.minimum.reduce(array, axis=None)):
                raise self._has_nan(spec, array)
        return sizes

    def _check_outputs(self, outputs: Mapping[str, Any], sizes: dict[str, int]) -> None:
        for spec, dtype in self._outputs:
            self._check("output", spec, dtype, outputs[spec.name], sizes)

    def _is_closed(self) -> EngineError:
        return EngineError(f"{self.bundle.name}: the engine is closed", "open it again with open_engine")

    def _not_on_gpu(self) -> EngineError:
        return EngineError(
            f"{self.bundle.name} runs on the {self.report.device}, where no array is on the GPU",
            "open it with device='cuda' or 'tensorrt' and policy='require'",
        )

    def _has_nan(self, spec: TensorSpec, array: npt.NDArray[Any]) -> EngineError:
        found = np.argwhere(np.isnan(array))
        where = ", ".join(map(str, found[0]))
        return EngineError(
            f"{self.bundle.name}: input {spec.name} holds {len(found)} NaN, the first at ({where})",
            "mask or replace what is missing before the inference",
        )

    def _check(self, side: str, spec: TensorSpec, dtype: np.dtype[Any], array: Any, sizes: dict[str, int]) -> None:
        """Check one array, and note the sizes of its dynamic dimensions in ``sizes``."""
        label = f"{self.bundle.name}: {side} {spec.name}"
        if not isinstance(array, self._array_types):
            raise EngineError(
                f"{label} is of type {type(array).__name__}; expected a numpy array",
                "an array on the GPU needs an engine that runs there" if hasattr(array, "__dlpack__") else "",
            )
        if array.dtype != dtype:
            hint = f"convert with .astype('{dtype}')"
            raise EngineError(f"{label} is {array.dtype}; expected {dtype}", hint)
        fits = len(array.shape) == len(spec.shape)
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
