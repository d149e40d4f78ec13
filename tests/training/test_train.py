from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kittiwake_training import cli
from kittiwake_training.checkpoint import load_checkpoint
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.data import SamplerConfig
from kittiwake_training.localization.evaluate import EvaluationConfig
from kittiwake_training.localization.places import Place
from kittiwake_training.localization.train import CnnConfig, LocalizationConfig, WorldConfig, train
from kittiwake_training.standalone import run_alone
from kittiwake_training.trainer import TrainerConfig

TINY = LocalizationConfig(
    cnn=CnnConfig(width=8),
    sampler=SamplerConfig(pairs=16, groups=2),
    world=WorldConfig(places=0, validation_places=0),
    trainer=TrainerConfig(steps=6, warmup_steps=2, log_every=1, accelerator="cpu"),
    evaluation=EvaluationConfig(queries=2, imagery_steps=(1.0,)),
)


@pytest.fixture
def data(tmp_path: Path, places: list[Place]) -> Path:
    for place in places:
        place.save(tmp_path / "places")
    return tmp_path / "places"


def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    train(TINY, data, tmp_path / "whole")
    parts = tmp_path / "parts"
    first = train(TINY, data, parts, max_minutes=0)  # stops after its first step
    assert not first["finished"]
    assert first["steps"] == 1
    assert train(TINY, data, parts, resume=True)["finished"]
    whole, resumed = (load_file(folder / "weights.safetensors") for folder in (tmp_path / "whole", parts))
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    steps = [json.loads(line)["step"] for line in (parts / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_state_of_another_config_is_refused(data: Path, tmp_path: Path) -> None:
    train(replace(TINY, trainer=replace(TINY.trainer, steps=1)), data, tmp_path / "run")
    with pytest.raises(TrainingError, match="differs from the config"):
        train(TINY, data, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_the_loss_falls_below_chance(data: Path, tmp_path: Path) -> None:
    config = replace(
        TINY,
        cnn=CnnConfig(width=16),
        sampler=replace(TINY.sampler, pairs=32, groups=1, imagery_step=(1.0, 1.0)),
        trainer=replace(TINY.trainer, steps=80, warmup_steps=5),
    )
    train(config, data, tmp_path / "run")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert sum(losses[-10:]) / 10 < 0.8 * math.log(32)
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_checkpoint_names_its_places_and_none_is_in_both_splits(data: Path, tmp_path: Path) -> None:
    train(replace(TINY, trainer=replace(TINY.trainer, steps=1)), data, tmp_path / "run")
    meta = load_checkpoint(tmp_path / "run").meta
    splits = {place["name"]: place["split"] for place in meta["training"]["data"]}
    assert splits == {
        "train_0": "train",
        "train_1": "train",
        "train_2": "train",
        "validation_0": "validation",
    }
    assert meta["calibration"]["places"] == ["validation_0"]
    assert {metric["split"] for metric in meta["metrics"]} == {"validation, made"}


def test_the_hand_made_descriptor_is_only_calibrated(data: Path, tmp_path: Path) -> None:
    result = train(replace(TINY, model="localization.gradients"), data, tmp_path / "run")
    assert result["finished"]
    assert result["steps"] == 0
    assert not load_file(tmp_path / "run" / "weights.safetensors")


def test_a_run_starts_from_another_checkpoint_and_takes_its_size(data: Path, tmp_path: Path) -> None:
    config = replace(TINY, trainer=replace(TINY.trainer, steps=1, learning_rate=0.0))
    train(replace(config, cnn=CnnConfig(width=16, widths=(8, 8, 16, 8, 8, 16))), data, tmp_path / "first")
    train(replace(config, init=str(tmp_path / "first"), seed=9), data, tmp_path / "second")
    first, second = (load_file(tmp_path / run / "weights.safetensors") for run in ("first", "second"))
    assert torch.equal(first["head.weight"], second["head.weight"])
    before, meta = (load_checkpoint(tmp_path / run).meta for run in ("first", "second"))
    assert meta["model"] == before["model"]
    assert meta["card"].endswith(f"It started from `first`, of which its own card says:\n\n{before['card']}")


def test_a_run_from_a_gray_checkpoint_learns_colours_unless_told_not_to(data: Path, tmp_path: Path) -> None:
    config = replace(TINY, trainer=replace(TINY.trainer, steps=1))
    train(replace(config, cnn=CnnConfig(width=8, colours=1)), data, tmp_path / "gray")
    start = replace(config, init=str(tmp_path / "gray"))
    meta = train(start, data, tmp_path / "coloured")
    assert meta["inputs"][0]["shape"] == ["N", 4, "H", "W"]
    assert load_checkpoint(tmp_path / "coloured").model.colours == 3
    meta = train(replace(start, cnn=CnnConfig(colours=1)), data, tmp_path / "still_gray")
    assert meta["inputs"][0]["shape"] == ["N", 2, "H", "W"]


def test_a_run_does_not_start_from_another_task_s_checkpoint(data: Path, tmp_path: Path) -> None:
    train(replace(TINY, trainer=replace(TINY.trainer, steps=1)), data, tmp_path / "first")
    file = tmp_path / "first" / "checkpoint.json"
    meta = json.loads(file.read_text())
    meta["model"] = {"key": "image_classification.lite0", "config": {}}
    file.write_text(json.dumps(meta))
    with pytest.raises(TrainingError, match="image_classification"):
        train(replace(TINY, init=str(tmp_path / "first")), data, tmp_path / "second")


def test_the_command_trains_and_says_what_is_missing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["cnn.width=8", "sampler.pairs=16", "trainer.steps=1", "trainer.accelerator=cpu",
                "evaluation.queries=1",
                "world.places=0", "world.validation_places=0"]  # fmt: skip
    arguments = ["localization", "--data", str(data), "-o", str(tmp_path / "run"), "--json"]
    assert run_alone(cli.command, [*arguments, *(f"--set={setting}" for setting in settings)]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 1
    assert run_alone(cli.command, ["localization", "--data", str(data)]) == 2
    assert "no folder for the checkpoint" in capsys.readouterr().err
