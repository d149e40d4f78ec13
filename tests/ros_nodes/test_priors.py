"""A prior that waits for an image is carried by odometry: against a geodesic (pyproj)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from kittiwake_ros.geometry import MapFrame
from kittiwake_ros.priors import Prior
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.frames import Enu, Grid

GEOD = Geod(ellps="WGS84")
FRAME = MapFrame(Enu(60.0, 18.0), Grid.from_crs("EPSG:32634"))
metres = st.floats(-300, 300)


@given(metres, metres, st.floats(-3, 3), st.floats(0, 359))
def test_a_prior_with_a_yaw_moves_along_it(forward_m: float, left_m: float, turn_rad: float, yaw_deg: float) -> None:
    prior = Prior(60.01, 18.02, 50.0, yaw_deg, 10.0)
    moved = prior.carried(OdometryStep(forward_m, left_m, turn_rad, 2.0, 0.02), FRAME)
    azimuth, _, distance = GEOD.inv(prior.lon_deg, prior.lat_deg, moved.lon_deg, moved.lat_deg)
    assert distance == pytest.approx(math.hypot(forward_m, left_m), abs=0.05, rel=1e-4)
    if distance > 1:
        expected = yaw_deg - math.degrees(math.atan2(left_m, forward_m))
        # The frame's axes are those of its origin, a kilometre away.
        assert abs((azimuth - expected + 180) % 360 - 180) < 0.2
    assert moved.yaw_deg is not None
    assert abs((moved.yaw_deg - yaw_deg + math.degrees(turn_rad) + 180) % 360 - 180) < 1e-9
    assert moved.yaw_std_deg > prior.yaw_std_deg
    assert 50.0 < moved.radius_m < 51 + 2.45 * math.hypot(distance * math.radians(10.0), 2.0)


def test_without_a_yaw_it_may_be_anywhere_that_far_off() -> None:
    prior = Prior(60.01, 18.02, 50.0)
    moved = prior.carried(OdometryStep(30.0, -40.0, 0.3, 2.0, 0.02), FRAME)
    assert moved == Prior(60.01, 18.02, 100.0)


def test_a_vehicle_that_did_not_move_leaves_the_place() -> None:
    prior = Prior(60.01, 18.02, 50.0, 90.0, 10.0)
    moved = prior.carried(OdometryStep(0.0, 0.0, 0.0, 0.0, 0.0), FRAME)
    assert (moved.lat_deg, moved.lon_deg) == pytest.approx((prior.lat_deg, prior.lon_deg), abs=1e-9)
    assert moved.radius_m == pytest.approx(50.0)
