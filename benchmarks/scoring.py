"""What the protocol calls converged, right, false and error, and the intervals of these figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from flights import UPDATES
from numpy.typing import NDArray

Array = NDArray[Any]

FALSE_M = 90.0
GRACE = 5
"""Updates after a kidnapping within which a position that is wrong is not called false."""
BOOTSTRAP_ROUNDS = 2000


@dataclass(frozen=True)
class Track:
    """What one method said on one flight; N updates.

    Attributes:
        pair: (map date, query date), the unit that the bootstrap draws.
        off_m: (N, 2) float64, the mean less the truth, east and north; NaN after the flight's end.
        converged: (N,) bool, the state it declared.
        radius95_m: (N,) float64, the radius it published; NaN for a method that publishes none.
        sigma_m: (N,) float64, square root of the trace of the published covariance.
        seconds: (N,) float64, time of each update.
        event: the first update after a kidnapping or over the map; -1 where there was none.
    """

    pair: tuple[str, str]
    off_m: Array
    converged: Array
    radius95_m: Array
    sigma_m: Array
    seconds: Array
    event: int = -1

    @cached_property
    def error_m(self) -> Array:
        """(N,) float64, distance of the mean from the truth."""
        return np.asarray(np.hypot(self.off_m[:, 0], self.off_m[:, 1]))

    @cached_property
    def wrong(self) -> Array:
        """(N,) bool, said to be converged and more than `FALSE_M` off."""
        return np.asarray(self.converged & (self.error_m > FALSE_M))

    @cached_property
    def is_false(self) -> bool:
        """Whether it was `wrong` at any update."""
        return bool(self.wrong.any())

    def moved(self, shift_m: tuple[float, float]) -> Track:
        """The track against a truth that lies `shift_m` (east, north) elsewhere."""
        return replace(self, off_m=self.off_m - np.asarray(shift_m))

    @cached_property
    def declared(self) -> int | None:
        """Index of the first update in state converged; None if there is none."""
        return int(np.argmax(self.converged)) if self.converged.any() else None

    @cached_property
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
    return float(sum(track.is_false for track in tracks))


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
    unit. Where there is one pair only, flights are drawn, and the interval says nothing of other dates.
    None with fewer than two units, or where the statistic is undefined in most draws.
    """
    groups = by_pair(tracks)
    if len(groups) < 2:
        groups = [[track] for track in tracks]
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


def lost_updates(tracks: Sequence[Track]) -> float:
    """Mean updates after a kidnapping up to the first that is not in state converged; never counts as `UPDATES`."""
    return _mean_after(tracks, lambda track: ~track.converged[track.event :])


def right_updates(tracks: Sequence[Track]) -> float:
    """Mean updates after the event up to the first converged and less than `FALSE_M` off; never: `UPDATES`."""
    return _mean_after(tracks, lambda track: (track.converged & (track.error_m < FALSE_M))[track.event :])


def redeclared_false(tracks: Sequence[Track]) -> float:
    """Flights that, after the kidnapping, declared convergence anew more than `FALSE_M` off."""
    count = 0
    for track in happened(tracks):
        anew = track.converged[1:] & ~track.converged[:-1]
        count += bool(np.any((anew & track.wrong[1:])[max(track.event - 1, 0) :]))
    return float(count)


def late_false(tracks: Sequence[Track]) -> float:
    """Flights in state converged and more than `FALSE_M` off, except in the first `GRACE` updates of a kidnapping."""
    return float(sum(bool(np.any(np.delete(track.wrong, _grace(track)))) for track in tracks))


def wrong_fixes(tracks: Sequence[Track]) -> float:
    """Mean number of fixes that were published more than `FALSE_M` off, from the kidnapping to the first lost one."""
    counts = []
    for track in happened(tracks):
        after = track.converged[track.event :]
        lost = len(after) if after.all() else int(np.argmin(after))
        counts.append(int(track.wrong[track.event :][:lost].sum()))
    return float(np.mean(counts)) if counts else float("nan")


def happened(tracks: Sequence[Track]) -> list[Track]:
    """The tracks on which the event came."""
    return [track for track in tracks if track.event >= 0]


def count_interval(
    tracks: Sequence[Track], count: Callable[[Sequence[Track]], float], *, seed: int
) -> tuple[float, float] | None:
    """95 % interval of a count of flights; none seen is not none there: the rule of three gives 3 of n."""
    if count(tracks) == 0:
        return 0.0, 3.0
    return bootstrap(tracks, count, seed=seed)


def _mean_after(tracks: Sequence[Track], ends: Callable[[Track], Array]) -> float:
    counts = []
    for track in happened(tracks):
        when = np.flatnonzero(ends(track)[:UPDATES])
        counts.append(int(when[0]) + 1 if len(when) else UPDATES)
    return float(np.mean(counts)) if counts else float("nan")


def _grace(track: Track) -> Array:
    """Indices of the updates that are forgiven after a kidnapping."""
    first = track.event if track.event >= 0 else len(track.converged)
    return np.arange(first, min(first + GRACE, len(track.converged)))


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else float("nan")
