"""Choosing what runs a bundle, with a report of what really does."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from kittiwake_runtime.errors import EngineError

if TYPE_CHECKING:
    from kittiwake_runtime.bundle import Bundle
    from kittiwake_runtime.engines.base import Engine
    from kittiwake_runtime.manifest import Variant

Policy = Literal["degrade", "require"]

# Which devices are tried, best first. ONNX Runtime's TensorRT provider builds for minutes at its first
# inference, so it is used only when it is asked for by name.
_CANDIDATES = {
    "auto": ("tensorrt", "cuda", "cpu"),
    "cpu": ("cpu",),
    "cuda": ("cuda", "cpu"),
    "tensorrt": ("tensorrt", "cuda", "cpu"),
    "tensorrt-ep": ("tensorrt-ep", "cuda", "cpu"),
}
DEVICES = tuple(_CANDIDATES)
# What the driver makes, on a PC and on a Jetson.
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg")
# Which precision "auto" prefers, best first. On a CPU fp16 is only slower; int8 and fp8 cost accuracy, which is for
# the caller to decide.
_PREFERRED = {
    "cpu": ("fp32", "fp16", "int8", "fp8"),
    "cuda": ("fp16", "fp32", "int8", "fp8"),
    "tensorrt": ("fp16", "fp32", "int8", "fp8"),
    "tensorrt-ep": ("fp16", "fp32", "int8", "fp8"),
}


def open_engine(
    bundle: Bundle,
    device: str = "auto",
    precision: str = "auto",
    policy: Policy = "degrade",
    threads: int | None = None,
) -> Engine:
    """Load a bundle's network on the best device that there is, or on the one that is asked for.

    Args:
        bundle: the bundle.
        device: "cpu", "cuda", "tensorrt" (native, with an engine that `kittiwake engine build` has built),
            "tensorrt-ep" (ONNX Runtime's provider, which builds at its first inference), or "auto": the best of
            the first three.
        precision: "auto", "fp32", "fp16", "int8" or "fp8".
        policy: what to do when the device or precision asked for by name can't be had: "degrade" takes the
            next best and says so in ``engine.report.reasons``, "require" raises.
        threads: of the CPU; None takes all that this process may use.

    Raises:
        EngineError: what is required can't be had, or the network can't be loaded.
    """
    _check_choice("device", device, _CANDIDATES)
    _check_choice("precision", precision, ("auto", *_PREFERRED["cpu"]))
    _check_choice("policy", policy, ("degrade", "require"))
    if threads is not None and threads < 1:
        raise EngineError(f"threads is {threads}; expected at least 1")

    reasons: tuple[str, ...] = ()
    if precision not in ("auto", *bundle.variants):
        reasons = (f"{bundle.name} has no {precision} variant, only {', '.join(bundle.variants)}",)
        if policy == "require":
            raise EngineError(reasons[0], "export one, or use policy='degrade'")
    candidates = _CANDIDATES[device]
    if device == "auto" and not _has_tensorrt():
        candidates = candidates[1:]
    for candidate in candidates:
        variant = _choose(bundle, precision, candidate)
        try:
            return _open(bundle, variant, candidate, threads, reasons)
        except EngineError as error:
            if not _may_go_on(candidate, error) or (policy == "require" and device != "auto"):
                raise
            reasons += (f"{error.message} ({error.hint})" if error.hint else error.message,)
    raise AssertionError("unreachable: the last candidate returns or raises")


def _open(bundle: Bundle, variant: Variant, device: str, threads: int | None, reasons: tuple[str, ...]) -> Engine:
    """A backend is imported only when it is asked for."""
    if device == "tensorrt":
        from kittiwake_runtime.engines.tensorrt import TensorRtEngine

        return TensorRtEngine(bundle, variant, reasons)
    from kittiwake_runtime.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeGpuEngine

    if device == "cpu":
        return OnnxRuntimeEngine(bundle, variant, threads, reasons)
    return OnnxRuntimeGpuEngine(bundle, variant, device, threads, reasons)


def _may_go_on(device: str, error: EngineError) -> bool:
    """Whether the next device may do what this one can't. An engine of TensorRT may be missing or unfit without
    anything being wrong with the bundle; ONNX Runtime refuses a network only when something is."""
    from kittiwake_runtime.engines.errors import DeviceUnavailable, NoMemory

    return device == "tensorrt" or (device != "cpu" and isinstance(error, DeviceUnavailable | NoMemory))


def _has_tensorrt() -> bool:
    """Whether there are TensorRT and an NVIDIA GPU, found out at no cost: importing it takes half a second."""
    from kittiwake_runtime.engines.tensorrt_library import is_installed

    return is_installed() and any(os.path.exists(path) for path in _GPU_FILES)


def _choose(bundle: Bundle, precision: str, device: str) -> Variant:
    preferred = (precision, *_PREFERRED[device])
    return bundle.variants[next(name for name in preferred if name in bundle.variants)].for_device(device)


def _check_choice(what: str, given: str, allowed: Iterable[str]) -> None:
    names = list(allowed)
    if given not in names:
        raise EngineError(f"{what} is {given!r}; expected one of {', '.join(names)}")
