"""Export end to end: what the runtime computes from the bundle against the module in torch."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from kittiwake_export.errors import ExportError
from kittiwake_export.export import export
from kittiwake_runtime import Bundle, BundleError, KittiwakeError, open_engine
from kittiwake_runtime.cli import main

Register = Callable[[str, str, Mapping[str, Mapping[str, str]]], None]
Write = Callable[..., torch.nn.Module]

MODELS = '''
import torch
from torch import nn

class Net(nn.Module):
    """Convolutions, and a division that only 1e-12 keeps finite."""
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 4, 3, bias=False))

    def forward(self, view):
        x = self.body(view)
        x = x - x.mean(dim=(2, 3), keepdim=True)
        return x / torch.sqrt((x * x).sum(dim=1, keepdim=True) + 1e-12)

class Two(nn.Module):
    """Two inputs of different types that share a size, and two outputs."""
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, points, kind):
        return points + self.table(kind), kind * 2

class Ramp(Net):
    """As many entries of a table as the view has columns."""
    def forward(self, view):
        return self.body(view * torch.arange(64, dtype=view.dtype)[: view.shape[-1]])

class Chaos(Net):
    def forward(self, view):
        return torch.sin(1e8 * self.body(view))

class Branching(Net):
    def forward(self, view):
        return self.body(view) if view.sum() > 0 else self.body(-view)

class FixedSize(Net):
    def forward(self, view):
        return self.body(view).reshape(-1, 4, 2, 3)
'''


def tensor(name: str, shape: list[int | str], dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "units": "1", "meaning": "test", **more}


@pytest.fixture(scope="module", autouse=True)
def registered(register: Register) -> None:
    names = ("Net", "Two", "Ramp", "Chaos", "Branching", "FixedSize")
    register("somebodys_nets", MODELS, {"kittiwake.models": {f"test.{n}": f"somebodys_nets:{n}" for n in names}})


@pytest.fixture(scope="module")
def write(write_checkpoint: Callable[..., None]) -> Write:
    """Write the checkpoint of a model with random weights, and return the model."""

    def make(folder: Path, name: str, **changes: Any) -> torch.nn.Module:
        torch.manual_seed(7)
        model: torch.nn.Module = getattr(importlib.import_module("somebodys_nets"), name)().eval()
        for part in model.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                torch.nn.init.uniform_(part.running_mean, -0.5, 0.5)
                torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
        write_checkpoint(folder, model, f"test.{name}", **changes)
        return model

    return make


@pytest.fixture(scope="module")
def exported(write: Write, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, torch.nn.Module]:
    root = tmp_path_factory.mktemp("exported")
    options = {"cuda": {"fuse_conv_bias": True}}
    model = write(root / "checkpoint", "Net", card="## Limits\n\nNone known.", provider_options=options)
    return export(root / "checkpoint", root / "net"), model


@pytest.mark.parametrize("shape", [(1, 2, 9, 9), (1, 2, 40, 23), (5, 2, 17, 64), (3, 2, 10, 10)])
def test_the_runtime_computes_what_torch_does_at_any_size(
    exported: tuple[Bundle, torch.nn.Module], shape: tuple[int, ...]
) -> None:
    bundle, model = exported
    view = np.random.default_rng(3).random(shape, dtype=np.float32)
    with torch.inference_mode():
        expected = model(torch.from_numpy(view)).numpy()
    with open_engine(bundle, device="cpu") as engine:
        np.testing.assert_allclose(engine.infer({"view": view})["y"], expected, rtol=0, atol=1e-5)


def test_a_dynamic_size_stays_on_the_host(write: Write, tmp_path: Path) -> None:
    model = write(tmp_path / "checkpoint", "Ramp")
    bundle = export(tmp_path / "checkpoint", tmp_path / "ramp")
    network = onnx.load(bundle.file(bundle.variants["fp32"].file))
    assert not {"Squeeze", "Reshape"} & {node.op_type for node in network.graph.node}
    view = np.random.default_rng(0).random((2, 2, 11, 23), np.float32)
    with open_engine(bundle, "cpu") as engine, torch.no_grad():
        [output] = engine.infer({"view": view}).values()
        np.testing.assert_allclose(output, model(torch.from_numpy(view)), atol=1e-5)


def test_small_constants_survive(exported: tuple[Bundle, torch.nn.Module]) -> None:
    """onnxscript's optimizer removes "+ 1e-12", and a flat input then divides zero by zero."""
    with open_engine(exported[0], device="cpu") as engine:
        assert np.isfinite(engine.infer({"view": np.full((1, 2, 11, 11), 0.5, np.float32)})["y"]).all()


