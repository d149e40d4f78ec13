"""On a machine with an NVIDIA GPU (`make test-cuda`): every backend that is installed there, arrays of every library.

ONNX Runtime needs its GPU build, native TensorRT an installed one that supports the GPU; what is missing is skipped
with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kittiwake_runtime import Bundle, EngineError, open_engine
from kittiwake_runtime.engines.base import Engine, golden_errors
from kittiwake_runtime.engines.errors import DeviceUnavailable, WrongGpu

pytestmark = pytest.mark.cuda

Make = Callable[..., Bundle]
MODELS = Path(__file__).resolve().parents[2] / "models" / "kittiwake_models"
VARIANTS = [
    (manifest.parent.name, precision)
    for manifest in sorted(MODELS.glob("*/manifest.json"))
    for precision in json.loads(manifest.read_text(encoding="utf-8"))["variants"]
]
DEVICES = ("cuda", "tensorrt")
X = np.arange(16, dtype=np.float32).reshape(2, 2, 4)


@pytest.fixture(autouse=True)
def gpu() -> Any:
    """The GPU; torch first, where it is installed, since it brings cuDNN and cuBLAS."""
    with suppress(ImportError):
        import_module("torch")
    from kittiwake_runtime.engines.cuda import this_gpu

    try:
        return this_gpu()
    except DeviceUnavailable as error:
        pytest.skip(error.message)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engines")


@pytest.fixture
def open_on(cache: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Engine]]:
    """``open_on(bundle, device, precision="fp32")``: on that device and no other, or a skip."""
    monkeypatch.setenv("KITTIWAKE_CACHE", str(cache))
    opened: list[Engine] = []

    def open_on(bundle: Bundle, device: str, precision: str = "fp32") -> Engine:
        try:
            if device == "tensorrt":
                from kittiwake_runtime.engines.cache import build_engine, make_recipe

                build_engine(bundle, make_recipe(bundle, precision, gpu), lambda share, phase: None)
            opened.append(open_engine(bundle, device=device, precision=precision, policy="require"))
        except (DeviceUnavailable, WrongGpu) as error:
            pytest.skip(error.message)
        return opened[-1]

    yield open_on
    for engine in opened:
        engine.close()


@pytest.fixture(params=DEVICES)
def twice(request: Any, open_on: Any, make_bundle: Make) -> Any:
    """The small bundle, y = 2 x + 1, with room for several shapes."""
    dims = {"N": {"min": 1, "typical": 2, "max": 8}, "L": {"min": 2, "typical": 4, "max": 64}}
    return open_on(make_bundle(dims=dims), request.param)


class Torch:
    """torch's part: arrays, and back to numpy."""

    def __init__(self) -> None:
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("this torch has no CUDA")
        self.torch = torch

    def array(self, x: Any) -> Any:
        return self.torch.as_tensor(x, device="cuda")

    def view(self, array: Any) -> Any:
        return self.torch.as_tensor(array, device="cuda")

    def numpy(self, array: Any) -> Any:
        return array.cpu().numpy()

    def stream(self) -> Any:
        return self.torch.cuda.Stream()

    def on(self, stream: Any) -> Any:
        return self.torch.cuda.stream(stream)


class CuPy:
    """CuPy's."""

    def __init__(self) -> None:
        self.cupy = pytest.importorskip("cupy")

    def array(self, x: Any) -> Any:
        return self.cupy.asarray(x)

    def view(self, array: Any) -> Any:
        return self.cupy.asarray(array)

    def numpy(self, array: Any) -> Any:
        return array.get()

    def stream(self) -> Any:
        return self.cupy.cuda.Stream(non_blocking=True)

    def on(self, stream: Any) -> Any:
        return stream


class PyCuda:
    """PyCUDA's, in the primary context, which every backend shares."""

    def __init__(self) -> None:
        pytest.importorskip("pycuda.autoprimaryctx")
        from pycuda import driver, gpuarray

        self.driver, self.gpuarray = driver, gpuarray

    def array(self, x: Any) -> Any:
        return self.gpuarray.to_gpu(np.array(x))

    def view(self, array: Any) -> Any:
        return self.gpuarray.GPUArray(array.shape, array.dtype, base=array, gpudata=array.pointer)

    def numpy(self, array: Any) -> Any:
        return array.get()

    def stream(self) -> Any:
        return self.driver.Stream()

    def on(self, stream: Any) -> Any:
        return nullcontext()


@pytest.fixture(params=[Torch, CuPy, PyCuda])
def library(request: Any) -> Any:
    return request.param()


def pointer(array: Any) -> int:
    return int(array.__cuda_array_interface__["data"][0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "precision"), VARIANTS)
def test_every_committed_bundle_gives_its_golden_outputs(open_on: Any, name: str, precision: str, device: str) -> None:
    bundle = Bundle.open(MODELS / name)
    engine = open_on(bundle, device, precision)
    assert engine.report.device == device
    for _ in range(3):  # as it is, as a graph is captured, and as the graph
        for output, error in golden_errors(engine).items():
            assert error <= max(bundle.tolerance, 2 * bundle.variants[precision].parity.get(output, 0.0))


def test_the_report_names_a_gpu(twice: Engine) -> None:
    assert twice.report.device in DEVICES
    assert twice.report.providers[0] != "CPUExecutionProvider"


def test_shapes_change_and_come_again(twice: Engine) -> None:
    random = np.random.default_rng(0)
    for i in range(60):
        x = random.normal(size=(1 + i % 8, 2, 2 + i % 5)).astype(np.float32)
        np.testing.assert_allclose(twice.infer({"x": x})["y"], 2 * x + 1, rtol=1e-6)


