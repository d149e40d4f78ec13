"""Buffers that interpolate between samples at most 100 ms apart, and odometry without its resets."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_ros.geometry import from_yaw, yaw_of
from kittiwake_ros.synchronize import Odometer, SampleBuffer, Sensors
from kittiwake_runtime.localization.flight_log import Odometry, Pose, odometry_steps

T0 = 1_750_000_000.0


def numbers(max_gap_s: float = 0.1, keep_s: float = 30.0) -> SampleBuffer[float]:
    return SampleBuffer("height", lambda a, b, share: a + share * (b - a), max_gap_s, keep_s)


@given(gap=st.floats(0.001, 0.3), share=st.floats(0.01, 0.99))
def test_a_gap_above_100_ms_is_not_bridged(gap: float, share: float) -> None:
    buffer = numbers()
    buffer.add(T0, 10.0)
    buffer.add(T0 + gap, 20.0)
    at = T0 + share * gap
    if gap <= 0.1:
        assert buffer.status(at) == "ready"
        assert buffer.at(at) == pytest.approx(10 + 10 * share, abs=1e-5 / gap)
    elif gap > 0.1001:
        assert buffer.status(at) == "missing"
        assert "at most 100" in buffer.why_not(at)
        with pytest.raises(LookupError):
            buffer.at(at)


def test_before_between_and_after() -> None:
    buffer = numbers()
    assert buffer.status(T0) == "waiting"
    assert buffer.why_not(T0) == "no height came"
    buffer.add(T0, 1.0)
    assert buffer.status(T0 + 0.01) == "waiting"
    assert buffer.status(T0 - 0.01) == "missing"
    assert buffer.status(T0) == "ready"
    assert buffer.at(T0) == 1.0, "a sample of that very stamp needs no neighbour"


@pytest.mark.parametrize(
    ("stamp", "why"), [(0.0, "header.stamp"), (math.nan, "header.stamp"), (T0 - 0.03, "30 ms before")]
)
def test_bad_stamps_are_refused_with_the_reason(stamp: float, why: str) -> None:
    buffer = numbers()
    buffer.add(T0, 1.0)
    assert why in buffer.add(stamp, 2.0)
    assert buffer.newest_s == T0
    assert buffer.newest == 1.0


def test_another_recording_starts_again() -> None:
    buffer = numbers()
    buffer.add(T0 + 100, 1.0)
    assert buffer.add(T0, 2.0) == ""
    assert len(buffer) == 1
    assert buffer.at(T0) == 2.0


def test_it_does_not_grow() -> None:
    buffer = numbers(keep_s=1.0)
    for i in range(5000):
        buffer.add(T0 + 0.01 * i, float(i))
    assert len(buffer) <= 160
    assert buffer.at(T0 + 49.5) == pytest.approx(4950)


def test_samples_that_say_nothing_are_refused() -> None:
    sensors = Sensors()
    assert "quaternion" in sensors.add_attitude(T0, (0.0, 0.0, 0.0, 0.0))
    assert "positive" in sensors.add_height(T0, -3.0)
    assert "positive" in sensors.add_height(T0, math.nan)
    assert "finite" in sensors.add_rates(T0, (math.inf, 0.0, 0.0))
    assert "finite" in sensors.add_odometry(T0, math.nan, 0.0, 0.0)
    assert not any(map(len, (sensors.attitude, sensors.height, sensors.rates, sensors.odometry.poses)))


def test_attitude_turns_the_short_way() -> None:
    sensors = Sensors()
    sensors.add_attitude(T0, from_yaw(math.radians(170)))
    sensors.add_attitude(T0 + 0.1, from_yaw(math.radians(-170)))
    assert abs(math.degrees(yaw_of(sensors.attitude.at(T0 + 0.05)))) == pytest.approx(180)


def fly(
    odometer: Odometer, seconds: float, start: tuple[float, float, float], at_s: float, rate_hz: float = 50.0
) -> None:
    """Circles: 20 m/s, turning by 0.1 rad/s, from a place and yaw at a time."""
    x, y, yaw = start
    for i in range(int(seconds * rate_hz)):
        assert odometer.add(at_s + i / rate_hz, x, y, yaw) == ""
        x, y = x + 20 / rate_hz * math.cos(yaw), y + 20 / rate_hz * math.sin(yaw)
        yaw = math.remainder(yaw + 0.1 / rate_hz, math.tau)


def test_a_step_is_the_flight_logs() -> None:
    odometer = Odometer()
    fly(odometer, 60, (5.0, 7.0, 3.0), T0)
    a, b = T0 + 3.013, T0 + 41.987
    poses = []
    for t in (a, b):
        x, y, yaw = odometer.poses.at(t)
        poses.append(Pose(time_s=t, roll_deg=0, pitch_deg=0, odometry=Odometry(x, y, math.degrees(yaw))))
    assert odometer.step(a, b) == odometry_steps(poses)[0]
    turned = 0.1 * (b - a)
    chord = 2 * 200 * math.sin(turned / 2)
    step = odometer.step(a, b)
    assert math.hypot(step.forward_m, step.left_m) == pytest.approx(chord, rel=1e-2)
    assert step.turn_rad == pytest.approx(math.remainder(turned, math.tau), abs=1e-2)
    assert step.sigma_m == pytest.approx(0.02 * chord, rel=1e-2)


@given(jump=st.floats(15, 3000), bearing=st.floats(-3, 3), turned=st.floats(-3, 3))
def test_a_reset_moves_nothing(jump: float, bearing: float, turned: float) -> None:
    """The estimator starts again elsewhere with another heading: the steps are those of a flight without it."""
    smooth, reset = Odometer(), Odometer()
    fly(smooth, 4, (0.0, 0.0, 0.0), T0)
    for i, (time_s, (x, y, yaw)) in enumerate(smooth.poses.since(T0)):
        if i >= 100:
            moved = complex(x, y) * complex(math.cos(turned), math.sin(turned))
            moved += jump * complex(math.cos(bearing), math.sin(bearing)) + 0.0
            x, y, yaw = moved.real, moved.imag, math.remainder(yaw + turned, math.tau)
        reset.add(time_s, x, y, yaw)
    a, b = T0 + 0.5, T0 + 3.5
    expected, found = smooth.step(a, b), reset.step(a, b)
    if reset.resets:
        assert found.forward_m == pytest.approx(expected.forward_m, abs=0.1)
        assert found.left_m == pytest.approx(expected.left_m, abs=0.1)
        assert found.turn_rad == pytest.approx(expected.turn_rad, abs=0.01)
        assert found.sigma_m > expected.sigma_m
        assert "reset" in found.note


def test_a_counted_reset_is_believed_however_small() -> None:
    odometer = Odometer()
    for i in range(100):
        odometer.add(T0 + 0.02 * i, 0.4 * i + (1.0 if i >= 50 else 0.0), 0.0, 0.0, reset_count=int(i >= 50))
    assert odometer.resets == 1
    assert odometer.step(T0, T0 + 1.98).forward_m == pytest.approx(0.4 * 99, abs=1e-6)


def test_noise_and_manoeuvres_are_no_resets() -> None:
    odometer, rng = Odometer(), np.random.default_rng(1)
    x = y = yaw = 0.0
    for i in range(3000):
        yaw += 0.02 * 2.0 * math.sin(i / 40)
        x, y = x + 0.4 * math.cos(yaw), y + 0.4 * math.sin(yaw)
        odometer.add(T0 + 0.02 * i, x + rng.normal(0, 0.1), y + rng.normal(0, 0.1), yaw + rng.normal(0, 0.01))
    assert odometer.resets == 0


def test_no_time_is_no_motion() -> None:
    sensors = Sensors()
    for i in range(5):
        assert sensors.add_odometry(100.0 + 0.05 * i, 0.5 * i, 0.0, 0.3) == ""
    step = sensors.odometry.step(100.1, 100.1)
    assert (step.forward_m, step.left_m, step.turn_rad, step.sigma_m, step.sigma_turn_rad) == (0, 0, 0, 0, 0)
