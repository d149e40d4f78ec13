"""What engines on a GPU do with arrays, streams and buffers, on a device whose memory is this machine's.

The device (conftest.py) stands in for CUDA and refuses what CUDA would; the network is computed by numpy. That a real
GPU does the same is shown by test_engines_cuda.py.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from kittiwake_runtime import Bundle, EngineError
from kittiwake_runtime.engines.base import EngineReport
from kittiwake_runtime.engines.gpu import GpuEngine, Plan
from kittiwake_runtime.engines.gpu_arrays import GpuArray, is_gpu_array, read_input, read_output, stream_handle

Make = Callable[..., Bundle]
X = np.arange(16, dtype=np.float32).reshape(2, 2, 4)


class Twice(Plan):
    """y = 2 x + 1 at whatever addresses."""

    runs: ClassVar[list[Mapping[str, int]]] = []

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        self.runs.append(dict(addresses))
        size = int(np.prod(self.shapes["x"]))
        x, y = (np.ctypeslib.as_array((ctypes.c_float * size).from_address(addresses[name])) for name in "xy")
        y[:] = 2 * x + 1


class TwiceEngine(GpuEngine):
    plans = 0

    def _make_plan(self, input_shapes: dict[str, tuple[int, ...]]) -> Plan:
        self.plans += 1
        return Twice(self._device, self._dtypes, {**input_shapes, "y": input_shapes["x"]})


@pytest.fixture
def engine(make_bundle: Make, device: Any) -> Any:
    Twice.runs = []
    report = EngineReport("test", "cuda", "fp32", "model.onnx", ("Test",))
    with TwiceEngine(make_bundle(), report, device, device.new_stream()) as engine:
        yield engine
    assert device.memory == device.pinned == {}, "what was allocated was freed"
    assert device.streams == set()
    assert device.depth == 0


class OnGpu:
    """An array that says it is on the GPU, through ``__cuda_array_interface__``."""

    def __init__(self, array: npt.NDArray[Any], **changes: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            **changes,
        }


class _Tensor(ctypes.Structure):
    """DLPack's DLManagedTensor, written down from its own header."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class Dlpack:
    """An array that says it is on the GPU, through DLPack."""

    def __init__(self, array: npt.NDArray[Any], device: int = 2, code: int = 2, offset: int = 0) -> None:
        self.array, self.device, self.stream = array, device, 0
        sizes = ctypes.c_int64 * array.ndim
        self.sizes = sizes(*array.shape), sizes(*(stride // array.itemsize for stride in array.strides))
        self.tensor = _Tensor(
            array.ctypes.data - offset, (device, 0), array.ndim, code, 8 * array.itemsize, 1, *self.sizes, offset
        )

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, stream: int) -> object:
        self.stream = stream
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.tensor), b"dltensor", None)


def test_host_arrays_go_there_and_back(engine: Any, device: Any) -> None:
    for x in (X, -X, np.asfortranarray(X), X[:1]):
        np.testing.assert_array_equal(engine.infer({"x": x})["y"], 2 * x + 1)
    assert engine.plans == 2
    assert len(device.memory) == len(device.pinned) == 4, "two shapes, an input and an output each"


def test_outputs_are_the_callers_own(engine: Any) -> None:
    first = engine.infer({"x": X})["y"]
    engine.infer({"x": -X})
    np.testing.assert_array_equal(first, 2 * X + 1)


@pytest.mark.parametrize("wrap", [OnGpu, Dlpack])
def test_an_array_on_the_gpu_is_used_where_it_is(engine: Any, device: Any, wrap: Any) -> None:
    x = X.copy()
    np.testing.assert_array_equal(engine.infer({"x": wrap(x)})["y"], 2 * X + 1)
    assert Twice.runs[-1]["x"] == x.ctypes.data
    assert [call[0] for call in device.calls if call[0] == "in"] == []


def test_outputs_can_stay_in_the_callers_array(engine: Any, device: Any) -> None:
    x, y = OnGpu(X.copy()), OnGpu(np.zeros_like(X))
    for _ in range(3):
        out = engine.infer_gpu({"x": x}, out={"y": y})
    np.testing.assert_array_equal(y.array, 2 * X + 1)
    assert out["y"].pointer == y.array.ctypes.data
    assert out["y"].owner is y
    assert device.memory == device.pinned == {}, "nothing was copied or allocated"
    assert all(run == Twice.runs[0] for run in Twice.runs)


def test_arrays_can_be_bound_once_and_run_again_and_again(engine: Any, device: Any) -> None:
    x, y = X.copy(), np.zeros_like(X)
    twice = engine.bind_gpu({"x": OnGpu(x)}, {"y": OnGpu(y)}, stream=77)
    device.calls.clear()
    for factor in (1, -1, 3):
        x[:] = factor * X
        twice()
        np.testing.assert_array_equal(y, 2 * factor * X + 1)
    assert device.memory == device.pinned == {}, "nothing was copied or allocated"
    assert device.calls[:2] == [("order", 77, engine._stream), ("order", engine._stream, 77)]
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        twice()


