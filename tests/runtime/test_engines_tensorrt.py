"""TensorRT-RTX builds engines on a machine without a GPU: every committed bundle must become one, strongly typed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest

from kittiwake_runtime import Bundle, EngineError, open_engine
from kittiwake_runtime.cli import main
from kittiwake_runtime.engines import tensorrt_library
from kittiwake_runtime.engines.cache import build_engine, make_recipe
from kittiwake_runtime.engines.cuda import gpu_ahead_of_time
from kittiwake_runtime.engines.errors import (
    BadPlugin,
    DamagedEngine,
    DeviceUnavailable,
    NoMemory,
    WrongGpu,
    WrongVersion,
)
from kittiwake_runtime.engines.profiles import profile_sizes
from kittiwake_runtime.engines.tensorrt_build import BuildOrder, build
from kittiwake_runtime.engines.tensorrt_library import named

Make = Callable[..., Bundle]
MODELS = Path(__file__).resolve().parents[2] / "models" / "kittiwake_models"
VARIANTS = [
    (manifest.parent.name, precision)
    for manifest in sorted(MODELS.glob("*/manifest.json"))
    for precision in json.loads(manifest.read_text(encoding="utf-8"))["variants"]
]
SMS = ("8.6", "8.9", "12.0")
# What the heavy operators of a variant compute in; INT8 stands in explicit quantization nodes around them.
TYPES = {"fp32": "FLOAT", "fp16": "HALF"}


@pytest.fixture
def rtx() -> Any:
    """TensorRT-RTX, or a skip that says what is missing."""
    try:
        library = tensorrt_library.load()
    except DeviceUnavailable as error:
        pytest.skip(f"{error.message}: {error.hint}")
    if not library.ahead_of_time:
        pytest.skip(f"{library.name} {library.version} builds for this machine's GPU only")
    return library


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KITTIWAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def order(bundle: Bundle, precision: str = "fp32", sm: str = "8.6") -> BuildOrder:
    file = bundle.variants[precision].for_device("tensorrt").file
    return BuildOrder(str(bundle.root), file, profile_sizes(bundle), sm)


def silent(share: float, phase: str) -> None:
    assert 0 <= share <= 1
    assert phase


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize(("name", "precision"), VARIANTS)
def test_every_committed_bundle_builds_in_every_precision(rtx: Any, name: str, precision: str, sm: str) -> None:
    plan, layers = build(order(Bundle.open(MODELS / name), precision, sm), silent)
    assert len(plan) > 1000
    heavy = {kind: types for kind, types in layers.items() if kind in ("CONVOLUTION", "MATRIX_MULTIPLY")}
    if precision == "int8":
        assert layers["QUANTIZE"]
        assert layers["DEQUANTIZE"]
    else:
        assert any(TYPES[precision] in types for types in heavy.values()), layers
    if precision == "fp32":
        assert not {"HALF", "INT8"} & {kind for types in layers.values() for kind in types}, layers


def test_a_network_that_is_none(rtx: Any, make_bundle: Make) -> None:
    with pytest.raises(EngineError, match=r"model\.onnx with tensorrt_rtx .*"):
        build(order(make_bundle(b"no network at all")), silent)


def test_an_unsupported_operator_is_named_with_its_node(rtx: Any, make_bundle: Make) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import helper

    info = [helper.make_tensor_value_info(name, 1, ["N", 2, "L"]) for name in "xy"]
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="the_culprit")
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = onnx.helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BadPlugin, match=r"Frobnicate \(node the_culprit\)") as caught:
        build(order(make_bundle(model.SerializeToString())), silent)
    assert "without that operator" in caught.value.hint


def test_a_gpu_that_it_does_not_build_for(rtx: Any, make_bundle: Make) -> None:
    with pytest.raises(EngineError, match=r"can't build for SM 9\.0; it can for SM75, "):
        build(order(make_bundle(), sm="9.0"), silent)


def test_a_full_disk_is_named(rtx: Any, cache: Path, make_bundle: Make) -> None:
    """The builder's process writes to a device that is always full."""
    bundle = make_bundle()
    recipe = make_recipe(bundle, "fp32", gpu_ahead_of_time("8.6"))
    part = cache / bundle.name / f"{recipe.key}.part"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    with pytest.raises(EngineError, match="no space is left for the engine") as caught:
        build_engine(bundle, recipe, silent)
    assert "KITTIWAKE_CACHE" in caught.value.hint
    assert {path.suffix for path in part.parent.iterdir()} == {".lock"}
    assert build_engine(bundle, recipe, silent).read()


def test_the_command_builds_lists_and_verifies(rtx: Any, cache: Path, make_bundle: Make, capsys: Any) -> None:
    bundle = make_bundle()
    words = ["engine", "build", str(bundle.root), "--sm", "8.9", "--size", "N=1:2:3", "--json"]
    assert main(words) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["recipe"]["sizes"] == {"N": [1, 2, 3], "L": [2, 4, 64]}
    assert entry["recipe"]["gpu"]["sm"] == "8.9"
    assert Path(entry["path"]).stat().st_size == entry["size_bytes"]
    assert main(["engine", "verify"]) == 0
    assert main(words) == 0
    (again,) = json.loads(capsys.readouterr().out.partition("\n")[2])
    assert again == entry


