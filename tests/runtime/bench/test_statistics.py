"""Percentiles and their bounds against scipy's binomial law, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kittiwake_runtime.bench.statistics import (
    LEAST_SAMPLES,
    binomial_below,
    bound_rank,
    median_interval,
    percentile,
    summarize,
)


@given(st.integers(1, 700), st.integers(0, 701), st.floats(0.001, 0.999))
def test_the_binomial_law_is_scipys(n: int, k: int, share: float) -> None:
    assert binomial_below(k, n, share) == pytest.approx(stats.binom.cdf(k - 1, n, share), abs=1e-10)


@pytest.mark.parametrize(("share", "above"), [(0.90, 1), (0.99, 0)])
def test_the_least_numbers_of_samples_are_those_of_early_stopping(share: float, above: int) -> None:
    """So many that with 99 % confidence no more than ``above`` of them lie above the quantile's bound."""
    least = next(n for n in range(1, 2000) if stats.binom.cdf(above, n, 1 - share) <= 0.01)
    assert LEAST_SAMPLES[share] == least
    assert percentile(list(range(least)), share).value is not None
    refused = percentile(list(range(least - 1)), share)
    assert (refused.value, refused.bound) == (None, None)
    assert f"{least - 1} samples" in refused.refused and str(least) in refused.refused


def test_the_floor_of_a_single_stream_leaves_one_sample_above_the_bound() -> None:
    assert [bound_rank(n, 0.99) for n in (458, 459, 661, 662)] == [459, 459, 661, 661]


@pytest.mark.parametrize("n", [64, 459, 670, 1500])
@pytest.mark.parametrize("share", [0.90, 0.99])
def test_the_bounds_rank_is_the_least_that_holds(n: int, share: float) -> None:
    k = bound_rank(n, share)
    if k <= n:
        assert stats.binom.cdf(k - 1, n, share) >= 0.99
    assert stats.binom.cdf(k - 2, n, share) < 0.99


def test_bounds_hold_as_often_as_they_claim() -> None:
    rng = np.random.default_rng(1)
    draws = np.sort(rng.exponential(size=(2000, 470)), axis=1)
    truth = -np.log(0.01)
    held = np.mean([percentile(list(row), 0.99).bound >= truth for row in draws])
    assert held >= 0.983  # 99 %, less three standard errors
    few = np.sort(rng.exponential(size=(2000, 47)), axis=1)
    inside = np.mean([low <= np.log(2) <= high for low, high in map(median_interval, few.tolist())])
    assert 0.935 <= inside <= 0.985


@given(st.lists(st.floats(0.001, 1000.0), min_size=1, max_size=100))
def test_a_summary_is_ordered(samples: list[float]) -> None:
    found = summarize(samples)
    assert found.least <= found.interval[0] <= found.median <= found.interval[1] <= found.largest
    assert found.median == pytest.approx(np.median(samples))
    if found.p90.value is not None:
        assert found.median <= found.p90.value <= found.p90.bound <= found.largest


def test_jitter_is_that_of_neighbours() -> None:
    assert summarize([1.0, 3.0, 2.0, 2.0]).jitter == pytest.approx(1.0)
    assert summarize([5.0]).jitter == 0.0
