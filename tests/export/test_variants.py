"""Variants end to end on the awkward network: its float16 overflows at one norm, and its task can be quantized."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import Awkward
from onnx import TensorProto
from onnx.numpy_helper import to_array

from kittiwake_export.errors import ExportError
from kittiwake_export.export import add_variants, export
from kittiwake_export.variants import judge
from kittiwake_runtime import Bundle, open_engine
from kittiwake_runtime.cli import main
from kittiwake_runtime.engines import tensorrt_library
from kittiwake_runtime.engines.errors import DeviceUnavailable
from kittiwake_runtime.engines.profiles import profile_sizes
from kittiwake_runtime.engines.tensorrt_build import BuildOrder, build
from kittiwake_runtime.errors import EngineError
from kittiwake_training.errors import TrainingError
from kittiwake_training.tasks import Trial

Register = Callable[[str, str, Mapping[str, Mapping[str, str]]], None]

# Agreement of signs with the network in torch, on noise of a seed that the data folder names.
TASK = """
import numpy as np
import torch
from networks import Awkward
from kittiwake_training.tasks import Calibration, Trial

class Signs:
    allowed_loss = 2.0
    metric = "agreeing signs"

    def __init__(self, inputs):
        assert [spec.name for spec in inputs] == ["image"]

    def calibration(self, data):
        rng = np.random.default_rng(0)
        images = tuple({"image": rng.random((2, 1, 32, 48), np.float32)} for _ in range(8))
        return Calibration(images, ({"name": "noise"},))

    def trial(self, infer, data):
        rng = np.random.default_rng(1)
        torch.manual_seed(0)
        model, values = Awkward().eval(), []
        for _ in range(30):
            image = rng.random((1, 1, 32, 48), np.float32)
            with torch.no_grad():
                expected = model(torch.from_numpy(image)).numpy()
            given = infer({"image": image})["vectors"]
            values.append(100.0 * float((np.sign(given) == np.sign(expected)).mean()))
        return Trial(self.metric, "%", "noise", np.array(values), np.arange(len(values)))

class Strict(Signs):
    allowed_loss = -50.0

class Lenient(Signs):
    allowed_loss = 5.0
