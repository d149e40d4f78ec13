"""ONNX Runtime: CPU, CUDA and its TensorRT provider, whichever the installed package has.

ONNX Runtime falls back to the CPU without an error when a provider doesn't start, so the providers of the
session are read back, and a device that isn't among them is reported as unavailable.
"""

from __future__ import annotations

import os
from typing import Any

import onnxruntime as ort

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.base import Arrays, DeviceUnavailable, Engine, EngineReport
from kittiwake_runtime.errors import EngineError
from kittiwake_runtime.manifest import Variant

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# What a provider hands on to where it lacks an operator; the CPU stands behind them all.
_FALLBACKS = {"cpu": (), "cuda": ("cpu",), "tensorrt": ("cuda", "cpu")}
_ERRORS_ONLY = 3


class OnnxRuntimeEngine(Engine):
    """A network in ONNX Runtime.

    Args:
        bundle: the bundle.
        variant: which of its networks.
        device: "cpu", "cuda" or "tensorrt".
        threads: of the CPU, within an operator; None takes all that this process may use.
        reasons: for the report: what was tried before.

    Raises:
        DeviceUnavailable: this ONNX Runtime, or this machine, lacks the device.
        EngineError: the network can't be loaded, or isn't the one that the manifest describes.
    """

    def __init__(
        self, bundle: Bundle, variant: Variant, device: str, threads: int | None, reasons: tuple[str, ...]
    ) -> None:
        path = bundle.file(variant.file)
        self._label = f"{path} on {device}"
        session = self._open(str(path), device, threads)
        report = EngineReport(
            backend="onnxruntime",
            device=device,
            precision=variant.precision,
            file=variant.file,
            providers=tuple(session.get_providers()),
            reasons=reasons,
        )
        super().__init__(bundle, report)
        self._session: Any = session
        self._names = [spec.name for spec in bundle.outputs]
        for side, nodes, specs in (
            ("inputs", session.get_inputs(), bundle.inputs),
            ("outputs", session.get_outputs(), bundle.outputs),
        ):
            found = {node.name: _dtype(node.type) for node in nodes}
            promised = {spec.name: spec.dtype for spec in specs}
            if found != promised:
                raise EngineError(f"{path}: its {side} are {found}; the manifest says {promised}")

    def close(self) -> None:
        """Free the session."""
        super().close()
        self._session = None

    def _infer(self, inputs: Arrays) -> Arrays:
        try:
            return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no class of their own
            raise _named(self._label, error) from error

    def _open(self, path: str, device: str, threads: int | None) -> Any:
        provider = PROVIDERS[device]
        if provider not in ort.get_available_providers():
            raise DeviceUnavailable(
                f"onnxruntime {ort.__version__} has no {provider}",
                "`kittiwake doctor` says which package brings it to this machine",
            )
        if device != "cpu" and hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds CUDA and cuDNN where pip has put them
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.log_severity_level = _ERRORS_ONLY
        try:
            session = ort.InferenceSession(
                path, options, providers=[provider, *(PROVIDERS[name] for name in _FALLBACKS[device])]
            )
        except Exception as error:
            raise _named(self._label, error) from error
        if provider not in session.get_providers():
            raise DeviceUnavailable(
                f"{provider} did not start: ONNX Runtime fell back to {', '.join(session.get_providers())}",
                "check the driver, CUDA and cuDNN with `kittiwake doctor`",
            )
        return session


def _dtype(kind: str) -> str:
    """numpy's name of a type that ONNX Runtime writes as "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


def available_cpus() -> int:
    """The processors that this process may use, which in a container are fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_HINTS = (
    ("InvalidProtobuf", "the file is not an ONNX network, or is damaged; export the bundle again"),
    ("No Op registered", "the network uses an operator that onnxruntime doesn't know"),
    ("is not a registered function/op", "the network uses an operator that onnxruntime doesn't know"),
    ("opset", "bundles are written with opset 18; export it again, or update onnxruntime"),
    ("IR version", "bundles are written with IR 10; export it again, or update onnxruntime"),
    ("NotImplemented", "this onnxruntime lacks the operator on this device; another device may have it"),
    ("allocat", "there is not enough memory; use a smaller batch or another device"),
)


def _named(label: str, error: Exception) -> EngineError:
    """ONNX Runtime's error with the network's name, and a hint where the cause is a known one."""
    text = f"{type(error).__name__}: {error}"
    hint = next((hint for mark, hint in _HINTS if mark.lower() in text.lower()), "")
    return EngineError(f"{label}: {' '.join(text.split())}", hint)
