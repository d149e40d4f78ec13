"""CUDA through NVIDIA's own bindings (cuda.bindings): the few calls of the driver that engines need.

The driver's API, not the runtime's: it works in whatever context the caller has made current, PyCUDA's own too.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.engines.errors import DeviceUnavailable, NoMemory
from kittiwake_runtime.errors import EngineError

LEGACY_STREAM = 1
_DRIVER_VERSION = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """What an engine is built for.

    Args:
        name: as the driver says, or "any" of its compute capability when it is built ahead of time.
        sm: the compute capability, as "8.7".
        multiprocessors: how many it has; 0 for any.
        driver: the driver's CUDA version and release, as "13.0 580.159.04"; empty for any.
    """

    name: str
    sm: str
    multiprocessors: int
    driver: str

    @property
    def is_here(self) -> bool:
        """Whether it is a GPU of this machine, not one that is built for ahead of time."""
        return bool(self.driver)


def gpu_ahead_of_time(sm: str) -> Gpu:
    """Any GPU of a compute capability, as "8.6".

    Raises:
        EngineError: it is written otherwise.
    """
    if not re.fullmatch(r"\d+\.\d", sm):
        raise EngineError(f"the compute capability is {sm!r}; expected one like 8.6")
    return Gpu("any", sm, 0, "")


def this_gpu() -> Gpu:
    """The GPU of the caller's context, or the first one.

    Raises:
        DeviceUnavailable: there are no bindings, no driver or no GPU.
    """
    with Device.open() as device:
        return device.gpu


class Device:
    """A CUDA context; as a context manager it is the current one. Streams, events and pointers are integers.

    Args:
        context: the context; it is not destroyed.
    """

    def __init__(self, context: Any) -> None:
        self._driver = _driver()
        self._context = context
        self._event: Any = None

    @classmethod
    def open(cls, primary: bool = False) -> Device:
        """The caller's current context, if there is one and ``primary`` is false; else GPU 0's primary one.

        Raises:
            DeviceUnavailable: there are no bindings, no driver or no GPU.
        """
        driver = _driver()
        _call(driver.cuInit, 0)
        context = _call(driver.cuCtxGetCurrent)
        if primary or not int(context):
            context = _call(driver.cuDevicePrimaryCtxRetain, _call(driver.cuDeviceGet, 0))
        return cls(context)

    @property
    def gpu(self) -> Gpu:
        """What it is; call it while the device is current."""
        driver, device = self._driver, _call(self._driver.cuCtxGetDevice)
        attribute = driver.CUdevice_attribute

        def read(name: str) -> int:
            value: int = _call(driver.cuDeviceGetAttribute, getattr(attribute, f"CU_DEVICE_ATTRIBUTE_{name}"), device)
            return value

        name = _call(driver.cuDeviceGetName, 256, device).split(b"\0")[0].decode()
        sm = f"{read('COMPUTE_CAPABILITY_MAJOR')}.{read('COMPUTE_CAPABILITY_MINOR')}"
        cuda = _call(driver.cuDriverGetVersion)
        release = _DRIVER_VERSION.read_text().strip() if _DRIVER_VERSION.exists() else ""
        version = f"{cuda // 1000}.{cuda % 1000 // 10} {release}".strip()
        return Gpu(name, sm, read("MULTIPROCESSOR_COUNT"), version)

    def __enter__(self) -> Device:
        _call(self._driver.cuCtxPushCurrent, self._context)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _call(self._driver.cuCtxPopCurrent)

    def allocate(self, size_bytes: int) -> int:
        """Memory on the GPU."""
        return int(_call(self._driver.cuMemAlloc, max(size_bytes, 1)))

    def free(self, pointer: int) -> None:
        """Give memory on the GPU back; work that uses it is waited for."""
        _call(self._driver.cuMemFree, pointer)

    def zero(self, pointer: int, size_bytes: int, stream: int) -> None:
        """Queue the filling of memory with zeros."""
        _call(self._driver.cuMemsetD8Async, pointer, 0, size_bytes, stream)

    def allocate_pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array in page-locked memory of the host, which the GPU copies from and to on its own."""
        size_bytes = int(np.prod(shape)) * dtype.itemsize
        pointer = int(_call(self._driver.cuMemHostAlloc, max(size_bytes, 1), 0))
        memory = (ctypes.c_byte * size_bytes).from_address(pointer)
        return np.ndarray(shape, dtype, memoryview(memory))

    def free_pinned(self, array: npt.NDArray[Any]) -> None:
        """Give page-locked memory back; the array must not be used any more."""
        _call(self._driver.cuMemFreeHost, array.ctypes.data)

    def copy_in(self, pointer: int, array: npt.NDArray[Any], stream: int) -> None:
        """Queue a copy from a page-locked array to the GPU."""
        _call(self._driver.cuMemcpyHtoDAsync, pointer, array.ctypes.data, array.nbytes, stream)

    def copy_out(self, array: npt.NDArray[Any], pointer: int, stream: int) -> None:
        """Queue a copy from the GPU to a page-locked array."""
        _call(self._driver.cuMemcpyDtoHAsync, array.ctypes.data, pointer, array.nbytes, stream)

    def new_stream(self) -> int:
        """A stream that waits for no other unless told to."""
        return int(_call(self._driver.cuStreamCreate, self._driver.CUstream_flags.CU_STREAM_NON_BLOCKING))

    def free_stream(self, stream: int) -> None:
        """Give a stream back when its work is done."""
        _call(self._driver.cuStreamDestroy, stream)

    def order(self, first: int, then: int) -> None:
        """What is queued on ``then`` from now on waits for what is on ``first`` by now."""
        if first == then:
            return
        if self._event is None:
            flags = self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING
            self._event = _call(self._driver.cuEventCreate, flags)
        _call(self._driver.cuEventRecord, self._event, first)
        _call(self._driver.cuStreamWaitEvent, then, self._event, 0)

    def mark(self, stream: int) -> Any:
        """A mark of what is queued on a stream by now, for :meth:`wait_for`."""
        event = _call(self._driver.cuEventCreate, self._driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)
        _call(self._driver.cuEventRecord, event, stream)
        return event

    def wait_for(self, mark: Any) -> None:
        """Wait until what was queued before a mark is done; a mark serves once."""
        _call(self._driver.cuEventSynchronize, mark)
        _call(self._driver.cuEventDestroy, mark)

    def synchronize(self, stream: int) -> None:
        """Wait until all that is queued on a stream is done."""
        _call(self._driver.cuStreamSynchronize, stream)

    def capture(self, work: Callable[[], None], stream: int) -> Any:
        """Record what ``work`` queues on a stream as a CUDA graph, ready to be launched."""
        driver = self._driver
        _call(driver.cuStreamBeginCapture, stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            work()
        finally:
            graph = _call(driver.cuStreamEndCapture, stream)
        executable = _call(driver.cuGraphInstantiate, graph, 0)
        _call(driver.cuGraphDestroy, graph)
        return executable

    def launch(self, graph: Any, stream: int) -> None:
        """Queue a CUDA graph."""
        _call(self._driver.cuGraphLaunch, graph, stream)

    def free_graph(self, graph: Any) -> None:
        """Give a CUDA graph back."""
        _call(self._driver.cuGraphExecDestroy, graph)

    def owns(self, pointer: int) -> bool:
        """Whether a pointer is memory that kernels in this context may use; call it while the device is current."""
        attribute = self._driver.CUpointer_attribute
        status, context = self._driver.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_CONTEXT, pointer)
        if not int(status):
            return int(context) in (0, int(self._context))  # 0: of no context, as managed memory
        # Memory of a pool has no context, but a GPU.
        status, gpu = self._driver.cuPointerGetAttribute(attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, pointer)
        return not int(status) and int(gpu) == int(_call(self._driver.cuCtxGetDevice))


def _driver() -> Any:
    try:
        return import_module("cuda.bindings.driver")
    except ImportError as error:
        hint = "pip install 'kittiwake-runtime[jetpack6]' on JetPack 6, [jetpack7] on JetPack 7, [cuda] elsewhere"
        raise DeviceUnavailable("cuda.bindings (NVIDIA's cuda-python) is not installed", hint) from error


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    """A call of the driver: its result, or its error by name."""
    try:
        status, *results = function(*arguments)
    except RuntimeError as error:  # the bindings look for the driver's library at their first call
        raise DeviceUnavailable(f"no NVIDIA driver: {error}", "see `kittiwake doctor`") from error
    if int(status):
        text = f"CUDA: {function.__name__} gives {status.name}"
        if "OUT_OF_MEMORY" in status.name:
            raise NoMemory(text, "close what else uses the GPU, or use smaller sizes")
        if status.name in ("CUDA_ERROR_NO_DEVICE", "CUDA_ERROR_INSUFFICIENT_DRIVER", "CUDA_ERROR_STUB_LIBRARY"):
            raise DeviceUnavailable(text, "see `kittiwake doctor`")
        raise EngineError(text)
    return results[0] if results else None
