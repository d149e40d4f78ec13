from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kittiwake_training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.gradients import GradientDescriptor
from kittiwake_training.pruning import cli
from kittiwake_training.pruning.cost import layers_of, total_flops, total_parameters
from kittiwake_training.pruning.lessons import Lesson, Sources, find_lesson
from kittiwake_training.pruning.rounds import PruneConfig, check_target, example_input, prune
from kittiwake_training.pruning.watch import watched
from kittiwake_training.standalone import run_alone
from kittiwake_training.trainer import TrainerConfig


@pytest.fixture
def config(trainer: TrainerConfig) -> PruneConfig:
    return PruneConfig(target="flops=0.5", rounds=2, gradient_batches=1, trainer=trainer)


@pytest.mark.parametrize(
    "importance",
    ["taylor", *(pytest.param(name, marks=pytest.mark.slow) for name in ("magnitude", "lamp", "sensitivity"))],
)
def test_the_target_is_met_by_a_checkpoint_of_the_same_architecture(
    importance: str, dense: Checkpoint, lesson: Lesson, config: PruneConfig, tmp_path: Path
) -> None:
    example = example_input(dense.meta)
    whole = total_flops(layers_of(dense.model, example))
    result = prune(dense, replace(config, importance=importance, rounds=1), lesson, {}, tmp_path / "run")
    assert result["finished"]
    pruned = load_checkpoint(tmp_path / "run")
    assert total_flops(layers_of(pruned.model, example)) <= 0.5 * whole
    assert pruned.meta["model"]["key"] == dense.meta["model"]["key"]
    assert all(width % 8 == 0 for width in pruned.meta["model"]["config"]["widths"])
    assert pruned.meta["training"]["pruning"]["error"] < 1e-10
    assert pruned.model(example).shape == dense.model(example).shape
    assert (tmp_path / "run" / "tradeoff.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_resumed_run_gives_the_weights_of_an_uninterrupted_one(
    dense: Checkpoint, dense_folder: Path, data: Path, config: PruneConfig, tmp_path: Path
) -> None:
    lesson = find_lesson(dense.meta, [], Sources(data, tmp_path))
    config = replace(config, trainer=replace(config.trainer, steps=2))
    prune(load_checkpoint(dense_folder), config, lesson, {}, tmp_path / "whole")
    calls = 0
    finished = False
    while not finished:  # every call stops after one step
        result = prune(
            load_checkpoint(dense_folder), config, lesson, {}, tmp_path / "parts", resume=True, max_minutes=0
        )
        finished, calls = result["finished"], calls + 1
    assert calls == 2 * config.trainer.steps - 1
    whole, parts = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "parts"))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    labels = [point["label"] for point in json.loads((tmp_path / "parts" / "rounds.json").read_text())]
    assert labels == ["dense", "round 1", "round 2"]


def test_a_run_goes_on_only_as_it_was_begun(
    dense: Checkpoint, lesson: Lesson, config: PruneConfig, tmp_path: Path
) -> None:
    prune(dense, config, lesson, {}, tmp_path, max_minutes=0)
    with pytest.raises(TrainingError, match="another checkpoint or config"):
        prune(dense, replace(config, importance="lamp"), lesson, {}, tmp_path, resume=True)
    other = Checkpoint(dense.model, {**dense.meta, "name": "another"})
    with pytest.raises(TrainingError, match="another checkpoint or config"):
        prune(other, config, lesson, {}, tmp_path, resume=True)


