from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from kittiwake_training.checkpoint import FIELDS, load_checkpoint, save_checkpoint
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.model import DescriptorCNN
from kittiwake_training.registry import build_model

META = {field: {} for field in FIELDS} | {"model": {"key": "localization.cnn", "config": {"width": 8, "dim": 48}}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(tmp_path, DescriptorCNN(width=8), META)
    return tmp_path


def test_a_loaded_model_computes_what_the_saved_one_did(folder: Path) -> None:
    torch.manual_seed(0)
    view = torch.rand(1, 2, 40, 40)
    torch.manual_seed(0)
    expected = DescriptorCNN(width=8).eval()(view)
    assert torch.equal(load_checkpoint(folder).model(view), expected)


def _rewrite(folder: Path, **changes: object) -> None:
    path = folder / "checkpoint.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"format_version": 99}, "99"),
        ({"model": {"key": "os.system", "config": {}}}, "no model is registered as 'os.system'"),
        ({"model": {"key": "localization.cnn", "config": {"depth": 3}}}, "refuses its config"),
        ({"model": {"key": "localization.cnn", "config": {"width": 12}}}, "doesn't fit"),
    ],
)
def test_a_wrong_checkpoint_says_what_is_wrong(folder: Path, changes: dict[str, object], says: str) -> None:
    _rewrite(folder, **changes)
    with pytest.raises(TrainingError, match=says):
        load_checkpoint(folder)


def test_missing_and_truncated_files_are_named(folder: Path) -> None:
    with pytest.raises(TrainingError, match="not a checkpoint"):
        load_checkpoint(folder / "nowhere")
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"weights\.safetensors"):
        load_checkpoint(folder)
    with pytest.raises(TrainingError, match="no field task"):
        save_checkpoint(folder, DescriptorCNN(width=8), {key: META[key] for key in META if key != "task"})


def test_every_registered_model_builds() -> None:
    for key in ("localization.cnn", "localization.gradients"):
        assert build_model(key, {}).eval()(torch.rand(1, 2, 33, 33)).shape == (1, 48, 1, 1)