@pytest.mark.parametrize(
    ("inputs", "out", "says"),
    [
        ({"x": X}, {"y": OnGpu(X.copy())}, "input x is on the host"),
        ({"x": OnGpu(X)}, {}, "no array is given for output y"),
        ({"x": OnGpu(X)}, {"y": OnGpu(X[:1].copy())}, r"output y has shape \(2, 2, 4\)"),
        ({"x": OnGpu(X.astype(np.float64))}, {"y": OnGpu(X.copy())}, "is float64"),
    ],
)
def test_what_can_t_be_bound_is_refused(engine: Any, inputs: Any, out: Any, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        engine.bind_gpu(inputs, out)


def test_outputs_can_stay_in_memory_of_their_own(engine: Any, device: Any) -> None:
    outputs = engine.infer_gpu({"x": OnGpu(X.copy())})
    interface = outputs["y"].__cuda_array_interface__
    assert (interface["shape"], interface["typestr"], interface["version"]) == ((2, 2, 4), "<f4", 3)
    seen = device.memory[interface["data"][0]].view(np.float32).reshape(2, 2, 4)
    np.testing.assert_array_equal(seen, 2 * X + 1)
    again = engine.infer({"x": outputs["y"]})["y"]
    np.testing.assert_array_equal(again, 4 * X + 3)
    del outputs
    gc.collect()
    assert interface["data"][0] not in device.memory


def test_it_takes_its_place_in_the_callers_stream(engine: Any, device: Any) -> None:
    """After what the caller queued, before what is queued later, and without waiting for the GPU."""
    engine.infer_gpu({"x": OnGpu(X.copy())}, out={"y": OnGpu(X.copy())}, stream=77)
    assert device.calls == [("order", 77, 100), ("order", 100, 77)]
    device.calls.clear()
    engine.infer_gpu({"x": OnGpu(X.copy())}, out={"y": OnGpu(X.copy())})
    assert device.calls == [("synchronize", 100)]


def test_it_waits_for_the_stream_that_an_array_names(engine: Any, device: Any) -> None:
    engine.infer({"x": OnGpu(X.copy(), stream=55)})
    assert device.calls[0] == ("order", 55, 100)
    device.calls.clear()
    engine.infer({"x": OnGpu(X.copy(), version=2)})
    assert device.calls[0] == ("order", 1, 100), "version 2 doesn't say: the legacy stream"
    array = Dlpack(X.copy())
    engine.infer({"x": array})
    assert array.stream == 100, "DLPack's producer is told where to have it ready"


def test_a_stream_of_inputs_comes_out_in_order(engine: Any, device: Any) -> None:
    inputs = [{"x": np.full((1 + i % 2, 2, 4), i, np.float32)} for i in range(10)]
    outputs = list(engine.infer_each(iter(inputs)))
    assert [output["y"].shape for output in outputs] == [item["x"].shape for item in inputs]
    assert [output["y"][0, 0, 0] for output in outputs] == [2 * i + 1 for i in range(10)]
    assert len({call[1] for call in device.calls if call[0] in ("in", "out")}) == 2, "a stream each way"
    assert list(engine.infer_each([])) == []


def test_a_stream_of_inputs_can_be_left_early(engine: Any, device: Any) -> None:
    outputs = engine.infer_each({"x": X} for _ in range(10))
    next(outputs)
    outputs.close()
    assert device.streams == {100}


def test_few_shapes_are_kept(engine: Any, device: Any) -> None:
    for n in range(1, 30):
        engine.infer({"x": np.zeros((n, 2, 4), np.float32)})
    assert len(device.memory) == 16


BAD_INPUTS: list[tuple[Any, str]] = [
    (OnGpu(X.astype(np.float64)), "input x is float64; expected float32"),
    (OnGpu(X[:, :1]), r"input x has strides \(32, 16, 4\) at shape \(2, 1, 4\); expected C-contiguous"),
    (OnGpu(X.transpose(0, 2, 1)), "expected C-contiguous"),
    (OnGpu(X[:, :, :1].copy()), "size L is 1; expected 2 … 64"),
    (OnGpu(X[0]), r"input x has shape \(2, 4\); expected \(N, 2, L\)"),
    (OnGpu(X, mask=X), "input x is masked"),
    (OnGpu(X, stream=0), "names stream 0"),
    (OnGpu(X, typestr="nonsense"), "__cuda_array_interface__ is malformed"),
    (OnGpu(X, shape="ab"), "__cuda_array_interface__ is malformed"),
    (OnGpu(X, data=None), "__cuda_array_interface__ is malformed"),
    (OnGpu(X, data=(0, False)), "input x is not in the memory of this engine's CUDA context"),
    (Dlpack(X, device=1), r"input x is a Dlpack that is not on a CUDA GPU \(DLPack device 1\)"),
    (Dlpack(X, code=4), "has DLPack type 4 of 32 bits"),
    (Dlpack(X[:, ::-1]), "expected C-contiguous"),
    (Dlpack(X.astype(np.float16)), "input x is float16; expected float32"),
    (np.full_like(X, np.nan), r"input x holds 16 NaN, the first at \(0, 0, 0\)"),
    (X.tolist(), "input x is of type list"),
]


@pytest.mark.parametrize(("array", "message"), BAD_INPUTS)
def test_an_input_that_does_not_fit_is_refused(engine: Any, array: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.infer({"x": array})
    with pytest.raises(EngineError, match=message):
        engine.infer_gpu({"x": array})
    np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)


BAD_OUTPUTS: list[tuple[dict[str, Any], str]] = [
    ({"z": OnGpu(X)}, "has no output z; it has y"),
    ({"y": X}, "output y is of type ndarray, without __cuda_array_interface__"),
    ({"y": Dlpack(X)}, "output y is of type Dlpack, without __cuda_array_interface__"),
    ({"y": OnGpu(X, data=(X.ctypes.data, True))}, "output y is read-only"),
    ({"y": OnGpu(X[:1])}, r"output y has shape \(2, 2, 4\); the array given is \(1, 2, 4\)"),
    ({"y": OnGpu(X.astype(np.float16))}, "output y is float16; expected float32"),
    ({"y": OnGpu(X, data=(0, False))}, "output y is not in the memory of this engine's CUDA context"),
]


@pytest.mark.parametrize(("out", "message"), BAD_OUTPUTS)
def test_an_output_that_does_not_fit_is_refused(engine: Any, out: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        engine.infer_gpu({"x": X}, out=out)


def test_a_closed_engine_says_so(engine: Any) -> None:
    engine.close()
    for call in (engine.infer, engine.infer_gpu):
        with pytest.raises(EngineError, match="closed"):
            call({"x": X})
    with pytest.raises(EngineError, match="closed"):
        list(engine.infer_each([{"x": X}]))


def test_an_engine_on_the_cpu_has_no_arrays_on_the_gpu(make_bundle: Make) -> None:
    from kittiwake_runtime import open_engine

    with open_engine(make_bundle(), device="cpu") as engine:
        with pytest.raises(EngineError, match="runs on the cpu"):
            engine.infer_gpu({"x": X})
        with pytest.raises(EngineError, match="input x is of type OnGpu; expected a numpy array"):
            engine.infer({"x": OnGpu(X)})
        assert [y["y"][0, 0, 0] for y in engine.infer_each([{"x": X}, {"x": X + 1}])] == [1, 3]
        with pytest.raises(EngineError, match=r"input x holds 1 NaN, the first at \(1, 0, 3\)"):
            engine.infer({"x": np.where(X == 11, np.nan, X).astype(np.float32)})
        infinite = np.where(X == 3, -np.inf, np.where(X == 5, np.inf, X)).astype(np.float32)
        np.testing.assert_array_equal(engine.infer({"x": infinite})["y"], 2 * infinite + 1)


def test_strides_of_single_entries_do_not_matter() -> None:
    array = OnGpu(X[:1], strides=(9999, 16, 4))
    assert read_input(array, 1, "x").shape == (1, 2, 4)
    assert read_input(OnGpu(X[:0], strides=(0, 0, 0)), 1, "x").shape == (0, 2, 4)


def test_dlpack_offsets_are_counted() -> None:
    assert read_input(Dlpack(X, offset=16), 1, "x").pointer == X.ctypes.data
    assert read_input(Dlpack(X.astype(np.int16), code=0), 1, "x").dtype == np.int16
    assert read_input(Dlpack(X > 3, code=6), 1, "x").dtype == np.bool_


def test_what_is_an_array_on_the_gpu() -> None:
    assert is_gpu_array(OnGpu(X))
    assert is_gpu_array(Dlpack(X))
    assert not is_gpu_array(X)
    assert not is_gpu_array([1])
    view = GpuArray(4096, (3,), np.dtype(np.int8))
    assert read_input(view, 1, "x") is read_output(view, "x") is view


class Handle:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Protocol:
    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, 11


def test_streams_of_every_library_are_understood() -> None:
    streams = [
        7,
        Protocol(),
        Handle(cuda_stream=12),
        Handle(ptr=13),
        Handle(handle=14),
        Handle(handle=ctypes.c_void_p(15)),
    ]
    assert [stream_handle(stream) for stream in streams] == [7, 11, 12, 13, 14, 15]
    assert stream_handle(0) == stream_handle(Handle(handle=ctypes.c_void_p(None))) == 1, "the legacy default stream"
    with pytest.raises(EngineError, match="stream is of type str; expected a CUDA stream or its handle"):
        stream_handle("0")


def test_a_tensor_of_torch_that_cannot_be_exported_is_named() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(EngineError, match=r"x is a Tensor that is not on a CUDA GPU \(DLPack device 1\)"):
        read_input(torch.zeros(3), 1, "x")
