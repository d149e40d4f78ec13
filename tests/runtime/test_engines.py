from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest

from kittiwake_runtime import Bundle, BundleError, EngineError, open_engine
from kittiwake_runtime.engines.base import golden_errors
from kittiwake_runtime.engines.cuda import Device

Make = Callable[..., Bundle]
X = np.arange(16, dtype=np.float32).reshape(2, 2, 4)


def test_it_computes(make_bundle: Make) -> None:
    with open_engine(make_bundle()) as engine:
        np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)
        strided = np.asfortranarray(X)[:, ::-1, ::2]
        np.testing.assert_array_equal(engine.infer({"x": strided})["y"], 2 * strided + 1)


def test_the_report_says_what_runs(make_bundle: Make) -> None:
    with open_engine(make_bundle(), device="cpu", threads=1) as engine:
        report = engine.report
    assert (report.backend, report.device, report.precision, report.file) == (
        "onnxruntime", "cpu", "fp32", "model.onnx",
    )  # fmt: skip
    assert report.providers == ("CPUExecutionProvider",)
    assert report.reasons == ()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the inputs are x; given: none"),
        ({"x": X, "z": X}, "the inputs are x; given: x, z"),
        ({"X": X}, "given: X"),
        ({"x": X.tolist()}, "input x is of type list; expected a numpy array"),
        ({"x": X.astype(np.float64)}, "input x is float64; expected float32"),
        ({"x": X.astype(">f4")}, "expected float32"),
        ({"x": X[0]}, r"input x has shape \(2, 4\); expected \(N, 2, L\)"),
        ({"x": X.transpose(0, 2, 1)}, r"input x has shape \(2, 4, 2\); expected \(N, 2, L\)"),
        ({"x": X[:, :, :1]}, r"size L is 1; expected 2 … 64"),
        ({"x": np.zeros((1, 2, 65), np.float32)}, r"size L is 65; expected 2 … 64"),
        ({"x": X[:0]}, r"size N is 0; expected 1 … ∞"),
    ],
)
def test_wrong_inputs_are_refused_with_what_was_expected(
    make_bundle: Make, inputs: dict[str, Any], message: str
) -> None:
    with open_engine(make_bundle()) as engine, pytest.raises(EngineError, match=message):
        engine.infer(inputs)


@pytest.mark.parametrize("where", [(0, 0, 0), (1, 1, 3)])
def test_nan_is_refused_with_its_place_and_infinity_is_not(make_bundle: Make, where: tuple[int, int, int]) -> None:
    x = X.copy()
    x[where] = np.nan
    with open_engine(make_bundle()) as engine:
        place = ", ".join(map(str, where))
        with pytest.raises(EngineError, match=rf"input x holds 1 NaN, the first at \({place}\)") as caught:
            engine.infer({"x": x})
        assert "mask or replace" in caught.value.hint
        x[where] = np.inf
        assert np.isposinf(engine.infer({"x": x})["y"][where])


def test_a_bundle_without_golden_values_is_run_but_not_verified(make_bundle: Make) -> None:
    root = make_bundle().root
    (root / "golden.npz").unlink()
    manifest = json.loads((root / "manifest.json").read_text())
    del manifest["files"]["golden.npz"]
    (root / "manifest.json").write_text(json.dumps(manifest))
    with open_engine(Bundle.open(root), device="cpu") as engine:
        np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)
        with pytest.raises(BundleError, match=r"has no file golden\.npz"):
            golden_errors(engine)


def test_an_array_on_a_gpu_is_refused_on_the_cpu(make_bundle: Make) -> None:
    class OnGpu:
        shape, dtype = X.shape, X.dtype

        def __dlpack__(self) -> None:
            raise AssertionError("not to be read")

    with open_engine(make_bundle(), device="cpu") as engine:
        with pytest.raises(EngineError, match="of type OnGpu; expected a numpy array") as caught:
            engine.infer({"x": OnGpu()})
        assert "needs an engine that runs there" in caught.value.hint
        with pytest.raises(EngineError, match="where no array is on the GPU"):
            engine.infer_gpu({"x": X})


def test_the_same_name_is_the_same_size_in_every_tensor(make_bundle: Make) -> None:
    """An output whose manifest promises another size than the network gives."""
    y = {"name": "y", "dtype": "float32", "shape": ["L", 2, "N"], "units": "m", "meaning": "turned"}
    with open_engine(make_bundle(outputs=[y])) as engine:
        expected = r"output y has shape \(2, 2, 4\); expected \(L, 2, N\) where L = 4, N = 2"
        with pytest.raises(EngineError, match=expected):
            engine.infer({"x": X})


def test_a_closed_engine_says_so(make_bundle: Make) -> None:
    engine = open_engine(make_bundle())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer({"x": X})


