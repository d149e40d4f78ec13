"""The gate before an estimator: what it must never let through."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_ros.autopilot import AutopilotGate, GateConfig
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.outputs import Fix

T0 = 1_750_000_000.0
GRID = Grid.from_crs("EPSG:32633")


def pose(time_s: float, age_s: float = 1.0, **changes: Any) -> Fix:
    fix = Fix(
        time_s=time_s, easting_m=500_000.0, northing_m=6_650_000.0, heading_rad=0.0,
        covariance=np.array([[9.0, 0.0], [0.0, 16.0]]), position_std_m=5.0, heading_std_rad=0.02, state="converged",
        source="propagated", age_s=age_s, distance_since_match_m=20.0, elsewhere=1e-6, evidence=math.nan, reason="",
        grid=GRID,
    )  # fmt: skip
    return replace(fix, **changes)


def test_a_flight_as_it_should_be() -> None:
    gate = AutopilotGate(GateConfig(rate_hz=10.0, correlation_s=5.0))
    for i in range(50):
        sample = gate.consider(pose(T0 + 0.1 * i), T0 + 0.1 * i + 0.05, altitude_m=210.0)
        assert sample is not None
        assert sample.stamp_s == T0 + 0.1 * i
        assert (sample.lat_deg, sample.lon_deg) == pytest.approx(pose(T0).wgs84())
        assert sample.altitude_m == 210.0
        assert sample.reset_counter == 1
        assert sample.eph_m == pytest.approx(4.0 * math.sqrt(50)), "fifty samples say the same"
    assert gate.reason == ""
    assert gate.longest_gap_s == pytest.approx(0.1, abs=1e-6)
    assert gate.oldest_s == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize("state", ["searching", "lost"])
def test_nothing_but_a_converged_belief(state: str) -> None:
    gate = AutopilotGate()
    assert gate.consider(None, T0) is None
    assert gate.consider(pose(T0, state=state, reason="several places fit"), T0) is None
    assert gate.reason == "not converged: several places fit"
    assert gate.sent == 0


def test_a_shadow_sends_nothing() -> None:
    gate = AutopilotGate(GateConfig(shadow=True))
    assert gate.consider(pose(T0), T0) is None
    assert "shadow" in gate.reason


@pytest.mark.parametrize(
    ("late_s", "passes"), [(0.0, True), (0.149, True), (0.151, False), (2.0, False), (-0.2, False)]
)
def test_no_sample_older_than_150_ms(late_s: float, passes: bool) -> None:
    gate = AutopilotGate()
    assert (gate.consider(pose(T0), T0 + late_s) is not None) == passes
    assert bool(gate.reason) != passes


def test_the_same_sample_is_not_sent_twice() -> None:
    gate = AutopilotGate()
    assert gate.consider(pose(T0), T0) is not None
    assert gate.consider(pose(T0), T0 + 0.1) is None
    assert "nothing newer" in gate.reason


def test_after_a_hole_it_waits_for_the_next_match() -> None:
    gate = AutopilotGate()
    first = gate.consider(pose(T0, age_s=0.5), T0)
    assert first is not None
    assert gate.consider(pose(T0, age_s=0.5), T0 + 1.5) is None, "the odometry stood still"
    assert gate.consider(pose(T0 + 1.6, age_s=2.1), T0 + 1.6) is None, (
        "it is back, and the match is older than the hole"
    )
    assert "next match" in gate.reason
    again = gate.consider(pose(T0 + 3.0, age_s=0.2), T0 + 3.0)
    assert again is not None
    assert again.reset_counter == first.reset_counter + 1
    assert gate.longest_gap_s <= 1.0


def test_found_again_is_counted() -> None:
    gate = AutopilotGate()
    counters = []
    for i, state in enumerate(["converged", "lost", "searching", "converged", "converged"]):
        sample = gate.consider(pose(T0 + 0.1 * i, state=state), T0 + 0.1 * i)
        counters.append(sample and sample.reset_counter)
    assert counters == [1, None, None, 2, 2]


steps = st.lists(
    st.tuples(st.floats(0.01, 3.0), st.floats(0, 0.4), st.booleans(), st.sampled_from(["converged", "lost"])),
    max_size=60,
)


@given(steps=steps)
def test_whatever_happens_the_limits_hold(steps: list[tuple[float, float, bool, str]]) -> None:
    """Times between poses, their lateness, matches in between, states: never old, never after a hole."""
    gate, now, matched = AutopilotGate(), T0, T0
    last: tuple[float, int] | None = None
    for dt, late, is_match, state in steps:
        now += dt
        matched = now - late if is_match else matched
        sample = gate.consider(pose(now - late, age_s=max(now - late - matched, 0.0), state=state), now)
        if sample is None:
            assert gate.reason
            continue
        assert 0 <= now - sample.stamp_s <= 0.15 + 1e-6
        assert math.isfinite(sample.eph_m)
        assert state == "converged"
        if last is not None and sample.reset_counter == last[1]:
            assert 0 < sample.stamp_s - last[0] <= 1.0 + 1e-6
        last = (sample.stamp_s, sample.reset_counter)