def test_the_network_loads_everywhere_and_tells_nothing_of_this_machine(
    exported: tuple[Bundle, torch.nn.Module],
) -> None:
    path = exported[0].file("model.onnx")
    network = onnx.load(path)
    assert network.ir_version == 10
    assert [(entry.domain, entry.version) for entry in network.opset_import] == [("", 18)]
    sizes = [dim.dim_param or dim.dim_value for dim in network.graph.input[0].type.tensor_type.shape.dim]
    assert sizes == ["N", 2, "H", "W"]
    for trace in (b".py", b"site-packages", str(Path.home()).encode()):
        assert trace not in path.read_bytes()


def test_the_bundle_says_where_it_comes_from(exported: tuple[Bundle, torch.nn.Module]) -> None:
    bundle = Bundle.open(exported[0].root)
    assert bundle.training.commit == "c0ffee"
    assert bundle.training.data[0]["name"] == "noise"
    assert bundle.calibration == {"slope": 2.0}
    assert bundle.provider_options == {"cuda": {"fuse_conv_bias": True}}
    assert bundle.metrics[0].value == 0.25
    assert 0 <= bundle.variants["fp32"].parity["y"] <= bundle.tolerance
    card = bundle.file("card.md").read_text()
    for text in ("# net", "A network for tests.", "| loss | 0.25 | 1 | test | 10 |", "c0ffee", "## Limits"):
        assert text in card


def test_golden_values_cover_all_sizes_and_the_flat_input(exported: tuple[Bundle, torch.nn.Module]) -> None:
    shapes = [case.inputs["view"].shape for case in exported[0].golden()]
    assert shapes == [(1, 2, 9, 9), (1, 2, 9, 9), (2, 2, 12, 12), (3, 2, 14, 15)]
    assert not exported[0].golden()[0].inputs["view"].any()


def test_several_inputs_and_outputs_of_several_types(write: Write, tmp_path: Path) -> None:
    model = write(
        tmp_path / "checkpoint",
        "Two",
        inputs=[tensor("points", ["N", 3], range=[-10, 10]), tensor("kind", ["N"], "int64", range=[0, 4])],
        outputs=[tensor("moved", ["N", 3]), tensor("twice", ["N"], "int64")],
        dims={"N": {"min": 1, "typical": 8}},
    )
    bundle = export(tmp_path / "checkpoint", tmp_path / "two")
    points, kind = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([4, 0, 3, 3])
    with torch.inference_mode():
        moved, twice = model(torch.from_numpy(points), torch.from_numpy(kind))
    with open_engine(bundle, device="cpu") as engine:
        outputs = engine.infer({"kind": kind, "points": points})
    np.testing.assert_allclose(outputs["moved"], moved.numpy(), atol=1e-6)
    np.testing.assert_array_equal(outputs["twice"], twice.numpy())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Chaos", r"outputs differ from the checkpoint's: y by .*the tolerance is 1e-05"),
        ("Branching", "can't be traced with dynamic N, H, W"),
        ("FixedSize", "fails on inputs of shape|can't be traced with dynamic"),
    ],
)
def test_what_would_be_wrong_is_refused_and_not_written(write: Write, tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path / "checkpoint", name)
    with pytest.raises(ExportError, match=message) as caught:
        export(tmp_path / "checkpoint", tmp_path / "net")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": -1}, r"checkpoint\.json: field `tolerance` is -1"),
        ({"inputs": [tensor("view", ["N", 2, "H", "W"], range=[1, 0])]}, r"field `inputs\[0\]\.range`"),
        ({"inputs": "view"}, "field `inputs` is 'view'; expected a list"),
        ({"dims": {}}, "field `dims`"),
    ],
)
def test_a_wrong_field_of_the_checkpoint_is_named(
    write: Write, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    write(tmp_path / "checkpoint", "Net", **changes)
    with pytest.raises(BundleError, match=message):
        export(tmp_path / "checkpoint", tmp_path / "net")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([tensor("y", ["N", 4, "h", "w"]), tensor("z", ["N"])], "gives 1 outputs; the checkpoint names 2"),
        ([tensor("y", ["N", 4, "h", "w"], "float16")], "output y is float32; expected float16"),
        ([tensor("y", ["N", 5, "h", "w"])], r"output y has shape \(\d, 4, \d, \d\); expected \(N, 5, h, w\)"),
    ],
)
def test_outputs_other_than_promised_are_refused(
    write: Write, tmp_path: Path, outputs: list[dict[str, Any]], message: str
) -> None:
    write(tmp_path / "checkpoint", "Net", outputs=outputs)
    with pytest.raises(KittiwakeError, match=message):
        export(tmp_path / "checkpoint", tmp_path / "net")


def test_the_command(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "checkpoint", "Net")
    assert main(["export", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "net"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["sha256"] == Bundle.open(tmp_path / "net").sha256
    assert result["parity"]["fp32"]["y"] <= result["tolerance"]
    assert main(["export", str(tmp_path / "absent"), "-o", str(tmp_path / "other")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