def test_a_stream_of_inputs_comes_out_in_order(twice: Engine) -> None:
    inputs = [np.full((1 + i % 2, 2, 4), i, np.float32) for i in range(50)]
    outputs = twice.infer_each({"x": x} for x in inputs)
    for x, output in zip(inputs, outputs, strict=True):
        np.testing.assert_array_equal(output["y"], 2 * x + 1)


def test_arrays_on_the_gpu_are_used_and_left_there(twice: Engine, library: Any) -> None:
    x = library.array(X)
    for i in range(4):
        np.testing.assert_array_equal(twice.infer({"x": x})["y"], 2 * X + 1, err_msg=f"call {i}")
        y = twice.infer_gpu({"x": x})["y"]
        view = library.view(y)
        assert pointer(view) == y.pointer, "a view, not a copy"
        np.testing.assert_array_equal(library.numpy(view), 2 * X + 1)


def test_outputs_go_to_the_callers_array_on_the_callers_stream(twice: Engine, library: Any) -> None:
    x, y, stream = library.array(X), library.array(0 * X), library.stream()
    for _ in range(4):
        with library.on(stream):
            out = twice.infer_gpu({"x": x}, out={"y": y}, stream=stream)
            assert out["y"].pointer == pointer(y)
            twice.infer_gpu({"x": y}, out={"y": x}, stream=stream)
        stream.synchronize()
        np.testing.assert_array_equal(library.numpy(x), 4 * X + 3)
        x = library.array(X)


def test_what_the_stream_holds_is_waited_for(twice: Engine) -> None:
    """The input is written only after a long kernel: whoever doesn't wait reads zeros."""
    library = Torch()
    torch, stream = library.torch, library.torch.cuda.Stream()
    slow, x, y = torch.zeros(4096, 4096, device="cuda"), library.array(0 * X), library.array(0 * X)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        for _ in range(20):
            slow = slow @ slow
        x.copy_(torch.as_tensor(X, device="cuda"))
        twice.infer_gpu({"x": x}, out={"y": y}, stream=stream)
        z = y + 1
    stream.synchronize()
    np.testing.assert_array_equal(library.numpy(z), 2 * X + 2)


def test_bound_arrays_are_read_anew_at_each_call(twice: Engine) -> None:
    library = Torch()
    x, y = library.array(X), library.array(np.zeros_like(X))
    stream = library.torch.cuda.Stream()
    run = twice.bind_gpu({"x": x}, {"y": y}, stream)
    for factor in (1, -2, 3, 4):  # the third is a replay where there are CUDA graphs
        with library.torch.cuda.stream(stream):
            x.copy_(factor * library.array(X))
            run()
        stream.synchronize()
        np.testing.assert_array_equal(library.numpy(y), 2 * factor * X + 1)


def test_an_array_that_does_not_fit_is_refused(twice: Engine) -> None:
    library = Torch()
    x = library.array(X)
    bad = {
        "expected C-contiguous": x.transpose(0, 2).contiguous().transpose(0, 2),
        "is float64": x.double(),
        "is not on a CUDA GPU": x.cpu(),
        "can't be exported": x.clone().requires_grad_(),
        "has shape": x[0],
    }
    for message, array in bad.items():
        with pytest.raises(EngineError, match=message):
            twice.infer({"x": array})
    np.testing.assert_array_equal(twice.infer({"x": x})["y"], 2 * X + 1)


def test_closing_gives_the_memory_back(open_on: Any, make_bundle: Make) -> None:
    torch, bundle = Torch().torch, make_bundle(dims={"N": {"min": 1, "typical": 1}, "L": {"min": 2, "typical": 4}})
    x = np.zeros((1, 2, 1 << 22), np.float32)

    def used_bytes_after() -> int:
        with open_on(bundle, "cuda") as engine:
            engine.infer({"x": x})
        free, total = torch.cuda.mem_get_info()
        return int(total - free)

    first = used_bytes_after()
    assert max(used_bytes_after() for _ in range(5)) < first + x.nbytes


def test_the_callers_context_is_left_as_it_was(twice: Engine) -> None:
    from cuda.bindings import driver

    before = int(driver.cuCtxGetCurrent()[1])
    twice.infer({"x": X})
    assert int(driver.cuCtxGetCurrent()[1]) == before


def test_an_array_of_another_context_is_refused(open_on: Any, make_bundle: Make) -> None:
    """An application's own context, as `pycuda.autoinit` makes it, beside ONNX Runtime's primary one."""
    from cuda.bindings import driver

    from kittiwake_runtime.engines.gpu_arrays import GpuArray

    engine = open_on(make_bundle(), "cuda")
    try:
        status, context = driver.cuCtxCreate(None, 0, 0)
    except TypeError:  # CUDA 12's has an argument less
        status, context = driver.cuCtxCreate(0, 0)
    assert not int(status)
    try:
        _, address = driver.cuMemAlloc(X.nbytes)
        with pytest.raises(EngineError, match="not in the memory of this engine's CUDA context"):
            engine.infer({"x": GpuArray(int(address), X.shape, X.dtype)})
    finally:
        driver.cuCtxDestroy(context)


def test_the_inspector_tells_the_precisions(open_on: Any) -> None:
    for name, precision in VARIANTS:
        engine = open_on(Bundle.open(MODELS / name), "tensorrt", precision)
        layers = json.loads(engine.layers())["Layers"]
        assert layers
        if precision == "fp16":
            assert "Half" in json.dumps(layers) or "FP16" in json.dumps(layers)
