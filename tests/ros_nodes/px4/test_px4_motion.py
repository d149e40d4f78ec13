"""PX4's clock and its resets, against a flight whose path is known in closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_ros.px4_messages import MotionSample
from kittiwake_ros.px4_motion import DeadReckoned, DeadReckoning, Px4Clock

EPOCH_S = 1_750_000_000.0


def circle(count: int, *, speed_m_s: float = 20.0, rate_rad_s: float = 0.1, dt_s: float = 0.02) -> list[MotionSample]:
    """A turn to the left at constant speed."""
    return [
        MotionSample(round(1e6 * (1 + i * dt_s)), speed_m_s, 0.0, i * dt_s * rate_rad_s, 0, math.nan, rate_rad_s)
        for i in range(count)
    ]


def fly(samples: list[MotionSample]) -> list[DeadReckoned]:
    reckoning = DeadReckoning()
    return [pose for sample in samples if (pose := reckoning.update(sample)) is not None]


def on_the_circle(count: int) -> tuple[float, float, float]:
    angle = (count - 1) * 0.02 * 0.1
    return 200 * math.sin(angle), 200 * (1 - math.cos(angle)), angle


def test_a_circle_is_flown() -> None:
    last = fly(circle(1000))[-1]
    x, y, yaw = on_the_circle(1000)
    assert math.hypot(last.x_m - x, last.y_m - y) < 0.01
    assert math.remainder(last.yaw_rad - yaw, math.tau) == pytest.approx(0, abs=1e-9)


@given(jump=st.floats(-3, 3), at=st.integers(1, 99), known=st.booleans())
def test_a_reset_of_the_heading_is_no_turn(jump: float, at: int, known: bool) -> None:
    samples = circle(100)
    said = jump if known else math.nan
    for i in range(at, 100):
        s = samples[i]
        samples[i] = MotionSample(s.time_us, s.forward_m_s, 0.0, s.heading_rad + jump, 1, said, s.turn_rate_rad_s)
    flown = fly(samples)
    x, y, yaw = on_the_circle(100)
    assert math.hypot(flown[-1].x_m - x, flown[-1].y_m - y) < 0.01
    assert math.remainder(flown[-1].yaw_rad - yaw, math.tau) == pytest.approx(0, abs=1e-6)
    assert [i for i, pose in enumerate(flown) if pose.note] == [at]
    assert "reset" in flown[at].note


def test_several_resets_at_once_are_bridged_by_the_turn_rate() -> None:
    samples = circle(100)
    for i in range(50, 100):
        s = samples[i]
        samples[i] = MotionSample(s.time_us, s.forward_m_s, 0.0, s.heading_rad + 2, 255, 0.7, s.turn_rate_rad_s)
    samples = [
        s if s.heading_resets else MotionSample(s.time_us, 20.0, 0.0, s.heading_rad, 253, 0.7, 0.1) for s in samples
    ]
    flown = fly(samples)
    x, y, _ = on_the_circle(100)
    assert math.hypot(flown[-1].x_m - x, flown[-1].y_m - y) < 0.01


def test_old_and_invalid_samples_are_left_out() -> None:
    samples = circle(4)
    unknown = MotionSample(samples[3].time_us + 1, math.nan, 0.0, 0.0, 0)
    assert len(fly([*samples, samples[1], unknown])) == 4


def test_a_silence_is_not_bridged_but_said() -> None:
    samples = circle(100)
    flown = fly([*samples[:20], *samples[60:]])
    assert flown[20].note == "no odometry from PX4 for 0.8 s"
    assert (flown[20].x_m, flown[20].y_m) == (flown[19].x_m, flown[19].y_m)


def test_synchronized_stamps_stay_as_they_are() -> None:
    clock = Px4Clock()
    assert math.isnan(clock.offset_s)
    clock.hear(round(1e6 * EPOCH_S), EPOCH_S + 0.03)
    assert clock.is_synchronized
    assert clock.to_px4_us(EPOCH_S + 1.5) == round(1e6 * (EPOCH_S + 1.5))
    assert clock.to_node_s(round(1e6 * EPOCH_S)) == EPOCH_S


@given(seed=st.integers(0, 2**16), boot_s=st.floats(1.0, 1e6))
def test_stamps_since_boot_are_brought_to_the_nodes_clock(seed: int, boot_s: float) -> None:
    rng, clock = np.random.default_rng(seed), Px4Clock()
    for i in range(600):
        late_s = 0.002 + rng.exponential(0.01)
        clock.hear(round(1e6 * (boot_s + 0.02 * i)), EPOCH_S + 0.02 * i + late_s)
    now_s = EPOCH_S + 12.0
    assert not clock.is_synchronized
    assert clock.to_node_s(round(1e6 * (boot_s + 12.0))) == pytest.approx(now_s + 0.002, abs=0.004)
    assert abs(clock.to_px4_us(clock.to_node_s(123_456_789)) - 123_456_789) <= 1


def test_a_restart_of_px4_is_followed() -> None:
    clock = Px4Clock()
    for i in range(3000):
        clock.hear(round(1e6 * (500 + 0.02 * i)), EPOCH_S + 0.02 * i)
    for i in range(1500):  # it starts again from zero
        clock.hear(round(1e6 * (3 + 0.02 * i)), EPOCH_S + 60 + 0.02 * i)
    assert clock.offset_s == pytest.approx(EPOCH_S + 57, abs=1e-3)


def test_nothing_is_stamped_before_px4_was_heard() -> None:
    with pytest.raises(ValueError, match="not known"):
        Px4Clock().to_px4_us(EPOCH_S)
