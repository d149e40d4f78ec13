"""Arrays that are on the GPU already, whoever made them: read through the two protocols, without a copy.

``__cuda_array_interface__`` (Numba's, version 3: https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html)
is what PyCUDA, CuPy, Numba and torch offer; DLPack (https://dmlc.github.io/dlpack/latest/python_spec.html) is what
torch, CuPy and JAX do. Where both are there an input is read through DLPack, whose producer sees to it that the
values are ready; an output goes by the other, which says whether it may be written.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from inspect import getattr_static
from typing import Any

import numpy as np

from kittiwake_runtime.engines.cuda import LEGACY_STREAM
from kittiwake_runtime.errors import EngineError

_CUDA, _CUDA_MANAGED = 2, 13  # DLPack's kinds of device
_KINDS = {0: "i", 1: "u", 2: "f", 6: "b"}  # DLPack's type codes, as numpy's kinds


@dataclass(frozen=True)
class GpuArray:
    """A C-contiguous array on the GPU. It offers ``__cuda_array_interface__``: ``torch.as_tensor(a, device="cuda")``
    and ``cupy.asarray(a)`` see it without a copy.

    Args:
        pointer: where it begins.
        shape: its sizes.
        dtype: of its values.
        stream: the stream that its values become ready on; None when they are.
        owner: what keeps its memory alive.
    """

    pointer: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    stream: int | None = None
    owner: object = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "stream": self.stream,
            "version": 3,
        }


def is_gpu_array(array: object) -> bool:
    """Whether an object offers one of the protocols; numpy's arrays are of the host."""
    return (_has(array, "__cuda_array_interface__") or _has(array, "__dlpack__")) and not isinstance(array, np.ndarray)


def read_input(array: object, stream: int, label: str) -> GpuArray:
    """An array that a kernel on ``stream`` is to read.

    Args:
        array: what offers one of the protocols.
        stream: a DLPack producer is told to have its values ready there.
        label: what the array is, for messages.

    Raises:
        EngineError: it is not on a GPU, has gaps or is in another order, or its description is malformed.
    """
    if isinstance(array, GpuArray):
        return array
    return _from_dlpack(array, stream, label) if hasattr(array, "__dlpack__") else _from_interface(array, label)


def read_output(array: object, label: str) -> GpuArray:
    """An array that is to be written.

    Raises:
        EngineError: as :func:`read_input`; or it may not be written, or doesn't say whether.
    """
    if isinstance(array, GpuArray):
        return array
    if not _has(array, "__cuda_array_interface__"):
        raise EngineError(
            f"{label} is of type {type(array).__name__}, without __cuda_array_interface__",
            "give an array of PyCUDA, CuPy, torch or Numba on the GPU",
        )
    return _from_interface(array, label, to_write=True)


def stream_handle(stream: object) -> int:
    """The handle of a stream: an integer, or a stream of cuda-python, torch, CuPy, Numba or PyCUDA.

    Raises:
        EngineError: it is none of these.
    """
    if isinstance(stream, int):
        return stream or LEGACY_STREAM
    if hasattr(stream, "__cuda_stream__"):
        _, handle = stream.__cuda_stream__()
        return int(handle) or LEGACY_STREAM
    for attribute in ("cuda_stream", "ptr", "handle"):  # torch, CuPy, PyCUDA and Numba
        if hasattr(stream, attribute):
            handle = getattr(stream, attribute)
            return int(getattr(handle, "value", handle) or 0) or LEGACY_STREAM
    raise EngineError(f"stream is of type {type(stream).__name__}; expected a CUDA stream or its handle")


def _has(array: object, name: str) -> bool:
    """Whether there is such an attribute, without computing it: torch's raises where a tensor asks for gradients."""
    return getattr_static(array, name, None) is not None


def _from_interface(array: Any, label: str, to_write: bool = False) -> GpuArray:
    try:
        interface = array.__cuda_array_interface__
    except (
        AttributeError,
        RuntimeError,
    ) as error:  # as torch's for a tensor on the CPU, or one that asks for gradients
        raise EngineError(f"{label} can't be exported: {error}") from error
    try:
        pointer, read_only = interface["data"]
        shape = tuple(int(size) for size in interface["shape"])
        dtype = np.dtype(interface["typestr"])
        strides = interface.get("strides")
        # Version 3 says what to wait for; arrays of before it come from streams that wait for the legacy one.
        stream = interface.get("stream") if interface["version"] >= 3 else LEGACY_STREAM
        stream = None if stream is None else int(stream)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{label}: its __cuda_array_interface__ is malformed: {error!r}") from error
    if interface.get("mask") is not None:
        raise EngineError(f"{label} is masked; expected an array without a mask")
    if stream == 0:
        raise EngineError(f"{label}: its __cuda_array_interface__ names stream 0, which the protocol forbids")
    if to_write and read_only:
        raise EngineError(f"{label} is read-only", "give an array that may be written")
    _check_strides(label, shape, strides, dtype.itemsize)
    return GpuArray(int(pointer or 0), shape, dtype, stream, owner=array)


def _check_strides(label: str, shape: tuple[int, ...], strides: Any, item: int) -> None:
    """Refuse what is not C-contiguous; strides of axes with one entry or none don't matter."""
    if strides is None or 0 in shape:
        return
    expected = item
    for size, stride in zip(reversed(shape), reversed(tuple(strides)), strict=True):
        if size > 1 and stride != expected:
            raise EngineError(
                f"{label} has strides {tuple(strides)} at shape {shape}; expected C-contiguous",
                "copy it first: .contiguous() in torch, cupy.ascontiguousarray",
            )
        expected *= size


class _DLTensor(ctypes.Structure):
    """DLPack's DLTensor, the beginning of every DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype, _capsule_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)


def _from_dlpack(array: Any, stream: int, label: str) -> GpuArray:
    kind, _ = array.__dlpack_device__()
    if int(kind) not in (_CUDA, _CUDA_MANAGED):
        raise EngineError(
            f"{label} is a {type(array).__name__} that is not on a CUDA GPU (DLPack device {int(kind)})",
            "give a numpy array, or one on the GPU",
        )
    try:
        capsule = array.__dlpack__(stream=stream)
    except Exception as error:  # as torch's for a tensor that needs a gradient
        raise EngineError(f"{label} can't be exported: {error}") from error
    tensor = _DLTensor.from_address(_capsule_pointer(capsule, b"dltensor"))
    if tensor.lanes != 1 or tensor.code not in _KINDS:
        raise EngineError(f"{label} has DLPack type {tensor.code} of {tensor.bits} bits, which numpy doesn't have")
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[: tensor.ndim])
    if tensor.strides:
        strides = [stride * dtype.itemsize for stride in tensor.strides[: tensor.ndim]]
        _check_strides(label, shape, strides, dtype.itemsize)
    # The capsule is not consumed: it keeps the memory alive, and frees it with itself.
    return GpuArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, owner=capsule)
