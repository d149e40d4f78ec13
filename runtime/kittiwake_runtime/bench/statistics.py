"""What can be claimed of a distribution from so many samples: order statistics and the binomial law.

Of n independent samples the number below the quantile of share p is binomial, Bin(n, p). So the k-th smallest is an
upper bound of that quantile with confidence P(Bin(n, p) < k), whatever the distribution (David and Nagaraja, Order
Statistics, 2003, 7.1). Where even the largest bounds it with less than 99 %, the quantile is not claimed: the rule
of early stopping of MLPerf Inference (https://github.com/mlcommons/inference_policies). It asks for 64 samples for a
90th percentile, of which one may lie above the bound, and for 459 for a 99th, of which none may (662 with one).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from statistics import fmean, median

CONFIDENCE = 0.99
INTERVAL = 0.95
LEAST_SAMPLES = {0.90: 64, 0.99: 459}
"""By the quantile's share."""


@dataclass(frozen=True)
class Percentile:
    """A quantile, or the reason why it can't be claimed.

    Args:
        value: the quantile of the samples; None when there are too few.
        bound: with 99 % confidence the quantile of the distribution is at most this; None when there are too few.
        refused: why nothing is claimed; empty otherwise.
    """

    value: float | None
    bound: float | None
    refused: str = ""


@dataclass(frozen=True)
class Summary:
    """Of the samples of one stage, in the samples' unit.

    Args:
        n: samples.
        mean: of them.
        median: of them.
        interval: of the median, at least 95 % (order statistics).
        p90: see :class:`Percentile`.
        p99: see :class:`Percentile`.
        least: the smallest.
        largest: the largest.
        jitter: mean absolute difference of samples that follow each other, as in RFC 3550 without its smoothing.
    """

    n: int
    mean: float
    median: float
    interval: tuple[float, float]
    p90: Percentile
    p99: Percentile
    least: float
    largest: float
    jitter: float


def summarize(samples: Sequence[float]) -> Summary:
    """The summary of at least one sample, in the order in which they were taken."""
    ordered = sorted(samples)
    return Summary(
        n=len(ordered),
        mean=fmean(ordered),
        median=median(ordered),
        interval=median_interval(ordered),
        p90=percentile(ordered, 0.90),
        p99=percentile(ordered, 0.99),
        least=ordered[0],
        largest=ordered[-1],
        jitter=fmean([abs(b - a) for a, b in pairwise(samples)]) if len(samples) > 1 else 0.0,
    )


def percentile(ordered: Sequence[float], share: float) -> Percentile:
    """The quantile of a share among ``LEAST_SAMPLES``, with its bound.

    Args:
        ordered: samples in rising order.
        share: 0.9 or 0.99.
    """
    n, least = len(ordered), LEAST_SAMPLES[share]
    if n < least:
        return Percentile(None, None, f"{n} samples; a {100 * share:.0f}th percentile takes at least {least}")
    return Percentile(ordered[math.ceil(share * n) - 1], ordered[bound_rank(n, share) - 1])


def bound_rank(n: int, share: float, confidence: float = CONFIDENCE) -> int:
    """The least k whose k-th smallest of n samples is at least the quantile, with this confidence; n + 1 if none."""
    return next((k for k in range(1, n + 1) if binomial_below(k, n, share) >= confidence), n + 1)


def median_interval(ordered: Sequence[float]) -> tuple[float, float]:
    """The narrowest pair of symmetric order statistics that holds the median with at least 95 %; the range when the
    samples are too few (under 6) for that."""
    n = len(ordered)
    inner = [k for k in range(1, n // 2 + 1) if 1 - 2 * binomial_below(k, n, 0.5) >= INTERVAL]
    k = max(inner, default=1)
    return ordered[k - 1], ordered[n - k]


def binomial_below(k: int, n: int, share: float) -> float:
    """P(X < k) of X ~ Bin(n, share), 0 < share < 1, to about twelve digits."""
    return _cumulative(n, share)[min(k, n + 1)]


@lru_cache(maxsize=64)
def _cumulative(n: int, share: float) -> tuple[float, ...]:
    """P(X < k) for k = 0 … n + 1."""
    chances = (
        math.exp(
            math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1)
            + i * math.log(share) + (n - i) * math.log1p(-share)
        )
        for i in range(n + 1)
    )  # fmt: skip
    return (*(min(1.0, total) for total in accumulate(chances, initial=0.0)),)
