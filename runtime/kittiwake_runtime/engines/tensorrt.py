"""Native TensorRT: runs engines that the cache holds; it never builds one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines import tensorrt_library
from kittiwake_runtime.engines.base import EngineReport
from kittiwake_runtime.engines.cache import CachedEngine, find_engine
from kittiwake_runtime.engines.cuda import Device
from kittiwake_runtime.engines.gpu import GpuEngine, Plan, Shapes
from kittiwake_runtime.engines.tensorrt_library import Library, named
from kittiwake_runtime.errors import EngineError
from kittiwake_runtime.manifest import DimRange, Variant


class TensorRtEngine(GpuEngine):
    """A network in native TensorRT, in the caller's CUDA context when there is one, else in GPU 0's primary one.

    Args:
        bundle: the bundle.
        variant: which of its networks; the cache must hold an engine of it for this GPU and this TensorRT.
        reasons: for the report: what was tried before.

    Raises:
        DeviceUnavailable: there is no TensorRT, no driver or no GPU.
        EngineError: there is no engine yet; or, by class, it is of another GPU (WrongGpu) or version (WrongVersion),
            was altered (DamagedEngine), needs a plug-in (BadPlugin) or more memory (NoMemory).
    """

    def __init__(self, bundle: Bundle, variant: Variant, reasons: tuple[str, ...]) -> None:
        library = tensorrt_library.load()
        device = Device.open()
        with device:
            entry = find_engine(bundle, variant.precision, device.gpu)
            self._library, self._logger = library, tensorrt_library.make_logger(library)
            self._label = f"{entry.path} of {bundle.name}"
            self._runtime: Any = library.trt.Runtime(self._logger)
            self._engine: Any = self._load(entry)
            stream = device.new_stream()
        report = EngineReport(
            backend=library.name,
            device="tensorrt",
            precision=variant.precision,
            file=variant.file,
            providers=(f"{library.name} {library.version}",),
            reasons=reasons,
        )
        super().__init__(bundle, report, device, stream)
        self._sizes = {name: DimRange(*dim) for name, dim in entry.recipe.sizes.items()}
        self._advice = f"build an engine for it: kittiwake engine build {bundle.name} --size NAME=LEAST:TYPICAL:LARGEST"
        check_interface(self._engine, library, bundle, self._label)

    def layers(self) -> str:
        """What TensorRT made of the network: the engine inspector's JSON, with every layer's formats and types."""
        inspector = self._engine.create_engine_inspector()
        text: str = inspector.get_engine_information(self._library.trt.LayerInformationFormat.JSON)
        return text

    def close(self) -> None:
        """Free the engine."""
        super().close()
        self._engine = self._runtime = None

    def _load(self, entry: CachedEngine) -> Any:
        self._runtime.engine_host_code_allowed = False  # an engine is data
        engine = self._runtime.deserialize_cuda_engine(entry.read())
        if engine is None:
            raise named(self._label, self._logger.problems)
        return engine

    def _make_plan(self, input_shapes: Shapes) -> Plan:
        return _ContextPlan(self._device, self._dtypes, input_shapes, self._engine, self._library, self._failure)

    def _failure(self, what: str) -> EngineError:
        problems = tuple(self._logger.problems)
        self._logger.problems.clear()
        return named(f"{self._label}: {what}", problems)


def check_interface(engine: Any, library: Library, bundle: Bundle, label: str) -> None:
    """Refuse an engine whose inputs and outputs are not those of the manifest."""
    mode = library.trt.TensorIOMode
    for side, wanted, specs in (("inputs", mode.INPUT, bundle.inputs), ("outputs", mode.OUTPUT, bundle.outputs)):
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        names = [name for name in names if engine.get_tensor_mode(name) == wanted]
        found = {name: np.dtype(library.trt.nptype(engine.get_tensor_dtype(name))).name for name in names}
        promised = {spec.name: spec.dtype for spec in specs}
        if found != promised:
            raise EngineError(f"{label}: its {side} are {found}; the manifest says {promised}")


class _ContextPlan(Plan):
    """One set of shapes: an execution context with just the memory that they need, and their CUDA graph.

    Args:
        engine: TensorRT's.
        library: TensorRT.
        failure: makes the error of what TensorRT has logged.
    """

    def __init__(
        self,
        device: Device,
        dtypes: Mapping[str, np.dtype[Any]],
        shapes: Shapes,
        engine: Any,
        library: Library,
        failure: Any,
    ) -> None:
        super().__init__(device, dtypes, dict(shapes))
        self._failure = failure
        self._addresses: Mapping[str, int] = {}
        self._graph: Any = None
        self._memory = 0
        self._capturable = True
        strategy = library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context: Any = engine.create_execution_context(strategy)
        if self._context is None:
            raise failure("no execution context")
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise failure(f"input {name} can't have shape {shape}")
        if unknown := self._context.infer_shapes():
            raise failure(f"the shapes of {', '.join(unknown)} depend on values, which engines here may not")
        for name in dtypes.keys() - shapes.keys():
            self.shapes[name] = tuple(self._context.get_tensor_shape(name))
        size_bytes = self._context.update_device_memory_size_for_shapes()
        self._memory = device.allocate(size_bytes)
        self._context.set_device_memory(self._memory, size_bytes)

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Queue it; the same addresses again are captured, and from then on replayed, as a CUDA graph."""
        if addresses != self._addresses:
            self._drop_graph()
            for name, address in addresses.items():
                if not self._context.set_tensor_address(name, address):
                    raise self._failure(f"{name} can't be at address {address:#x}")
            self._addresses = dict(addresses)
            self._enqueue(stream)
            return
        if self._graph is None and self._capturable:
            try:
                self._graph = self._device.capture(lambda: self._enqueue(stream), stream)
            except EngineError:  # some networks wait for the GPU within, as those with loops
                self._capturable = False
        if self._graph is None:
            self._enqueue(stream)
        else:
            self._device.launch(self._graph, stream)

    def close(self) -> None:
        """Free the context, its memory and its graph."""
        self._drop_graph()
        self._context = None
        if self._memory:
            self._device.free(self._memory)
            self._memory = 0
        super().close()

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._device.free_graph(self._graph)
            self._graph = None

    def _enqueue(self, stream: int) -> None:
        if not self._context.execute_async_v3(stream):
            raise self._failure("the inference failed")
