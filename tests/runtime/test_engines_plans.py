"""How each GPU backend gets ready for shapes: ONNX Runtime's bindings, TensorRT's contexts, CUDA graphs of both.

The device (conftest.py) stands in for CUDA. ONNX Runtime is real, on the CPU; TensorRT's context is played by one that
does as its documentation says.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kittiwake_runtime import Bundle, EngineError
from kittiwake_runtime.engines.gpu import Plan
from kittiwake_runtime.engines.gpu_arrays import GpuArray

Make = Callable[..., Bundle]
X = np.arange(16, dtype=np.float32).reshape(2, 2, 4)


def on_gpu(array: npt.NDArray[Any]) -> GpuArray:
    return GpuArray(array.ctypes.data, array.shape, array.dtype, owner=array)


@pytest.fixture
def onnx_runtime(device: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The engine for CUDA over ONNX Runtime on the CPU: everything but the provider and the memory is real."""
    from kittiwake_runtime.engines import onnxruntime

    monkeypatch.setattr(onnxruntime, "PROVIDERS", {"cuda": "CPUExecutionProvider"})
    monkeypatch.setattr(onnxruntime, "_FALLBACKS", {"cuda": ()})
    monkeypatch.setattr(onnxruntime, "_MEMORY", "cpu")
    monkeypatch.setattr(onnxruntime.Device, "open", lambda primary: device)
    return onnxruntime


def test_onnx_runtime_is_bound_to_the_buffers(onnx_runtime: Any, make_bundle: Make, device: Any) -> None:
    bundle = make_bundle()
    with onnx_runtime.OnnxRuntimeGpuEngine(bundle, bundle.variants["fp32"], "cuda", 1, ()) as engine:
        for n in range(12):
            for _ in range(3):
                x = np.full((1 + n % 6, 2, 4), n, np.float32)
                np.testing.assert_array_equal(engine.infer({"x": x})["y"], 2 * x + 1)
        x, memory = X.copy(), np.zeros_like(X)
        for _ in range(3):
            engine.infer_gpu({"x": on_gpu(x)}, out={"y": on_gpu(memory)})
            np.testing.assert_array_equal(memory, 2 * X + 1)
            memory[:] = 0
            np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)
        assert not memory.any()
    assert device.memory == device.pinned == {}
    assert device.streams == set()


def test_onnx_runtimes_graph_is_for_addresses_that_come_again(
    onnx_runtime: Any, make_bundle: Make, device: Any
) -> None:
    bundle, called = make_bundle(), []
    with onnx_runtime.OnnxRuntimeGpuEngine(bundle, bundle.variants["fp32"], "cuda", 1, ()) as engine, device:
        plan = engine._make_plan({"x": (2, 2, 4)})
        assert plan.shapes["y"] == (2, 2, 4)
        plan._call = called.append
        first, second = {"x": plan.address("x"), "y": plan.address("y")}, {"x": X.ctypes.data, "y": plan.address("y")}
        for addresses in (first, first, first, second, second, first, first):
            plan.run(addresses, 100)
        kinds = ["graph" if options is plan._graph else "plain" for options in called]
        assert kinds == ["plain", "graph", "graph", "plain", "plain", "plain", "graph"]
        assert plan._graph.get_run_config_entry("gpu_graph_id") == "8"
        assert plan._plain.get_run_config_entry("gpu_graph_id") == "-1"
        plan.close()
        plans = [engine._make_plan({"x": (2, 2, 4)}) for _ in range(9)]
        assert [other._graph is None for other in plans] == [False] * 7 + [True] * 2, "eight graphs, then none"
        for other in plans:
            other.close()


def test_a_network_that_cannot_be_a_graph_runs_without(
    onnx_runtime: Any, make_bundle: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = onnx_runtime.ort.InferenceSession, []

    def refuse(path: str, options: Any, providers: Any) -> Any:
        opened.append(providers[0][1])
        if providers[0][1]["enable_cuda_graph"] == "1":
            raise RuntimeError("This session cannot use the graph capture feature: it has control flow nodes")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnx_runtime.ort, "InferenceSession", refuse)
    bundle = make_bundle()
    with onnx_runtime.OnnxRuntimeGpuEngine(bundle, bundle.variants["fp32"], "cuda", 1, ()) as engine:
        assert "no CUDA graph: " in engine.report.reasons[0]
        assert opened[-1]["prefer_nhwc"] == "1", "what kept it from being a graph was not channels last"
        for _ in range(3):
            np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)


