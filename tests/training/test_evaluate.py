from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kittiwake_training.localization.evaluate import EvaluationConfig, calibration, evaluate, metrics
from kittiwake_training.localization.gradients import GradientDescriptor
from kittiwake_training.localization.places import Place

CPU = torch.device("cpu")
ONE_STEP = EvaluationConfig(queries=12, imagery_steps=(1.0,))


class Noise(nn.Module):
    """Describes every disc by chance."""

    colours = 1

    def forward(self, view: Tensor) -> Tensor:
        n, _, height, width = view.shape
        return functional.normalize(torch.randn(n, 48, (height - 33) // 2 + 1, (width - 33) // 2 + 1), dim=1)


def test_unchanged_ground_is_found_and_noise_finds_nothing(make_place: Callable[..., Place]) -> None:
    places = [make_place("ground", size=160, split="validation", change=0.0)]
    torch.manual_seed(0)
    named = {
        kind: {metric["name"]: metric for metric in metrics(evaluate(model, places, ONE_STEP, CPU, seed=0))}
        for kind, model in {"edges": GradientDescriptor(), "noise": Noise()}.items()
    }
    assert named["edges"]["recall_3_cells"]["value"] > 80
    assert named["edges"]["auc_pooled"]["value"] > 98
    assert named["noise"]["recall_3_cells"]["value"] < 30
    assert named["noise"]["auc_within_frame"]["value"] == pytest.approx(50, abs=25)
    assert named["edges"]["recall_3_cells"]["split"] == "validation, made"


def test_calibration_counts_every_right_and_wrong_state(make_place: Callable[..., Place]) -> None:
    places = [make_place("ground", size=96, split="validation")]
    outcomes = evaluate(GradientDescriptor(), places, ONE_STEP, CPU, seed=0)
    counted = calibration(outcomes, places)
    assert counted["places"] == ["ground"]
    for scale in (counted["z"], counted["score"]):
        assert len(scale["positive"]) == len(scale["negative"]) == 64
        assert sum(scale["positive"]) == counted["n_positive"] == 12
        assert sum(scale["negative"]) == pytest.approx(counted["n_negative"], rel=1e-4)
    # 32 x 32 cells, 36 headings, less what is near the truth.
    assert 0.9 * 32 * 32 * 36 < counted["n_negative"] / 12 < 32 * 32 * 36
    width = (counted["z"]["hi"] - counted["z"]["lo"]) / 64
    centres = [counted["z"]["lo"] + width * (i + 0.5) for i in range(64)]

    def mean_z(side: str) -> float:
        return sum(c * n for c, n in zip(centres, counted["z"][side], strict=True)) / sum(counted["z"][side])

    assert mean_z("negative") == pytest.approx(0, abs=0.1)
    assert mean_z("positive") > 1.5
