"""From tracks to figures: a statistic with its bar, its interval and the baseline beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

import numpy as np
from places import Place
from registration import register
from results import Figure
from scoring import (
    Track,
    bootstrap,
    converged_pct,
    count_interval,
    false_count,
    mean_updates,
    median_error_m,
    right_pct,
    sigma_ratio,
    worst_pair_inside95_pct,
)

from rows.courses import Course, fly_ncc, fly_product, ncc_key
from rows.run import NCC_FLIGHTS, SEED, Run, of_bundle, of_data


@dataclass(frozen=True)
class Statistic:
    """A figure of a set of tracks; `counts` says that it is a number of flights, `of_baseline` that NCC has it too."""

    of: Callable[[Sequence[Track]], float]
    unit: str
    note: str = ""
    counts: bool = False
    of_baseline: bool = True
    bar: str | None = None


STATISTICS = {
    "converged": Statistic(converged_pct, "%"),
    "right": Statistic(right_pct, "%", "declared, and less than 90 m off when declared"),
    "updates": Statistic(mean_updates, "", "up to the declaration; never counts as 50"),
    "false": Statistic(false_count, "flights", "converged and more than 90 m off at any update", counts=True),
    "error_m": Statistic(median_error_m, "m", "median, all updates from the declaration on"),
    "inside95": Statistic(worst_pair_inside95_pct, "%", "the pair of dates farthest from 95 %", of_baseline=False),
    "sigma_ratio": Statistic(sigma_ratio, "x", "median published sigma over median error", of_baseline=False),
}


def judged(**bars: str | None) -> dict[str, Statistic]:
    """These of the `STATISTICS`, each with its bar (None: no bar)."""
    return {name: replace(STATISTICS[name], bar=bar) for name, bar in bars.items()}


def measure_course(
    run: Run,
    prefix: str,
    statistics: dict[str, Statistic],
    course: Course,
    flights: int,
    *,
    quick_flights: int = 3,
    ncc_flights: int = NCC_FLIGHTS,
    note: str = "",
) -> list[Figure]:
    """Fly the product and the baseline on the first of the same flights; the figures of both.

    Args:
        flights: of the product when the run does not say otherwise, `quick_flights` of them in a quick one;
            ncc_flights: of the baseline.
        note: what is added to every figure's.
    """
    ours = fly_product(run, course, run.count(flights, quick_flights), prefix)
    rival = fly_ncc(run, course, run.ncc_count(ncc_flights), prefix)
    data, beside = of_data(course.place, of_bundle(run.bundle)), of_data(course.place, f"key {ncc_key(course)}")
    figures = flight_figures(prefix, statistics, ours, data, rival)
    return noted(figures + ncc_figures(prefix, statistics, rival, beside), note)


def noted(figures: Sequence[Figure], note: str) -> list[Figure]:
    """The figures with a remark after their own."""
    return [replace(figure, note="; ".join(filter(None, (figure.note, note)))) for figure in figures]


def flight_figures(
    prefix: str,
    statistics: dict[str, Statistic],
    tracks: Sequence[Track],
    data: str,
    baseline: Sequence[Track] = (),
) -> list[Figure]:
    """A figure for each statistic, as ``<prefix>.<name>``.

    Args:
        data: on what, by whom.
        baseline: the baseline's tracks; none where it did not fly.
    """
    figures = []
    for name, statistic in statistics.items():
        value, note = statistic.of(tracks), statistic.note
        rival = statistic.of(baseline) if baseline and statistic.of_baseline else None
        figures.append(
            Figure(
                f"{prefix}.{name}",
                known(value),
                statistic.unit,
                len(tracks),
                _interval(statistic, tracks),
                statistic.bar,
                known(rival),
                data,
                f"{note}; {_share(value, len(tracks))}" if statistic.counts else note,
            )
        )
    return figures


def ncc_figures(
    prefix: str, statistics: dict[str, Statistic], tracks: Sequence[Track], data: str, suffix: str = ".ncc"
) -> list[Figure]:
    """The baseline's own figures, ``<prefix>.<name>.ncc``, without bars; none where it did not fly."""
    if not tracks:
        return []
    own = {name: replace(statistic, bar=None) for name, statistic in statistics.items() if statistic.of_baseline}
    return [replace(figure, id=figure.id + suffix) for figure in flight_figures(prefix, own, tracks, data)]


def known(value: float | None) -> float | None:
    """JSON has no NaN: a figure that could not be measured is null."""
    return float(value) if value is not None and math.isfinite(value) else None


def update_times(prefix: str, ours: Sequence[Track], ncc: Sequence[Track]) -> Figure:
    """Median seconds an update of both methods while flying, one thread each."""
    ours_s, ncc_s = (
        float(np.median(np.concatenate([track.seconds for track in tracks]))) if tracks else None
        for tracks in (ours, ncc)
    )
    note = "median, one thread, as many processes beside each other as cores"
    return Figure(f"{prefix}.update_s", ours_s, "s", len(ours), baseline=ncc_s, note=note)


def registration_figure(prefix: str, place: Place) -> Figure:
    """How far the dates of the flown pairs lie apart, by phase correlation."""
    flown = [pair for pair in combinations(sorted(place.rasters), 2) if {pair, pair[::-1]} & set(place.pairs)]
    residuals = [register(place.rasters[a], place.rasters[b]).residual_m for a, b in flown]
    return Figure(
        f"{prefix}.registration_m",
        median(residuals),
        "m",
        len(residuals),
        (min(residuals), max(residuals)),
        data=f"{place.name} {place.sha256[:16]}",
        note="median over pairs of dates; the interval is the range",
    )


def share_figure(
    id_: str, hits: Sequence[Sequence[bool]], *, bar: str | None = None, baseline: float | None = None,
    data: str = "", note: str = "",
) -> Figure:  # fmt: skip
    """The mean over groups of their share of hits, per cent; the bootstrap draws groups, or hits of a single one."""
    means = [float(np.mean(group)) for group in hits] if len(hits) > 1 else [float(hit) for hit in hits[0]]
    draws = np.random.default_rng(SEED).choice(means, (2000, len(means))).mean(axis=1)
    low, high = np.percentile(100 * draws, [2.5, 97.5])
    n = sum(len(group) for group in hits)
    return Figure(id_, 100 * float(np.mean(means)), "%", n, (float(low), float(high)), bar, baseline, data, note)


def _interval(statistic: Statistic, tracks: Sequence[Track]) -> tuple[float, float] | None:
    of = count_interval if statistic.counts else bootstrap
    return of(tracks, statistic.of, seed=SEED)


def _share(value: float, n: int) -> str:
    return f"{value:g} of {n}, " + (f"95 % bound {300 / n:.2g} %" if value == 0 else f"{100 * value / n:.2g} %")