def test_distillation_pulls_towards_the_dense_network(
    dense: Checkpoint, lesson: Lesson, trainer: TrainerConfig, tmp_path: Path
) -> None:
    """With nothing else to learn from, the pruned network's vectors come nearer to the dense one's."""
    config = PruneConfig(target="params=0.6", rounds=1, importance="magnitude", distillation=100.0,
                         trainer=replace(trainer, steps=25))  # fmt: skip
    prune(dense, config, lesson, {}, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "round-1" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["distance"] < 0.8 * lines[0]["distance"]


@pytest.mark.parametrize("target", ["latency", "flops=2", "speed=0.5", "params=none", "flops=0"])
def test_a_target_that_means_nothing_is_refused(target: str, dense: Checkpoint) -> None:
    with pytest.raises(TrainingError, match="expected latency, flops or params"):
        check_target(dense, PruneConfig(target=target), {})


def test_a_target_that_cannot_be_reached_says_what_can(dense: Checkpoint) -> None:
    with pytest.raises(TrainingError, match=r"8 channels left in each of 6 groups .* still costs 0\.\d+") as caught:
        check_target(dense, PruneConfig(target="params=0.01"), {})
    share = float(caught.value.message.split("still costs ")[1].split()[0])
    cost, _, whole = check_target(dense, PruneConfig(target=f"params={share + 0.001}"), {})
    assert cost is total_parameters
    assert whole > 0
    with pytest.raises(TrainingError, match="needs a table"):
        check_target(dense, PruneConfig(target="latency=0.5"), {})


def test_a_model_without_widths_is_refused_by_name(dense: Checkpoint) -> None:
    meta = {**dense.meta, "model": {"key": "localization.gradients", "config": {}}}
    with pytest.raises(TrainingError, match=r"'localization\.gradients' \(GradientDescriptor\) can't be pruned"):
        check_target(Checkpoint(GradientDescriptor(), meta), PruneConfig(target="flops=0.5"), {})


def test_not_a_number_stops_the_run_and_names_the_module(
    dense: Checkpoint, lesson: Lesson, config: PruneConfig, tmp_path: Path
) -> None:
    def losses(module: nn.Module, step: int, progress: float) -> dict[str, torch.Tensor]:
        return {"loss": module(torch.full((2, dense.model.colours + 1, 65, 65), 0.7).tril()).sum()}

    nn.init.constant_(dense.model.blocks[1].second[0].weight, float("nan"))
    with pytest.raises(TrainingError, match=r"loss is nan at step 3: 'blocks\.1\.second\.0\.weight' is not finite"):
        watched(losses)(dense.model, 3, 0.0)
    nn.init.constant_(dense.model.blocks[1].second[0].weight, 3e38)
    nn.init.constant_(dense.model.blocks[1].first[1].bias, 10.0)  # finite weights, and sums that are not
    with pytest.raises(TrainingError, match=r"module 'blocks\.1\.second\.0' gives values that are not finite"):
        watched(losses)(dense.model, 3, 0.0)


def test_a_task_that_nobody_teaches_is_named(dense: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the task 'made\.up'"):
        find_lesson({**dense.meta, "task": "made.up"}, [], Sources(None, tmp_path))


def test_the_command_prunes(dense_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(dense_folder), "--target", "flops=0.6", "--data", str(data), "-o", str(tmp_path / "run"),
                 "--importance", "magnitude", "--set=rounds=1", "--set=trainer.steps=1",
                 "--set=trainer.accelerator=cpu", "--set=task.sampler.pairs=8"]  # fmt: skip
    assert run_alone(cli.command, [*arguments, "--json"]) == 0
    assert [point["label"] for point in json.loads(capsys.readouterr().out)["points"]] == ["dense", "round 1"]
    assert run_alone(cli.command, [*arguments[:2], "latency=0.5", *arguments[3:]]) == 2
    assert "kittiwake layer-times" in capsys.readouterr().err
    sparse = [*arguments[:2], "sparsity=2:4", "--data", str(data), "-o", str(tmp_path / "sparse"),
              "--set=trainer.steps=1", "--set=trainer.accelerator=cpu"]  # fmt: skip
    assert run_alone(cli.command, sparse) == 0


def test_a_checkpoint_of_another_architecture_is_refused(dense: Checkpoint, tmp_path: Path) -> None:
    config = {**dense.meta["model"]["config"], "widths": [8, 8, 8, 8, 8, 8]}
    meta = {**dense.meta, "model": {"key": "localization.cnn", "config": config}}
    save_checkpoint(tmp_path, dense.model, meta)
    with pytest.raises(TrainingError, match=r"(?s)doesn't fit model localization\.cnn: .*stem\.2\.0\.weight"):
        load_checkpoint(tmp_path)
