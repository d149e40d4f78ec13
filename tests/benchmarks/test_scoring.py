"""The protocol's words on tracks made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import scoring
from scoring import Track


def track(
    error_m: list[float], converged: list[int], pair: tuple[str, str] = ("a", "b"), radius95_m: float = 20.0
) -> Track:
    n = len(error_m)
    return Track(
        pair,
        np.array(error_m),
        np.array(converged, bool),
        np.full(n, radius95_m),
        np.full(n, 8.0),
        np.full(n, 0.1),
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


def test_bootstrap_needs_two_pairs_and_a_defined_statistic() -> None:
    assert scoring.bootstrap([RIGHT, WRONG], scoring.converged_pct, seed=3) is None
    elsewhere = track([900.0], [0], pair=("c", "d"))
    assert scoring.bootstrap([NEVER, elsewhere], scoring.median_error_m, seed=3) is None


def test_none_false_of_n_is_up_to_three() -> None:
    assert scoring.false_interval([RIGHT] * 60, seed=1) == (0.0, 3.0)
    assert scoring.false_interval([WRONG, track([1.0], [1], pair=("c", "d"))], seed=1) == pytest.approx((0, 2))
