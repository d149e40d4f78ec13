"""The protocol's words on tracks made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scoring
from scoring import Track


def track(
    error_m: list[float],
    converged: list[int],
    pair: tuple[str, str] = ("a", "b"),
    radius95_m: float = 20.0,
    event: int = -1,
) -> Track:
    n = len(error_m)
    east = np.array(error_m, float)
    return Track(
        pair,
        np.stack([0.6 * east, -0.8 * east], axis=1),
        np.array(converged, bool),
        np.full(n, radius95_m),
        np.full(n, 8.0),
        np.full(n, 0.1),
        event,
    )


RIGHT = track([900, 500, 10, 4, 30, 6], [0, 0, 1, 1, 0, 1])
LATE_FALSE = track([900, 20, 200, 120], [0, 1, 0, 1])
WRONG = track([900, 300, 300, 5], [0, 1, 0, 0])
NEVER = track([900, 900, 80, 10], [0, 0, 0, 0])
ALL = [RIGHT, LATE_FALSE, WRONG, NEVER]


def test_declared_is_the_first_update_in_state_converged() -> None:
    assert [t.declared for t in ALL] == [2, 1, 1, None]
    assert scoring.converged_pct(ALL) == 75.0


def test_right_is_a_declaration_less_than_90_m_off() -> None:
    assert scoring.right_pct(ALL) == 50.0
    assert scoring.right_pct([track([90.0], [1])]) == 0.0


def test_never_counts_as_50_updates() -> None:
    assert scoring.mean_updates(ALL) == (3 + 2 + 2 + 50) / 4


def test_false_is_any_update_converged_and_over_90_m() -> None:
    assert scoring.false_count(ALL) == 2
    assert scoring.false_count([track([10, 200], [1, 0])]) == 0  # off, but no longer said to be converged
    assert scoring.false_count([track([10, 90.0], [1, 1])]) == 0


def test_error_is_over_all_updates_from_the_declaration_on() -> None:
    assert scoring.median_error_m([RIGHT]) == np.median([10, 4, 30, 6])
    assert scoring.median_error_m([RIGHT, NEVER]) == scoring.median_error_m([RIGHT])
    assert np.isnan(scoring.median_error_m([NEVER]))


def test_inside95_pools_and_finds_the_pair_farthest_from_95() -> None:
    assert scoring.inside95_pct([RIGHT]) == 75.0
    good = track([1.0] * 4, [1] * 4, pair=("c", "d"))
    assert scoring.inside95_pct([RIGHT, good]) == 87.5
    assert scoring.worst_pair_inside95_pct([RIGHT, good]) == 75.0
    assert np.isnan(scoring.worst_pair_inside95_pct([NEVER]))


def test_sigma_ratio() -> None:
    assert scoring.sigma_ratio([RIGHT]) == 8.0 / 8.0


def test_bootstrap_draws_pairs_not_flights() -> None:
    # Every flight of a pair ends alike, so drawing pairs gives the binomial interval of 8 pairs, not 80 flights.
    tracks = [track([5.0, 5.0], [int(p < 4), 0], pair=(str(p), "x")) for p in range(8) for _ in range(10)]
    interval = scoring.bootstrap(tracks, scoring.converged_pct, seed=3)
    assert interval is not None
    # Binomial(8, 1/2) / 8: the 2.5 % and 97.5 % quantiles are 1 and 7 of 8.
    assert interval == (12.5, 87.5)


def test_flights_are_drawn_where_there_is_one_pair_only() -> None:
    tracks = [track([5.0, 5.0], [int(i < 4), 0]) for i in range(8)]
    assert scoring.bootstrap(tracks, scoring.converged_pct, seed=3) == (12.5, 87.5)


def test_bootstrap_needs_two_flights_and_a_defined_statistic() -> None:
    assert scoring.bootstrap([RIGHT], scoring.converged_pct, seed=3) is None
    elsewhere = track([900.0], [0], pair=("c", "d"))
    assert scoring.bootstrap([NEVER, elsewhere], scoring.median_error_m, seed=3) is None


def test_none_false_of_n_is_up_to_three() -> None:
    assert scoring.count_interval([RIGHT] * 60, scoring.false_count, seed=1) == (0.0, 3.0)
    mixed = [WRONG, track([1.0], [1], pair=("c", "d"))]
    assert scoring.count_interval(mixed, scoring.false_count, seed=1) == pytest.approx((0, 2))


def test_a_translation_is_taken_off_the_mean() -> None:
    offset = track([10.0] * 4, [1] * 4)  # 6 m east, 8 m south
    assert scoring.median_error_m([offset.moved((6.0, -8.0))]) == pytest.approx(0.0)
    assert scoring.median_error_m([offset.moved((6.0, 0.0))]) == pytest.approx(8.0)


# Kidnapped at update 3: wrong for two fixes, lost, found wrong once, lost again, right at last, then the end.
NAN = float("nan")
MOVED = track([300, 5, 5, 900, 950, 980, 500, 400, 7, 6, NAN], [0, 1, 1, 1, 1, 0, 1, 0, 1, 1, 0], event=3)
HONEST = track([300, 5, 5, 900, 950, 20, 10], [0, 1, 1, 0, 0, 1, 1], event=3)
STUBBORN = track([5, 5, *[2000.0] * 60], [1] * 62, event=2)
NOT_MOVED = track([900.0] * 5, [0] * 5)


def test_after_a_kidnapping() -> None:
    assert scoring.happened([MOVED, NOT_MOVED]) == [MOVED]
    assert scoring.lost_updates([MOVED, NOT_MOVED]) == 3 and scoring.lost_updates([HONEST]) == 1
    assert scoring.right_updates([MOVED]) == 6 and scoring.right_updates([HONEST]) == 3
    assert scoring.wrong_fixes([MOVED]) == 2 and scoring.wrong_fixes([HONEST]) == 0
    assert scoring.redeclared_false([MOVED, HONEST, NOT_MOVED]) == 1
    assert np.isnan(scoring.lost_updates([NOT_MOVED]))


def test_five_updates_of_grace_after_a_kidnapping_and_no_more() -> None:
    assert scoring.late_false([MOVED, HONEST]) == 0, "its wrong re-declaration was the fourth update after the move"
    assert scoring.late_false([STUBBORN]) == 1
    assert scoring.lost_updates([STUBBORN]) == scoring.right_updates([STUBBORN]) == 50
    assert scoring.redeclared_false([STUBBORN]) == 0, "it never gave up what it had declared"
    assert scoring.late_false([track([5, 500, 5], [1, 1, 1])]) == 1, "never moved: no grace"
