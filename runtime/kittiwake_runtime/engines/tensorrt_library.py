"""The TensorRT that is installed, under whichever name, and what it says when something is wrong.

`tensorrt` (JetPack's package, or NVIDIA's for x86) and `tensorrt_rtx` (RTX GPUs) offer the same API; what is used
here is common to 10.3 … 11.4 and TensorRT-RTX 1.x.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from kittiwake_runtime.engines.errors import (
    BadPlugin,
    DamagedEngine,
    DeviceUnavailable,
    NoMemory,
    WrongGpu,
    WrongVersion,
)
from kittiwake_runtime.errors import EngineError

# Import name: the name that reports and cache keys carry. The second is NVIDIA's meta package over the third.
_NAMES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx", "tensorrt_rtx_bindings": "tensorrt_rtx"}
_OLDEST = (10, 3)


@dataclass(frozen=True)
class Library:
    """An imported TensorRT.

    Args:
        name: "tensorrt" or "tensorrt_rtx".
        version: of four parts, as "10.3.0.30": engines fit exactly one.
        trt: the module.
    """

    name: str
    version: str
    trt: Any

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds for GPUs that this machine doesn't have."""
        return hasattr(self.trt, "ComputeCapability")


def is_installed() -> bool:
    """Whether some TensorRT could be imported, found out without importing it."""
    return any(find_spec(name) is not None for name in _NAMES)


@cache
def load() -> Library:
    """Import TensorRT.

    Raises:
        DeviceUnavailable: there is none, it can't be imported, or it is too old.
    """
    problems = []
    for module, name in _NAMES.items():
        try:
            trt = import_module(module)
            version = _whole_version(name, trt.__version__)
        except Exception as error:  # a wheel without its libraries raises what it likes
            if find_spec(module) is not None:
                problems.append(f"{module} can't be imported: {' '.join(str(error).split())}")
            continue
        if name == "tensorrt" and tuple(map(int, version.split(".")[:2])) < _OLDEST:
            problems.append(f"tensorrt {version} is older than {'.'.join(map(str, _OLDEST))}")
            continue
        return Library(name, version, trt)
    hint = "JetPack brings TensorRT; on RTX GPUs: pip install 'kittiwake-runtime[tensorrt-rtx]'"
    raise DeviceUnavailable("; ".join(problems) or "TensorRT is not installed", hint)


def _whole_version(name: str, version: str) -> str:
    """All four parts: Python's module leaves out the build number on JetPack, and engines depend on it."""
    if version.count(".") >= 3:
        return version
    file = f"libnvinfer.so.{version.partition('.')[0]}" if name == "tensorrt" else "libtensorrt_rtx.so.1"
    build: int = ctypes.CDLL(file).getInferLibBuildVersion()
    return f"{version}.{build}"


def make_logger(library: Library) -> Any:
    """A logger for TensorRT that keeps what it is told, in its list ``problems``, instead of printing it."""

    class Logger(library.trt.ILogger):  # type: ignore[name-defined, misc]  # a base class that is known only now
        def __init__(self) -> None:
            super().__init__()
            self.problems: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= library.trt.ILogger.Severity.ERROR:
                self.problems.append(" ".join(message.split()))

    return Logger()


_REBUILD = "build an engine on this machine: kittiwake engine build BUNDLE"
_FREE = "close what else uses the GPU, or build for smaller sizes (--size)"
# What TensorRT writes, in the order in which it decides: the class of the error, and what to do.
_CAUSES: tuple[tuple[str, type[EngineError], str], ...] = (
    ("magic tag", DamagedEngine, _REBUILD),
    ("magictag", DamagedEngine, _REBUILD),
    ("blobsize", DamagedEngine, _REBUILD),
    ("expecting compute", WrongGpu, _REBUILD),
    ("compute capability", WrongGpu, _REBUILD),
    ("expecting library version", WrongVersion, _REBUILD),
    ("version tag does not match", WrongVersion, _REBUILD),
    ("incompatible serialization version", WrongVersion, _REBUILD),
    ("driver version is insufficient", DeviceUnavailable, "there is no NVIDIA driver here, or it is too old"),
    ("no cuda-capable device", DeviceUnavailable, "no NVIDIA GPU can be used here; see `kittiwake doctor`"),
    ("out of memory", NoMemory, _FREE),
    ("outofmemory", NoMemory, _FREE),
    ("plugin", BadPlugin, "bundles must need no plug-in: export the network without that operator"),
)


def named(label: str, problems: Sequence[str]) -> EngineError:
    """The error for what TensorRT has logged: of a class of its own where the cause is a known one.

    Args:
        label: what was done to what.
        problems: the logged errors, the first one first.
    """
    text = "; ".join(dict.fromkeys(problems)) or "TensorRT failed without saying why"
    for mark, kind, hint in _CAUSES:
        if mark in text.lower():
            return kind(f"{label}: {text}", hint)
    return EngineError(f"{label}: {text}")
