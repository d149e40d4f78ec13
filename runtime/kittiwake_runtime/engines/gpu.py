"""What every engine on a GPU does: inputs to it, or taken where they are; outputs from it, or left there.

A *plan* is the network made ready for one set of input shapes; a backend derives its own from :class:`Plan`. Buffers,
page-locked on the host's side, are allocated once a plan. All computing goes through the engine's own stream, which
a CUDA graph can be captured from (the caller's may be the legacy one, which forbids it); events put it in its place
in the caller's stream.
"""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import RLock
from typing import Any

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.base import Arrays, Engine, EngineReport
from kittiwake_runtime.engines.cuda import Device
from kittiwake_runtime.engines.gpu_arrays import GpuArray, is_gpu_array, read_input, read_output, stream_handle
from kittiwake_runtime.errors import EngineError

Shapes = dict[str, tuple[int, ...]]
_LARGEST_PLANS = 8  # shapes that are kept ready; the one unused for longest goes first
_FILLERS = 2  # threads that fill page-locked memory, a frame each
_IN_FLIGHT = 3 + _FILLERS  # of a stream: one is copied in, one computed, one copied out


class Plan(ABC):
    """A network ready for one set of shapes, with its buffers.

    Args:
        device: the device.
        dtypes: of all inputs and outputs, by name.
        shapes: of all inputs and outputs, by name.
    """

    def __init__(self, device: Device, dtypes: Mapping[str, np.dtype[Any]], shapes: Shapes) -> None:
        self.shapes = shapes
        self._device = device
        self._dtypes = dtypes
        self._host: Arrays = {}
        self._gpu: dict[str, int] = {}

    @abstractmethod
    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Queue the computation, its inputs and outputs at these addresses; the same ones again may be faster."""

    def host(self, name: str) -> npt.NDArray[Any]:
        """The page-locked array of an input or output."""
        if name not in self._host:
            self._host[name] = self._device.allocate_pinned(self.shapes[name], self._dtypes[name])
        return self._host[name]

    def address(self, name: str) -> int:
        """The memory on the GPU of an input or output."""
        if name not in self._gpu:
            size_bytes = int(np.prod(self.shapes[name])) * self._dtypes[name].itemsize
            self._gpu[name] = self._device.allocate(size_bytes)
        return self._gpu[name]

    def close(self) -> None:
        """Free the buffers."""
        for pointer in self._gpu.values():
            self._device.free(pointer)
        for array in self._host.values():
            self._device.free_pinned(array)
        self._gpu, self._host = {}, {}


@dataclass(frozen=True)
class _Filling:
    """One inference of a stream whose inputs are on their way into page-locked memory."""

    plan: Plan
    arrays: Mapping[str, Any]
    sizes: dict[str, int]
    copies: Sequence[Future[None]]


class GpuEngine(Engine):
    """A network on a GPU. Several threads may use it; they take turns.

    Args:
        bundle: the bundle.
        report: what runs.
        device: the context that everything lives in.
        stream: the engine's own; it is freed with it.
    """

    def __init__(self, bundle: Bundle, report: EngineReport, device: Device, stream: int) -> None:
        super().__init__(bundle, report)
        self._array_types = (np.ndarray, GpuArray)
        self._device = device
        self._stream = stream
        self._dtypes = {spec.name: dtype for spec, dtype in (*self._inputs, *self._outputs)}
        self._plans: OrderedDict[object, Plan] = OrderedDict()
        self._bound: list[Plan] = []
        self._lock = RLock()

    @abstractmethod
    def _make_plan(self, input_shapes: Shapes) -> Plan:
        """Get ready for these shapes, which are within the profile."""

    def infer(self, inputs: Mapping[str, Any]) -> Arrays:
        """As :meth:`Engine.infer`; what is on the GPU already is used where it is."""
        with self._lock, self._device:
            arrays = self._read(inputs)
            sizes = self._check_inputs(arrays)
            plan = self._plan(arrays, slot=0)
            self._queue(plan, arrays, {}, self._stream)
            return self._collect(plan, sizes)

    def infer_gpu(
        self, inputs: Mapping[str, Any], out: Mapping[str, Any] | None = None, stream: object = None
    ) -> dict[str, GpuArray]:
        """As :meth:`Engine.infer_gpu`."""
        with self._lock, self._device:
            caller = None if stream is None else stream_handle(stream)
            arrays = self._read(inputs)
            sizes = self._check_inputs(arrays)
            given = self._read_outputs(out or {})
            plan = self._plan(arrays, slot=0)
            names = [spec.name for spec, _ in self._outputs]
            outputs = {name: given[name] if name in given else self._new_output(plan, name) for name in names}
            self._check_given(plan, given)
            self._check_outputs(outputs, sizes)
            pointers = {name: array.pointer for name, array in outputs.items()}
            with self._in_order(caller):
                self._queue(plan, arrays, pointers, self._stream)
            return outputs

    def bind_gpu(self, inputs: Mapping[str, Any], out: Mapping[str, Any], stream: object = None) -> Callable[[], None]:
        """As :meth:`Engine.bind_gpu`."""
        with self._lock, self._device:
            caller = None if stream is None else stream_handle(stream)
            arrays = self._read(inputs)
            sizes = self._check_inputs(arrays)
            if on_host := [name for name, array in arrays.items() if not isinstance(array, GpuArray)]:
                raise EngineError(
                    f"{self.bundle.name}: input {on_host[0]} is on the host; an array that is bound lies on the GPU",
                    "use infer_gpu, which copies",
                )
            outputs = self._read_outputs(out)
            if missing := [spec.name for spec, _ in self._outputs if spec.name not in outputs]:
                raise EngineError(f"{self.bundle.name}: no array is given for output {missing[0]}")
            plan = self._make_plan({name: tuple(array.shape) for name, array in arrays.items()})
            self._bound.append(plan)
            self._check_given(plan, outputs)
            self._check_outputs(outputs, sizes)
        return partial(self._run_bound, plan, {**arrays, **outputs}, caller)

    def infer_each(self, inputs: Iterable[Mapping[str, Any]]) -> Iterator[Arrays]:
        """As :meth:`Engine.infer_each`, with copies in, computing and copies out at the same time.

        What is on the host is copied to page-locked memory by threads of its own: for a camera's frame that takes as
        long as its inference.
        """
        with self._lock, self._device:
            streams = self._device.new_stream(), self._device.new_stream()
        filling: deque[_Filling] = deque()
        waiting: deque[tuple[Plan, dict[str, int], Any]] = deque()
        with ThreadPoolExecutor(_FILLERS, "kittiwake-fill") as fillers:
            try:
                for i, item in enumerate(inputs):
                    if len(filling) + len(waiting) == _IN_FLIGHT:
                        yield self._finish(*waiting.popleft())
                    filling.append(self._fill(item, 1 + i % _IN_FLIGHT, fillers))
                    if len(filling) > _FILLERS:
                        waiting.append(self._start(filling.popleft(), *streams))
                while filling or waiting:
                    if filling:
                        waiting.append(self._start(filling.popleft(), *streams))
                    yield self._finish(*waiting.popleft())
            finally:
                with self._lock, self._device:
                    for stream in streams:
                        self._device.synchronize(stream)
                        self._device.free_stream(stream)

    def close(self) -> None:
        """Free plans, buffers and the stream."""
        if not self._closed:
            super().close()
            with self._lock, self._device:
                self._device.synchronize(self._stream)
                for plan in (*self._plans.values(), *self._bound):
                    plan.close()
                self._plans.clear()
                self._bound.clear()
                self._device.free_stream(self._stream)

    def _infer(self, inputs: Arrays) -> Arrays:
        return self.infer(inputs)

    def _read(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs, those on the GPU as :class:`GpuArray`."""
        arrays = dict(inputs)
        for name, array in arrays.items():
            if is_gpu_array(array):
                label = f"{self.bundle.name}: input {name}"
                arrays[name] = self._of_this_context(read_input(array, self._stream, label), label)
        return arrays

    def _read_outputs(self, out: Mapping[str, Any]) -> dict[str, GpuArray]:
        names = [spec.name for spec, _ in self._outputs]
        if unknown := [name for name in out if name not in names]:
            raise EngineError(f"{self.bundle.name} has no output {unknown[0]}; it has {', '.join(names)}")
        given = {}
        for name, array in out.items():
            label = f"{self.bundle.name}: output {name}"
            given[name] = self._of_this_context(read_output(array, label), label)
        return given

    def _of_this_context(self, array: GpuArray, label: str) -> GpuArray:
        if not self._device.owns(array.pointer):
            raise EngineError(
                f"{label} is not in the memory of this engine's CUDA context",
                "open the engine while the arrays' context is current (native TensorRT), or make the arrays in the "
                "primary context of GPU 0 (ONNX Runtime; with PyCUDA: import pycuda.autoprimaryctx)",
            )
        return array

    def _check_given(self, plan: Plan, given: Mapping[str, GpuArray]) -> None:
        for name, array in given.items():
            if array.shape != plan.shapes[name]:
                raise EngineError(
                    f"{self.bundle.name}: output {name} has shape {plan.shapes[name]}; the array given is {array.shape}"
                )

    def _plan(self, arrays: Mapping[str, Any], slot: int) -> Plan:
        """The plan for these shapes; ``slot`` tells those apart that are in flight together."""
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        key = (slot, *(shapes[spec.name] for spec, _ in self._inputs))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= _LARGEST_PLANS:
                self._device.synchronize(self._stream)
                self._plans.popitem(last=False)[1].close()
            plan = self._plans[key] = self._make_plan(shapes)
        self._plans.move_to_end(key)
        return plan

    def _queue(
        self,
        plan: Plan,
        arrays: Mapping[str, Any],
        outputs: Mapping[str, int],
        copying: int,
        is_filled: bool = False,
    ) -> None:
        """Queue the copies in, on their stream, and the computation, on the engine's own."""
        addresses = {}
        for name, array in arrays.items():
            if isinstance(array, GpuArray):
                addresses[name] = array.pointer
                if array.stream is not None:
                    self._device.order(array.stream, self._stream)
                continue
            host, addresses[name] = plan.host(name), plan.address(name)
            if outputs:  # left on the GPU: nothing else waits until the last copy has left this buffer
                self._device.synchronize(copying)
            if not is_filled:
                np.copyto(host, array)
            self._device.copy_in(addresses[name], host, copying)
        self._device.order(copying, self._stream)
        for spec, _ in self._outputs:
            addresses[spec.name] = outputs.get(spec.name) or plan.address(spec.name)
        plan.run(addresses, self._stream)

    def _run_bound(self, plan: Plan, arrays: Mapping[str, GpuArray], caller: int | None) -> None:
        """What a call of :meth:`bind_gpu`'s does; it holds the arrays, and with them their memory."""
        with self._lock, self._device:
            if self._closed:
                raise self._is_closed()
            pointers = {name: array.pointer for name, array in arrays.items()}
            with self._in_order(caller):
                plan.run(pointers, self._stream)

    @contextmanager
    def _in_order(self, caller: int | None) -> Iterator[None]:
        """What is queued within takes its place in the caller's stream; without one it is waited for."""
        if caller is not None:
            self._device.order(caller, self._stream)
        yield
        if caller is None:
            self._device.synchronize(self._stream)
        else:
            self._device.order(self._stream, caller)

    def _copy_out(self, plan: Plan, stream: int) -> None:
        for spec, _ in self._outputs:
            self._device.copy_out(plan.host(spec.name), plan.address(spec.name), stream)

    def _collect(self, plan: Plan, sizes: dict[str, int]) -> Arrays:
        self._copy_out(plan, self._stream)
        self._device.synchronize(self._stream)
        outputs = {spec.name: plan.host(spec.name).copy() for spec, _ in self._outputs}
        self._check_outputs(outputs, sizes)
        return outputs

    def _fill(self, item: Mapping[str, Any], slot: int, fillers: ThreadPoolExecutor) -> _Filling:
        """Check one of a stream's inputs, and have it copied to page-locked memory."""
        with self._lock, self._device:
            arrays = self._read(item)
            sizes = self._check_inputs(arrays)
            plan = self._plan(arrays, slot)
            on_host = {name: array for name, array in arrays.items() if not isinstance(array, GpuArray)}
            copies = [fillers.submit(np.copyto, plan.host(name), array) for name, array in on_host.items()]
            return _Filling(plan, arrays, sizes, copies)

    def _start(self, filling: _Filling, copying_in: int, copying_out: int) -> tuple[Plan, dict[str, int], Any]:
        """Queue one inference of a stream, its outputs' copies too."""
        for copy in filling.copies:
            copy.result()
        with self._lock, self._device:
            self._queue(filling.plan, filling.arrays, {}, copying_in, is_filled=True)
            self._device.order(self._stream, copying_out)
            self._copy_out(filling.plan, copying_out)
            return filling.plan, filling.sizes, self._device.mark(copying_out)

    def _finish(self, plan: Plan, sizes: dict[str, int], copied: Any) -> Arrays:
        """Wait for one inference of a stream."""
        with self._lock, self._device:
            self._device.wait_for(copied)
            outputs = {spec.name: plan.host(spec.name).copy() for spec, _ in self._outputs}
            self._check_outputs(outputs, sizes)
            return outputs

    def _new_output(self, plan: Plan, name: str) -> GpuArray:
        """Memory of its own for one output, given back when the array and all views of it are gone."""
        shape, dtype, device = plan.shapes[name], self._dtypes[name], self._device
        pointer = device.allocate(int(np.prod(shape)) * dtype.itemsize)
        array = GpuArray(pointer, shape, dtype)
        weakref.finalize(array, _free, device, pointer)
        return array


def _free(device: Device, pointer: int) -> None:
    with device:
        device.free(pointer)
