"""The likelihood ratio against the Gaussian case, whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from kittiwake_runtime.errors import BundleError
from kittiwake_runtime.localization.likelihood import ESTIMATES, kernel_density, parametric, softmax

MEAN, STD = 3.5, 1.2


def calibration(n: int = 5_000_000) -> dict[str, object]:
    rng = np.random.default_rng(0)
    lo, hi, bins = -6.0, 10.0, 64
    positive, _ = np.histogram(rng.normal(MEAN, STD, n // 500), bins, (lo, hi))
    negative, _ = np.histogram(rng.normal(0, 1, n), bins, (lo, hi))
    return {"z": {"lo": lo, "hi": hi, "positive": positive.tolist(), "negative": negative.tolist()}}


def exact(z: np.ndarray) -> np.ndarray:
    return -np.log(STD) - 0.5 * ((z - MEAN) / STD) ** 2 + 0.5 * z**2


@pytest.mark.parametrize("name", ["kernel_density", "parametric"])
def test_estimates_find_the_true_ratio_where_there_is_data(name: str) -> None:
    likelihood = ESTIMATES[name](calibration())
    z = np.linspace(0.5, 3.0, 26)
    found = np.interp(z, np.linspace(likelihood.lo, likelihood.hi, 256), likelihood.log_ratio)
    assert found == pytest.approx(exact(z), abs=0.3)


@pytest.mark.parametrize("name", sorted(ESTIMATES))
def test_wrong_places_average_to_one(name: str) -> None:
    likelihood = ESTIMATES[name](calibration())
    z = np.linspace(likelihood.lo, likelihood.hi, 256)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    assert np.sum(density * likelihood.table()) * (z[1] - z[0]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("name", sorted(ESTIMATES))
def test_a_better_score_never_argues_against_a_place(name: str) -> None:
    assert (np.diff(ESTIMATES[name](calibration()).log_ratio) >= -1e-9).all()


def test_tempering_and_null_bound_what_a_frame_can_do() -> None:
    likelihood = softmax(calibration())
    assert likelihood.table(0.0) == pytest.approx(1)
    assert likelihood.table(1.0).min() >= likelihood.null
    assert np.log(likelihood.table(0.5)) == pytest.approx(0.5 * np.log(likelihood.table(1.0)), abs=1e-5)


@pytest.mark.parametrize(
    "broken", [{}, {"z": {}}, {"z": {"lo": 0, "hi": 1, "positive": [1], "negative": [1]}}, {"z": 3}]
)
def test_a_bundle_without_calibration_says_so(broken: dict[str, object]) -> None:
    for estimate in (kernel_density, parametric, softmax):
        with pytest.raises(BundleError, match="calibration"):
            estimate(broken)
