"""What the protocol calls converged, right, false and error, and the intervals of these figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flights import UPDATES
from numpy.typing import NDArray

Array = NDArray[Any]

FALSE_M = 90.0
BOOTSTRAP_ROUNDS = 2000


@dataclass(frozen=True)
class Track:
    """What one method said on one flight; N updates.

    Attributes:
        pair: (map date, query date), the unit that the bootstrap draws.
        error_m: (N,) float64, distance of the mean from the truth.
        converged: (N,) bool, the state it declared.
        radius95_m: (N,) float64, the radius it published; NaN for a method that publishes none.
        sigma_m: (N,) float64, square root of the trace of the published covariance.
        seconds: (N,) float64, time of each update.
    """

    pair: tuple[str, str]
    error_m: Array
    converged: Array
    radius95_m: Array
    sigma_m: Array
    seconds: Array

    @property
    def declared(self) -> int | None:
        """Index of the first update in state converged; None if there is none."""
        return int(np.argmax(self.converged)) if self.converged.any() else None

    @property
    def since(self) -> slice:
        """The updates from the declaration on; empty if there is none."""
        return slice(len(self.error_m) if self.declared is None else self.declared, None)


def converged_pct(tracks: Sequence[Track]) -> float:
    """Share of flights that declared convergence at all, right or wrong."""
    return 100.0 * float(np.mean([track.declared is not None for track in tracks]))


def right_pct(tracks: Sequence[Track]) -> float:
    """Share of all flights whose declaration was less than `FALSE_M` off."""
    return 100.0 * float(
        np.mean([track.declared is not None and track.error_m[track.declared] < FALSE_M for track in tracks])
    )


def mean_updates(tracks: Sequence[Track]) -> float:
    """Mean number of updates up to and with the declaration; never counts as `UPDATES`."""
    return float(np.mean([UPDATES if track.declared is None else track.declared + 1 for track in tracks]))


def false_count(tracks: Sequence[Track]) -> float:
    """Flights with any update in state converged that is more than `FALSE_M` off."""
    return float(sum(bool(np.any(track.converged & (track.error_m > FALSE_M))) for track in tracks))


def median_error_m(tracks: Sequence[Track]) -> float:
    """Median error of the mean, over all updates from each declaration on; NaN if nothing was declared."""
    return _median(np.concatenate([track.error_m[track.since] for track in tracks]))


def inside95_pct(tracks: Sequence[Track]) -> float:
    """Share of updates, from each declaration on, whose error is within the published 95 % radius."""
    inside = np.concatenate([(track.error_m <= track.radius95_m)[track.since] for track in tracks])
    return 100.0 * float(inside.mean()) if len(inside) else float("nan")


def worst_pair_inside95_pct(tracks: Sequence[Track]) -> float:
    """`inside95_pct` of the pair of dates that it is farthest from 95 for, too timid or too bold."""
    shares = [inside95_pct(group) for group in by_pair(tracks)]
    shares = [share for share in shares if np.isfinite(share)]
    return max(shares, key=lambda share: abs(share - 95.0)) if shares else float("nan")


def sigma_ratio(tracks: Sequence[Track]) -> float:
    """Median published sigma over median error, from each declaration on: 1 is honest, large is timid."""
    return _median(np.concatenate([track.sigma_m[track.since] for track in tracks])) / median_error_m(tracks)


def by_pair(tracks: Sequence[Track]) -> list[list[Track]]:
    """The tracks grouped by their ordered pair of dates, in the order of first appearance."""
    groups: dict[tuple[str, str], list[Track]] = {}
    for track in tracks:
        groups.setdefault(track.pair, []).append(track)
    return list(groups.values())


def bootstrap(
    tracks: Sequence[Track], statistic: Callable[[Sequence[Track]], float], *, seed: int
) -> tuple[float, float] | None:
    """95 % interval of `statistic`: ordered pairs of dates are drawn anew, each with all its flights.

    Flights over the same pair share its ground and its seasons and are not independent; pairs are the
    unit. None with fewer than two pairs, or where the statistic is undefined in most draws.
    """
    groups = by_pair(tracks)
    if len(groups) < 2:
        return None
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(groups), size=(BOOTSTRAP_ROUNDS, len(groups)))
    values = np.array([statistic([track for g in draw for track in groups[g]]) for draw in draws])
    values = values[np.isfinite(values)]
    if len(values) < BOOTSTRAP_ROUNDS / 2:
        return None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def false_interval(tracks: Sequence[Track], *, seed: int) -> tuple[float, float] | None:
    """95 % interval of `false_count`; none seen is not none there: the rule of three gives 3 of n."""
    if false_count(tracks) == 0:
        return 0.0, 3.0
    return bootstrap(tracks, false_count, seed=seed)


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")
