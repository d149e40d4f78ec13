from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from kittiwake_export import layer_times
from kittiwake_export.cli import times_command
from kittiwake_export.errors import ExportError
from kittiwake_export.layer_times import _grid, _one_layer, build, layer_seconds, random_widths, read_specs
from kittiwake_runtime.cli import main
from kittiwake_training.checkpoint import save_checkpoint
from kittiwake_training.localization.model import DescriptorCNN
from kittiwake_training.localization.train import CnnConfig, LocalizationConfig, describe_run
from kittiwake_training.pruning.cost import Layer, layers_of
from kittiwake_training.pruning.latency import load_table


def layer(kind: str = "conv", taken: int = 16, made: int = 32, groups: int = 1, stride: int = 1) -> Layer:
    kernel = (1, 1) if kind == "linear" else (3, 3)
    return Layer("net.layer", kind, taken, made, kernel, (stride, stride), groups, 4, 7, 9, False)


@pytest.mark.parametrize(
    "each",
    [layer(), layer(stride=2), layer("depthwise", 16, 16, 16), layer(groups=4)],
    ids=["plain", "stride", "depthwise", "grouped"],
)
def test_the_layer_that_is_timed_is_the_layer(each: Layer) -> None:
    network = _one_layer(each)
    session = ort.InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    (result,) = session.run(None, {"x": np.zeros(shape, np.float32)})
    assert result.shape == (each.batch, each.made, each.height, each.width)
    assert shape[1] == each.taken


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_more_work_takes_longer(precision: str) -> None:
    narrow, wide = (layer_seconds(layer(taken=n, made=n), precision, 1) for n in (16, 256))
    assert 0 < 4 * narrow < wide


def test_a_transposed_convolution_has_no_times() -> None:
    with pytest.raises(ExportError, match=r"'net\.layer' is a transposed convolution"):
        layer_seconds(layer("transposed"), "fp32", 1)


def test_the_grid_reaches_the_layers_own_count_in_multiples() -> None:
    assert _grid(192)[0] == 8
    assert _grid(192)[-1] == 192
    assert all(count % 8 == 0 for count in _grid(192))
    assert _grid(20)[-1] == 20


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("checkpoint")
    meta = describe_run(LocalizationConfig(cnn=CnnConfig(width=16, dim=16, sigmas_px=(5.0,), colours=1)), [])
    meta["training"]["data"] = [{"name": "none"}]
    save_checkpoint(folder, DescriptorCNN(16, 16), {**meta, "metrics": [], "calibration": {}})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("multiple", [8, 16])
def test_random_widths_run_as_onnx(checkpoint: Path, multiple: int) -> None:
    meta = json.loads((checkpoint / "checkpoint.json").read_text())
    inputs, outputs, dims = read_specs(meta, checkpoint)
    model = DescriptorCNN(32, 16).eval()
    view = np.random.default_rng(0).random((2, 2, 33, 33), np.float32)
    for network in random_widths(model, view, model.untouched, 1, 1, multiple):
        assert all(x.made % multiple == 0 or x.made < multiple for x in layers_of(network, torch.from_numpy(view)))
        (graph,) = build(network, inputs, outputs, dims, ["fp32"])
        session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {"view": view})
        with torch.no_grad():
            np.testing.assert_allclose(found, network(torch.from_numpy(view)).numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_a_table_that_knows_the_network(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, few in (("_FITTED", 3), ("_TURNS", 5), ("_PASSES", 1), ("_GRID", 2)):
        monkeypatch.setattr(layer_times, name, few)
    table = tmp_path / "times.json"
    assert main([times_command.name, str(checkpoint), "-o", str(table), "--precision", "fp32"]) == 0
    (model,) = load_table(table).values()
    view = torch.rand(36, 2, 33, 33)
    seconds = model(layers_of(DescriptorCNN(16, 16), view))
    narrower = model(layers_of(DescriptorCNN(16, 16, widths=[4, 8, 8, 8, 8, 8]), view))
    assert 0 < narrower < seconds < 1