def test_a_network_that_channels_last_keep_from_being_a_graph_runs_without_them(
    onnx_runtime: Any, make_bundle: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, opened = onnx_runtime.ort.InferenceSession, []

    def refuse(path: str, options: Any, providers: Any) -> Any:
        opened.append(providers[0][1])
        if providers[0][1]["prefer_nhwc"] == "1":
            raise RuntimeError("This session cannot use the graph capture feature: 4 Memcpy nodes")
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnx_runtime.ort, "InferenceSession", refuse)
    bundle = make_bundle(provider_options={"cuda": {"fuse_conv_bias": True}})
    with onnx_runtime.OnnxRuntimeGpuEngine(bundle, bundle.variants["fp32"], "cuda", 1, ()) as engine:
        assert [reason.split(":")[0] for reason in engine.report.reasons] == ["without channels last, for a CUDA graph"]
        np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)
    asked = [(o["prefer_nhwc"], o["fuse_conv_bias"], o["enable_cuda_graph"]) for o in opened]
    assert asked[:2] == [("1", "1", "1"), ("0", "0", "1")]


class Context:
    """TensorRT's execution context, as its documentation has it, for y = 2 x + 1."""

    def __init__(self, capturable: bool = True, unknown: tuple[str, ...] = ()) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}
        self.memory = (0, 0)
        self.capturable, self.unknown = capturable, unknown

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        return shape[0] <= 8

    def infer_shapes(self) -> list[str]:
        return list(self.unknown)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def update_device_memory_size_for_shapes(self) -> int:
        return 64 * self.shape[0]

    def set_device_memory(self, pointer: int, size_bytes: int) -> None:
        self.memory = pointer, size_bytes

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        size = int(np.prod(self.shape))
        x, y = (np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name])) for name in "xy")
        y[:] = 2 * x + 1
        return True


@pytest.fixture
def context_plan(device: Any) -> Callable[..., Plan]:
    """A plan of native TensorRT over a context that stands in for TensorRT's."""
    from kittiwake_runtime.engines.tensorrt import _ContextPlan

    def make(shape: tuple[int, ...] = (2, 2, 4), **options: Any) -> Plan:
        trt = SimpleNamespace(ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=2))
        engine = SimpleNamespace(
            create_execution_context=lambda strategy: Context(**options) if strategy == 2 else None
        )
        dtypes = {name: np.dtype(np.float32) for name in "xy"}
        library: Any = SimpleNamespace(trt=trt)
        cuda: Any = device
        return _ContextPlan(cuda, dtypes, {"x": shape}, engine, library, EngineError)

    return make


def test_tensorrt_captures_what_comes_again(context_plan: Any, device: Any) -> None:
    with device:
        plan = context_plan()
        assert plan.shapes == {"x": (2, 2, 4), "y": (2, 2, 4)}
        assert plan._context.memory == (plan._memory, 128)
        first, x, y = {name: plan.address(name) for name in "xy"}, X.copy(), np.zeros_like(X)
        other = {"x": x.ctypes.data, "y": y.ctypes.data}
        for addresses in (first, first, first, other):
            plan.run(addresses, 100)
        np.testing.assert_array_equal(y, 2 * X + 1)
        assert device.calls == [("capture", 100), ("launch", 100), ("launch", 100), ("free graph",)]
        plan.run(other, 100)
        plan.close()
        assert device.calls[4:] == [("capture", 100), ("launch", 100), ("free graph",)]
    assert device.memory == {}


def test_tensorrt_without_a_graph_runs_all_the_same(
    context_plan: Any, device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(work: Any, stream: int) -> None:
        raise EngineError("CUDA: cuStreamEndCapture gives CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")

    monkeypatch.setattr(device, "capture", refuse)
    with device:
        plan, y = context_plan(), np.zeros_like(X)
        for _ in range(3):
            y[:] = 0
            plan.run({"x": X.ctypes.data, "y": y.ctypes.data}, 100)
            np.testing.assert_array_equal(y, 2 * X + 1)
        plan.close()


def test_tensorrt_names_shapes_that_it_cannot_have(context_plan: Any, device: Any) -> None:
    with device, pytest.raises(EngineError, match=r"input x can't have shape \(9, 2, 4\)"):
        context_plan((9, 2, 4))
    with device, pytest.raises(EngineError, match="the shapes of y depend on values"):
        context_plan(unknown=("y",))
    assert device.memory == {}
