"""The likelihood ratio against the Gaussian case, whose answer is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from kittiwake_runtime.errors import BundleError
from kittiwake_runtime.localization.likelihood import ESTIMATES, Likelihood, kernel_density, parametric, softmax

MEAN, STD = 3.5, 1.2


@cache
def calibration(n: int = 5_000_000) -> dict[str, object]:
    rng = np.random.default_rng(0)
    lo, hi, bins = -6.0, 10.0, 64
    positive, _ = np.histogram(rng.normal(MEAN, STD, n // 500), bins, (lo, hi))
    negative, _ = np.histogram(rng.normal(0, 1, n), bins, (lo, hi))
    return {"z": {"lo": lo, "hi": hi, "positive": positive.tolist(), "negative": negative.tolist()},
            "softmax": {"slope": 2.5, "null": 0.1}}  # fmt: skip


def levels(likelihood: Likelihood, z: np.ndarray) -> np.ndarray:
    steps = np.clip(np.rint((z - likelihood.lo) * likelihood.steps_per_z), 0, 255)
    return np.bincount(steps.astype(int), minlength=256)


def exact(z: np.ndarray) -> np.ndarray:
    return -np.log(STD) - 0.5 * ((z - MEAN) / STD) ** 2 + 0.5 * z**2


@pytest.mark.parametrize("name", ["kernel_density", "parametric"])
def test_estimates_find_the_true_ratio_where_there_is_data(name: str) -> None:
    likelihood = ESTIMATES[name](calibration())
    z = np.linspace(0.5, 3.0, 26)
    found = np.interp(z, np.linspace(likelihood.lo, likelihood.hi, 256), likelihood.log_ratio)
    assert found == pytest.approx(exact(z), abs=0.3)


@pytest.mark.parametrize("exponent", [1.0, 0.4])
@pytest.mark.parametrize("std", [0.8, 1.0, 1.3])
@pytest.mark.parametrize("name", sorted(ESTIMATES))
def test_wrong_places_average_to_one_in_every_frame(name: str, std: float, exponent: float) -> None:
    likelihood = ESTIMATES[name](calibration())
    z = np.random.default_rng(1).normal(0, std, 100_000).astype(np.float32)
    table = likelihood.table(levels(likelihood, z), exponent).astype(np.float64)
    level = np.clip(np.rint((z - likelihood.lo) * likelihood.steps_per_z), 0, 255).astype(int)
    assert (table[level] ** (1 / exponent)).mean() == pytest.approx(1, abs=1e-3)


def test_softmax_shares_a_frame_as_exponentials() -> None:
    likelihood = softmax(calibration())
    z = np.array([-1.0, 0.0, 0.5, 4.0], np.float32)
    wanted = 0.9 * np.exp(2.5 * z) / np.exp(2.5 * z).mean() + 0.1
    table = likelihood.table(levels(likelihood, z))
    assert np.interp(z, np.linspace(likelihood.lo, likelihood.hi, 256), table) == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("name", sorted(ESTIMATES))
def test_a_better_score_never_argues_against_a_place(name: str) -> None:
    assert (np.diff(ESTIMATES[name](calibration()).log_ratio) >= -1e-9).all()


def test_tempering_and_null_bound_what_a_frame_can_do() -> None:
    likelihood = softmax(calibration())
    background = levels(likelihood, np.random.default_rng(2).normal(size=50_000).astype(np.float32))
    full, half, none = (likelihood.table(background, exponent) for exponent in (1.0, 0.5, 0.0))
    assert none == pytest.approx(1)
    assert full.min() == pytest.approx(likelihood.null, abs=1e-3)
    assert np.log(half) == pytest.approx(0.5 * np.log(full), abs=1e-5)
    assert np.isfinite(full).all()


@pytest.mark.parametrize(
    "broken", [{}, {"z": {}}, {"z": {"lo": 0, "hi": 1, "positive": [1], "negative": [1]}}, {"z": 3}]
)
def test_a_bundle_without_calibration_says_so(broken: dict[str, object]) -> None:
    for estimate in (kernel_density, parametric, softmax):
        with pytest.raises(BundleError, match="calibration"):
            estimate(broken)
