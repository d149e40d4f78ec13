from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from kittiwake_training.checkpoint import Checkpoint, load_checkpoint
from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.lessons import Lesson
from kittiwake_training.pruning.unstructured import (
    SparseConfig,
    read_shares,
    snip_scores,
    sparsify,
    zero_share,
    zero_smallest,
    zero_two_of_four,
)
from kittiwake_training.trainer import TrainerConfig


def test_a_fifth_of_what_remains_goes_each_round() -> None:
    shares = [100 * share for share in read_shares(SparseConfig(target="sparsity=0.8322"))]
    assert shares == pytest.approx([20, 36, 48.8, 59.04, 67.23, 73.79, 79.03, 83.22], abs=0.01)
    assert read_shares(SparseConfig(target="sparsity=0.9", importance="snip")) == [0.9]


@pytest.mark.parametrize("config", [SparseConfig(target="sparsity=1"), SparseConfig(importance="lamp")])
def test_what_means_nothing_is_refused(config: SparseConfig) -> None:
    with pytest.raises(TrainingError, match=r"expected a share|no importance"):
        read_shares(config)


def test_the_smallest_weights_of_the_whole_network_go() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    model[1].weight.data *= 10
    every = torch.cat([layer.weight.detach().flatten().abs() for layer in model])
    limit = every.sort().values[round(0.3 * len(every))]
    zero_smallest(model, 0.3)
    assert zero_share(model) == pytest.approx(0.3, abs=0.002)
    assert min(layer.weight[layer.weight != 0].abs().min() for layer in model) >= limit
    zero_smallest(model, 0.44)  # the zeros that are there count
    assert zero_share(model) == pytest.approx(0.44, abs=0.002)


def test_snip_keeps_what_the_loss_feels() -> None:
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[5.0, 0.1, 2.0, 1.0]])
    layer(torch.tensor([[0.0, 30.0, 1.0, 1.5]])).sum().backward()
    model = nn.Sequential(layer)
    zero_smallest(model, 0.5, snip_scores(model))
    assert layer.weight.tolist() == [[0.0, pytest.approx(0.1), 2.0, 0.0]]


def test_two_of_every_four_stay_the_larger_ones() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Conv2d(8, 6, 3), nn.Linear(8, 3))
    before = copy.deepcopy(model)
    assert zero_two_of_four(model) == ["0"]
    for i, axes in ((1, (0, 2, 3, 1)), (2, (0, 1))):
        now, was = (m[i].weight.detach().permute(axes).reshape(-1, 4) for m in (model, before))
        assert ((now != 0).sum(dim=1) == 2).all()
        lost = torch.where(now == 0, was.abs(), torch.zeros(())).amax(dim=1)
        kept = torch.where(now != 0, was.abs(), torch.full((), 9.0)).amin(dim=1)
        assert (lost <= kept).all()


@pytest.mark.parametrize(
    ("target", "importance", "rounds"), [("sparsity=0.36", "magnitude", 2), ("sparsity=0.5", "snip", 1)]
)
def test_what_is_zero_stays_zero_through_training(
    target: str, importance: str, rounds: int, dense: Checkpoint, lesson: Lesson, trainer: TrainerConfig, tmp_path: Path
) -> None:
    config = SparseConfig(target=target, importance=importance, trainer=trainer)
    stopped = sparsify(dense, config, lesson, tmp_path / "run", max_minutes=0)
    assert not stopped["finished"]
    result = sparsify(dense, config, lesson, tmp_path / "run", resume=True)
    assert len(result["points"]) == rounds + 1
    sparse, start = load_checkpoint(tmp_path / "run"), load_checkpoint(tmp_path / "run" / f"round-{rounds}" / "start")
    assert zero_share(sparse.model) == pytest.approx(float(target.split("=")[1]), abs=0.002)
    trained = {name: tensor for name, tensor in sparse.model.state_dict().items() if name.endswith("0.weight")}
    assert all((tensor[start.model.state_dict()[name] == 0] == 0).all() for name, tensor in trained.items())
    with pytest.raises(TrainingError, match="another checkpoint or config"):
        sparsify(dense, replace(config, target="sparsity=0.1"), lesson, tmp_path / "run", resume=True)