"""


@pytest.fixture(scope="module")
def checkpoint(register: Register, write_checkpoint: Callable[..., None], tmp_path_factory: Any) -> Callable[..., Path]:
    groups = {
        "kittiwake.models": {"test.awkward": "networks:Awkward"},
        "kittiwake.tasks": {
            "test.signs": "somebodys_task:Signs",
            "test.strict": "somebodys_task:Strict",
            "test.lenient": "somebodys_task:Lenient",
        },
    }
    register("somebodys_task", TASK, groups)

    def write(task: str) -> Path:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("checkpoint")
        tensors = [
            {"name": name, "dtype": "float32", "shape": shape, "units": "1", "meaning": "test"}
            for name, shape in (("image", ["N", 1, "H", "W"]), ("vectors", ["N", 8, "h", "w"]))
        ]
        dims = {"N": {"min": 1, "typical": 2}, "H": {"min": 8, "typical": 32, "max": 128},
                "W": {"min": 8, "typical": 48, "max": 128}}  # fmt: skip
        changes = {"name": "awkward", "task": task, "inputs": tensors[:1], "outputs": tensors[1:], "dims": dims}
        write_checkpoint(folder, Awkward().eval(), "test.awkward", **changes, tolerance=1e-4, card="## Limits\n\nMany.")
        return folder

    return write


@pytest.fixture(scope="module")
def bundle(checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Bundle:
    root = tmp_path_factory.mktemp("models")
    return export(checkpoint("test.signs"), root / "awkward", ["fp16", "int8"], root)


def test_fp16_keeps_in_float32_what_overflows_and_nothing_else(bundle: Bundle) -> None:
    assert bundle.variants["fp16"].float_nodes == ("node_mul_136", "node_layer_norm_4")
    assert 0 < bundle.variants["fp16"].parity["vectors"] < 0.01  # of values in [-1, 1]


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("fp16", 0.01), ("int8", 0.3)])
@pytest.mark.parametrize("size", [(1, 8, 8), (3, 36, 20), (1, 128, 72)])
def test_every_precision_takes_every_size(
    bundle: Bundle, precision: str, near: float, size: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    model = Awkward().eval()
    image = np.random.default_rng(5).random((size[0], 1, *size[1:]), np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(image)).numpy()
    with open_engine(bundle, "cpu", precision, "require") as engine:
        np.testing.assert_allclose(engine.infer({"image": image})["vectors"], expected, atol=near)


def test_int8_says_what_it_was_calibrated_on_and_what_it_costs(bundle: Bundle) -> None:
    variant = bundle.variants["int8"]
    assert variant.calibration == {"data": [{"name": "noise"}], "samples": 16}
    assert variant.tensorrt is not None
    for cost in (variant.accuracy, variant.tensorrt.accuracy):
        assert cost is not None
        assert (cost.name, cost.unit, cost.split, cost.n, cost.reference) == ("agreeing signs", "%", "noise", 30, 100.0)
        assert cost.interval[0] <= cost.loss <= cost.interval[1]
        assert cost.loss == pytest.approx(100.0 - cost.value)
        assert 0 <= cost.loss <= cost.allowed
    card = bundle.file("card.md").read_text()
    assert "agreeing signs" in card and "ranges from 16 samples of noise" in card


def ahead_of_time() -> Any:
    """A TensorRT that builds for GPUs that are not there."""
    try:
        library = tensorrt_library.load()
    except DeviceUnavailable as error:
        pytest.skip(error.message)
    if not library.ahead_of_time:
        pytest.skip(f"{library.name} builds for this machine's GPU only")
    return library


@pytest.mark.parametrize("sm", ["8.6", "8.9", "12.0"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_builds_it_ahead_of_time(bundle: Bundle, precision: str, sm: str) -> None:
    ahead_of_time()
    file = bundle.variants[precision].for_device("tensorrt").file
    plan, layers = build(BuildOrder(str(bundle.root), file, profile_sizes(bundle), sm), lambda share, phase: None)
    assert len(plan) > 1000
    kinds = {kind for types in layers.values() for kind in types}
    assert {"fp32": "FLOAT", "fp16": "HALF", "int8": "INT8"}[precision] in kinds


@pytest.fixture(scope="module")
def by_modelopt(checkpoint: Callable[..., Path], tmp_path_factory: Any) -> Bundle:
    pytest.importorskip("modelopt", reason="NVIDIA's modelopt is not installed: kittiwake-export[modelopt]")
    root = tmp_path_factory.mktemp("modelopt")
    plain = export(checkpoint("test.lenient"), root / "plain")  # fp8 loses 2.8 %
    return add_variants(plain, root / "awkward", ["int8", "fp8"], root, by_modelopt=True)


@pytest.mark.parametrize(("precision", "weights"), [("int8", TensorProto.INT8), ("fp8", TensorProto.FLOAT8E4M3FN)])
def test_modelopt_quantizes_what_tensorrt_takes(by_modelopt: Bundle, precision: str, weights: int) -> None:
    variant = by_modelopt.variants[precision]
    network = onnx.load(by_modelopt.file(variant.for_device("tensorrt").file))
    constants = {tensor.name: tensor for tensor in network.graph.initializer}
    pairs = [node for node in network.graph.node if node.op_type == "DequantizeLinear"]
    zeros = [constants[node.input[2]] for node in pairs]
    assert {zero.data_type for zero in zeros} == {weights}
    assert not any(to_array(zero).any() for zero in zeros)
    made = {node.output[0] for node in pairs}
    products = [node for node in network.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    quantized = {node.name for node in products if set(node.input[:2]) <= made}
    assert quantized and not quantized & set(variant.float_nodes)
    assert variant.accuracy is not None and variant.accuracy.n == 30
    image = np.random.default_rng(5).random((3, 1, 36, 20), np.float32)
    found = []
    for each in ("fp32", precision):
        with open_engine(by_modelopt, "cpu", each, "require") as engine:
            found.append(engine.infer({"image": image})["vectors"])
    expected, given = found
    np.testing.assert_allclose(given, expected, atol=0.5)


@pytest.mark.parametrize(("sm", "builds"), [("8.9", True), ("12.0", True), ("8.6", False)])
def test_tensorrt_rtx_builds_fp8_where_the_gpu_knows_it(by_modelopt: Bundle, sm: str, builds: bool) -> None:
    library = ahead_of_time()
    order = BuildOrder(str(by_modelopt.root), by_modelopt.variants["fp8"].file, profile_sizes(by_modelopt), sm)
    if not builds:
        with pytest.raises(EngineError):
            build(order, lambda share, phase: None)
        return
    _, layers = build(order, lambda share, phase: None)
    assert "FP8" in {kind for types in layers.values() for kind in types}, library.name


@pytest.mark.slow
def test_variants_are_added_to_a_finished_bundle(
    checkpoint: Callable[..., Path], bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = export(checkpoint("test.signs"), tmp_path / "awkward")
    words = ["export", "--bundle", str(plain.root), "-o", str(plain.root), "--precision", "fp16", "--precision", "int8"]
    assert main([*words, "--data", str(tmp_path), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["parity"]) == {"fp32", "fp16", "int8"}
    added = Bundle.open(plain.root)
    assert added.files["model.onnx"] == plain.files["model.onnx"] == bundle.files["model.onnx"]
    assert added.files["model.int8.onnx"] == bundle.files["model.int8.onnx"]
    assert added.variants == bundle.variants
    assert added.file("card.md").read_text() == bundle.file("card.md").read_text()
    again = add_variants(added, tmp_path / "again", ["fp16"])
    assert again.files == added.files


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--precision", "int8"], "int8 needs real data to calibrate with"),
        (["--precision", "fp8"], "fp8 needs real data to calibrate with"),
        ([], "expected a checkpoint, or --bundle and none"),
    ],
)
def test_what_is_missing_is_said(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    source = ["--bundle", str(bundle.root)] if words else []
    assert main(["export", *source, "-o", str(tmp_path / "new"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("words", "what"), [(["--precision", "fp8"], "fp8"), (["--precision", "int8", "--modelopt"], "--modelopt")]
)
def test_without_modelopt_it_says_where_to_read_of_it(
    bundle: Bundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    what: str,
) -> None:
    monkeypatch.setattr("kittiwake_export.modelopt.find_spec", lambda name: None)
    source = ["--bundle", str(bundle.root), "--data", str(tmp_path)]
    assert main(["export", *source, "-o", str(tmp_path / "new"), *words]) == 2
    assert f"{what} needs NVIDIA's modelopt, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_int8_that_loses_too_much_is_refused_and_nothing_is_written(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=r"int8 is refused: it loses .* % of agreeing signs .*allowed are -50"):
        export(checkpoint("test.strict"), tmp_path / "awkward", ["int8"], tmp_path)
    assert not (tmp_path / "awkward").exists()


def test_a_task_that_nobody_registered_cannot_be_quantized(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nothing is known of the task 'test\.unknown'"):
        export(checkpoint("test.unknown"), tmp_path / "awkward", ["int8"], tmp_path)


def test_the_interval_of_a_loss_is_that_of_its_groups() -> None:
    """40 places of 25 queries that all do the same: as many samples as places. Against the normal approximation."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 25)
    losses = rng.normal(1.0, 2.0, 40)[groups]
    reference = Trial("recall", "%", "s", np.full(1000, 50.0), groups)
    found = judge(reference, Trial("recall", "%", "s", 50.0 - losses, groups), "int8", allowed=5.0)
    half = 1.96 * losses.std(ddof=1) / np.sqrt(40)
    assert found["loss"] == pytest.approx(losses.mean(), abs=1e-3)
    assert found["interval"][0] == pytest.approx(losses.mean() - half, abs=0.15)
    assert found["interval"][1] == pytest.approx(losses.mean() + half, abs=0.15)