@pytest.mark.parametrize("device", ["cuda", "tensorrt-ep"])
def test_a_device_that_is_not_there(make_bundle: Make, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    bundle = make_bundle()
    with pytest.raises(EngineError, match=r"has no .*ExecutionProvider"):
        open_engine(bundle, device=device, policy="require")
    with open_engine(bundle, device=device) as engine:
        assert engine.report.device == "cpu"
        assert "CUDAExecutionProvider" in engine.report.reasons[-1]
        np.testing.assert_array_equal(engine.infer({"x": X})["y"], 2 * X + 1)


class NoGpu:
    """A CUDA context of which nothing is used: the session comes up without CUDA."""

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...

    def new_stream(self) -> int:
        return 4711


@pytest.mark.filterwarnings("ignore:.*CUDAExecutionProvider:UserWarning")
@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="needs a machine without CUDA"
)
def test_a_silent_fall_to_the_cpu_is_noticed(make_bundle: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is listed, but the session comes up without it, as where cuDNN is missing."""
    real = onnxruntime.InferenceSession
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    monkeypatch.setattr(Device, "open", lambda primary: NoGpu())
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, providers[-1:])
    )
    bundle = make_bundle()
    with pytest.raises(EngineError, match="CUDAExecutionProvider did not start"):
        open_engine(bundle, device="cuda", policy="require")
    with open_engine(bundle, device="auto") as engine:
        assert engine.report.device == "cpu"
        assert "did not start" in engine.report.reasons[-1]


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="needs a machine without CUDA"
)
def test_onnx_runtime_for_cuda_on_a_machine_without_a_driver(
    make_bundle: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    with pytest.raises(EngineError, match=r"no NVIDIA driver|cuda\.bindings") as caught:
        open_engine(make_bundle(), device="cuda", policy="require")
    assert caught.value.hint


def test_a_precision_that_is_not_there(make_bundle: Make) -> None:
    bundle = make_bundle()
    with pytest.raises(EngineError, match="has no int8 variant, only fp32"):
        open_engine(bundle, device="cpu", precision="int8", policy="require")
    with open_engine(bundle, device="cpu", precision="int8") as engine:
        assert engine.report.precision == "fp32"
        assert engine.report.reasons == ("twice has no int8 variant, only fp32",)


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"precision": "fp12"}, {"policy": "hope"}, {"threads": 0}], ids=str
)
def test_unknown_options_are_refused(make_bundle: Make, options: dict[str, Any]) -> None:
    name, value = next(iter(options.items()))
    with pytest.raises(EngineError, match=f"{name} is {value!r}; expected"):
        open_engine(make_bundle(), **options)


def test_a_corrupt_network_is_named(make_bundle: Make, network: Callable[..., bytes]) -> None:
    for content in (b"no network at all", network()[:-40]):
        with pytest.raises(EngineError, match=r"model\.onnx on cpu: ") as caught:
            open_engine(make_bundle(content), device="cpu")
        assert "\n" not in caught.value.message


def test_an_unknown_opset_is_named(make_bundle: Make, network: Callable[..., bytes]) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx on cpu: .*opset") as caught:
        open_engine(make_bundle(network(opset=99)), device="cpu")
    assert "opset 18" in caught.value.hint


def test_an_unsupported_operator_is_named(make_bundle: Make, network: Callable[..., bytes]) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx on cpu: .*Frobnicate") as caught:
        open_engine(make_bundle(network(operator="Frobnicate", node="the_culprit")), device="cpu")
    assert "the_culprit" in caught.value.message
    assert caught.value.hint


def test_a_network_of_another_interface_is_refused(make_bundle: Make, network: Callable[..., bytes]) -> None:
    x = {"name": "q", "dtype": "float32", "shape": ["N", 2, "L"], "units": "m", "meaning": "a length"}
    with pytest.raises(EngineError, match=r"its inputs are {'x': 'float32'}; the manifest says {'q': 'float32'}"):
        open_engine(make_bundle(inputs=[x]))
    with pytest.raises(EngineError, match=r"its inputs are {'x': 'float64'}; the manifest says {'x': 'float32'}"):
        open_engine(make_bundle(network(dtype=11)))


def test_golden_values_are_compared(make_bundle: Make) -> None:
    with open_engine(make_bundle()) as engine:
        assert golden_errors(engine) == {"y": 0.0}
    with open_engine(make_bundle(offset=0.25)) as engine:
        assert golden_errors(engine)["y"] == pytest.approx(0.25)
    with open_engine(make_bundle(offset=float("nan"))) as engine:
        assert np.isnan(golden_errors(engine)["y"])


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = (
        "import sys, kittiwake_runtime\n"
        "from kittiwake_runtime import Bundle, open_engine\n"
        "heavy = 'numpy cv2 onnxruntime torch onnx rclpy pyproj rasterio yaml scipy matplotlib'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
