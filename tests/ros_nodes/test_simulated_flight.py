"""The simulated flight against what was asked of it: spread, noise, borders, and rates that are its own attitude's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kittiwake_ros.simulated_flight import STEP_S, SimulatedFlight
from kittiwake_runtime.localization.simulate import Motion, Sensors

BOUNDS = (0.0, 0.0, 4000.0, 4000.0)


def fly(seed: int = 3, **changes: object) -> SimulatedFlight:
    return SimulatedFlight(BOUNDS, Motion(), Sensors(), seed, **changes)  # type: ignore[arg-type]


def flu_in_grid(flight: SimulatedFlight) -> Rotation:
    truth = flight.truth
    ned = Rotation.from_euler("ZYX", [math.pi / 2 - truth.heading_rad, truth.pitch_rad, truth.roll_rad])
    return Rotation.from_matrix(np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]]) @ ned.as_matrix() @ np.diag([1, -1, -1]))


def test_it_stays_on_the_map_and_keeps_its_speed() -> None:
    flight = fly()
    places = []
    for second in range(300):
        flight.fly_to(second)
        places.append((flight.truth.x_m, flight.truth.y_m))
    points = np.array(places)
    assert points.min() > 0
    assert points.max() < 4000
    steps = np.hypot(*np.diff(points, axis=0).T)
    assert steps.max() <= 20.0 + 1e-6
    assert steps.mean() > 19.8


def test_the_same_arguments_fly_the_same() -> None:
    one, other = fly(), fly()
    one.fly_to(5.0)
    for tenth in range(51):
        other.fly_to(tenth / 10)
    assert one.truth == other.truth
    assert one.measure().odometry == other.measure().odometry
    assert fly(seed=4).truth != fly().truth


def test_gyro_and_attitude_are_of_one_motion() -> None:
    flight = fly()
    flight.fly_to(1.0)
    body = flu_in_grid(flight)
    rates = []
    for step in range(1, 401):
        flight.fly_to(1.0 + step * STEP_S)
        rates.append(flight.measure().gyro_rad_s)
        body = body * Rotation.from_rotvec(np.array(rates[-1]) * STEP_S)
    # Gyro noise of 0.2 degrees a second at 100 Hz walks 0.04 degrees in 4 s.
    assert math.degrees((body.inv() * flu_in_grid(flight)).magnitude()) < 0.4
    assert np.abs(rates).max() < math.radians(40)


def test_tilt_and_height_spread_as_the_sensors_say() -> None:
    flight = fly()
    pitch, height = [], []
    for tenth in range(4000):
        flight.fly_to(tenth / 10)
        pitch.append(flight.truth.pitch_rad)
        height.append(flight.truth.height_agl_m)
    assert math.degrees(np.std(pitch)) == pytest.approx(3.0, rel=0.2)
    assert np.std(height) / 120 == pytest.approx(0.03, rel=0.5)


def test_odometry_errs_as_the_protocol_says() -> None:
    still = Motion(walk_rad=0.0)
    errors, turns = [], []
    for seed in range(100):
        flight = SimulatedFlight((0, 0, 1e5, 1e5), still, Sensors(), seed, start=(5e4, 5e4))
        heading = flight.truth.heading_rad
        flight.fly_to(5.0)
        x, _, yaw = flight.measure().odometry
        errors.append(x - 100.0)  # the other axis also has the heading's error in it
        turns.append(yaw - (flight.truth.heading_rad - heading))
    assert np.std(errors) == pytest.approx(2.0, rel=0.2)
    assert math.degrees(np.std(turns)) == pytest.approx(1.5, rel=0.2)


def test_faults_move_what_they_name_and_nothing_else() -> None:
    flight = fly()
    flight.fly_to(2.0)
    before = flight.measure()
    flight.kidnap(1500.0)
    flight.jump_odometry(30.0)
    after = flight.measure()
    moved = math.hypot(after.truth.x_m - before.truth.x_m, after.truth.y_m - before.truth.y_m)
    assert moved == pytest.approx(1500.0, abs=1.0)
    assert after.truth.heading_rad == before.truth.heading_rad
    assert after.odometry[0] - before.odometry[0] == pytest.approx(30.0)
    assert after.odometry[1:] == before.odometry[1:]


def test_no_room_is_said() -> None:
    with pytest.raises(ValueError, match="leave no ground"):
        SimulatedFlight((0, 0, 500, 500), Motion(), Sensors(), 1)