def test_a_full_disk_is_named_and_leaves_nothing(rtx: Any, cache: Path, make_bundle: Make) -> None:
    """The kernel refuses to write more than 4 KiB to a file, as a full disk does."""
    words = f"ulimit -f 4; exec '{sys.executable}' -m kittiwake_runtime engine build '{make_bundle().root}' --sm 8.6"
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "error: " in done.stderr
    assert "no space is left for the engine" in done.stderr
    assert "KITTIWAKE_CACHE" in done.stderr
    assert {path.suffix for path in cache.rglob("*") if path.is_file()} == {".lock"}


def test_an_engine_can_be_cut_or_altered_and_is_then_refused(rtx: Any, cache: Path, make_bundle: Make) -> None:
    """By TensorRT itself, where a sidecar was made to fit."""
    plan, _ = build(order(make_bundle()), silent)
    logger = tensorrt_library.make_logger(rtx)
    runtime = rtx.trt.Runtime(logger)
    assert runtime.engine_host_code_allowed is False
    for content in (b"no engine" * 100, plan[: len(plan) // 2]):
        logger.problems.clear()
        assert runtime.deserialize_cuda_engine(content) is None
        assert isinstance(named("twice", logger.problems), DamagedEngine), logger.problems


MESSAGES: dict[str, type[EngineError]] = {
    "The engine plan file is generated on an incompatible device, expecting compute 8.7 got compute 8.6": WrongGpu,
    "The engine cannot run on this GPU, which has compute capability 9.0.": WrongGpu,
    "The engine plan file is not compatible with this version of TensorRT, expecting library version "
    "10.3.0.30 got 10.13.3.9, please rebuild.": WrongVersion,
    "Serialization assertion plan.header.size == blobSize failed.": DamagedEngine,
    "Version tag does not match. Note: Current Version: 239, Serialized Engine Version: 240": WrongVersion,
    "[resizingAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)": NoMemory,
    "Requested amount of GPU memory (34359738368 bytes) could not be allocated. OutOfMemory": NoMemory,
    "getPluginCreator could not find plugin: EfficientNMS version: 1": BadPlugin,
    "Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match": DamagedEngine,
    "CUDA initialization failure with error: 35 (CUDA driver version is insufficient for CUDA runtime version)":
        DeviceUnavailable,
    "something new": EngineError,
}  # fmt: skip


@pytest.mark.parametrize(("message", "kind"), MESSAGES.items())
def test_what_tensorrt_says_becomes_a_named_error(message: str, kind: type[EngineError]) -> None:
    error = named("loading twice", [message, message])
    assert type(error) is kind
    assert error.message == f"loading twice: {message}"
    assert bool(error.hint) == (kind is not EngineError)


def test_without_a_word_it_is_still_an_error() -> None:
    assert named("loading twice", []).message == "loading twice: TensorRT failed without saying why"


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without TensorRT."""
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    tensorrt_library.load.cache_clear()
    yield
    tensorrt_library.load.cache_clear()


def test_where_tensorrt_is_missing(hidden: None, make_bundle: Make, cache: Path) -> None:
    with pytest.raises(DeviceUnavailable, match="TensorRT"):
        open_engine(make_bundle(), device="tensorrt", policy="require")
    with open_engine(make_bundle(), device="tensorrt") as engine:
        assert engine.report.device in ("cuda", "cpu")
        assert "TensorRT" in engine.report.reasons[0]


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="needs a machine without a GPU")
def test_where_the_gpu_is_missing(rtx: Any, make_bundle: Make, cache: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=r"no NVIDIA driver|cuda\.bindings"):
        open_engine(make_bundle(), device="tensorrt", policy="require")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="needs a CPU alone")
def test_auto_on_a_machine_without_a_gpu_imports_no_tensorrt(make_bundle: Make) -> None:
    code = (
        "import sys\nfrom kittiwake_runtime import Bundle, open_engine\n"
        f"print(open_engine(Bundle.open({str(make_bundle().root)!r})).report.reasons)\n"
        "print([name for name in sys.modules if name.startswith(('tensorrt_rtx', 'cuda'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    reasons, modules = done.stdout.splitlines()
    assert "no CUDAExecutionProvider" in reasons
    assert modules == "[]"


def test_what_a_manifest_may_set(make_bundle: Make) -> None:
    """Options of speed and memory, and none that names a file, an address or another GPU."""
    from kittiwake_runtime.engines.onnxruntime import _gpu_options

    bundle = make_bundle(provider_options={"cuda": {"prefer_nhwc": False, "use_tf32": 1, "fuse_conv_bias": True}})
    options = _gpu_options(bundle, "cuda", 4711)["cuda"]
    given = {name: options[name] for name in ("prefer_nhwc", "use_tf32", "fuse_conv_bias", "user_compute_stream")}
    assert given == {"prefer_nhwc": "0", "use_tf32": "1", "fuse_conv_bias": "1", "user_compute_stream": "4711"}
    usual = _gpu_options(make_bundle(), "cuda", 4711)["cuda"]
    assert (usual["use_tf32"], usual["prefer_nhwc"]) == ("0", "1"), "fp32 is fp32, channels last"
    for device, name in (("cuda", "user_compute_stream"), ("tensorrt-ep", "trt_extra_plugin_lib_paths"), ("cpu", "x")):
        with pytest.raises(EngineError, match=f"its manifest sets '{name}' for '{device}', which a bundle may not"):
            _gpu_options(make_bundle(provider_options={device: {name: 1}}), "cuda", 1)
    with pytest.raises(EngineError.__bases__[0], match=r"provider_options\.cuda\.use_tf32"):
        make_bundle(provider_options={"cuda": {"use_tf32": [1]}})
