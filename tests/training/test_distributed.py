"""Two processes on the CPU (gloo) against one process with the whole batch."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kittiwake_training import cli
from kittiwake_training.distributed import launch, share_statistics
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.places import Place
from kittiwake_training.standalone import run_alone

SETTINGS = {
    "cnn.width": 8,
    "sampler.pairs": 32,
    "sampler.groups": 2,
    "world.places": 0,
    "world.validation_places": 0,
    "trainer.steps": 20,
    "trainer.warmup_steps": 2,
    "trainer.log_every": 1,
    "trainer.accelerator": "cpu",
    "trainer.learning_rate": 1e-4,
    "evaluation.queries": 2,
}


@pytest.fixture
def data(tmp_path: Path, places: list[Place]) -> Path:
    for place in places:
        place.save(tmp_path / "places")
    return tmp_path / "places"


def run(data: Path, output: Path, *options: str, **changed: Any) -> int:
    settings = {**SETTINGS, **{key.replace("__", "."): value for key, value in changed.items()}}
    given = [f"--set={key}={value}" for key, value in settings.items()]
    return run_alone(cli.command, ["localization", "--data", str(data), "-o", str(output), *given, *options])


def losses(output: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (output / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_with_the_whole_batch(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "one") == 0
    assert run(data, tmp_path / "two", "--devices", "2") == 0
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 20
    assert two == pytest.approx(one, abs=1e-4)
    whole, shared = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in whole:
        torch.testing.assert_close(shared[name], whole[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_a_checkpoint_of_one_is_resumed_by_two_and_the_other_way_round(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path / "whole") == 0
    for first, then in (((), ("--devices", "2")), (("--devices", "2"), ())):
        output = tmp_path / f"parts{len(first)}"
        assert run(data, output, *first, "--max-minutes", "0") == 1  # stops at its first look at the clock
        done = len(losses(output))
        assert 0 < done < 20
        assert run(data, output, *then, "--resume") == 0
        assert losses(output) == pytest.approx(losses(tmp_path / "whole"), abs=1e-4)


def _die(victim: int) -> int:
    """What a process does that is killed, or whose companion is."""
    import torch.distributed as dist

    dist.init_process_group("gloo")
    rank = dist.get_rank()
    if rank == victim:
        os.kill(os.getpid(), signal.SIGKILL)
    if victim < 0 and rank == 1:
        raise ValueError("the second process is unhappy")
    dist.barrier()
    return rank


def _threads() -> str:
    """What each process is told of the cores."""
    return os.environ["OMP_NUM_THREADS"]


@pytest.mark.slow
def test_processes_share_the_cores_and_the_caller_keeps_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert launch(_threads, 2) == "4"
    assert launch(_threads, 1) == "8"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch(_threads, 1) == "3"


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_an_error_that_names_it() -> None:
    with pytest.raises(TrainingError, match=r"process 1 of 2 \(pid \d+\) ended with SIGKILL"):
        launch(_die, 2, 1)


@pytest.mark.slow
def test_a_failing_process_is_named_with_its_message() -> None:
    with pytest.raises(TrainingError, match=r"process 1 of 2 .*exit code 1: .*the second process is unhappy"):
        launch(_die, 2, -1)


def test_places_that_cannot_be_shared_out_are_an_error(data: Path, tmp_path: Path, places: list[Place]) -> None:
    from kittiwake_training.distributed import Peers
    from kittiwake_training.localization.data import PairSampler, SamplerConfig

    with pytest.raises(TrainingError, match=r"1 places a batch can't be shared out to 2 processes"):
        PairSampler(places, SamplerConfig(pairs=32, groups=1), torch.device("cpu"), 0, Peers(0, 2))


def test_shared_statistics_alone_are_plain_batch_normalization(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        plain = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 3, bias=False), torch.nn.BatchNorm2d(5, momentum=0.05))
        torch.nn.init.uniform_(plain[1].weight)
        shared = share_statistics(torch.nn.Sequential(*plain), torch.device("cpu"))
        other = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 3, bias=False), torch.nn.BatchNorm2d(5, momentum=0.05))
        other.load_state_dict(shared.state_dict())
        x = torch.randn(4, 2, 8, 8)
        for mode in (True, False):
            ours, theirs = shared.train(mode)(x), other.train(mode)(x)
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
            target = torch.randn_like(ours)
            gradients = [
                torch.autograd.grad((y * target).sum(), list(net.parameters()))
                for y, net in ((ours, shared), (theirs, other))
            ]
            for mine, reference in zip(*gradients, strict=True):
                torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4)
        for name, value in other.state_dict().items():
            torch.testing.assert_close(shared.state_dict()[name], value)
    finally:
        torch.distributed.destroy_process_group()
