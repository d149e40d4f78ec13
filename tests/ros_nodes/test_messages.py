"""Fixes as messages: what is not believed is NaN, what is not known has a large variance, stamps come back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from builtin_interfaces.msg import Time

from kittiwake_ros import messages
from kittiwake_ros.geometry import MapFrame, MapPose, yaw_of
from kittiwake_runtime.localization.frames import Enu, Grid
from kittiwake_runtime.localization.outputs import Fix

GRID = Grid.from_crs("EPSG:32633")
FRAME = MapFrame(Enu(60.0, 18.0), GRID)


def fix(state: str = "converged") -> Fix:
    east, north = (float(v) for v in GRID.from_wgs84(60.01, 18.02))
    return Fix(
        time_s=1.75e9, easting_m=east, northing_m=north, heading_rad=0.4,
        covariance=np.array([[9.0, 2.0], [2.0, 16.0]]),
        position_std_m=5.0, heading_std_rad=0.05, state=state, source="map_matched", age_s=0.0,
        distance_since_match_m=0.0, elsewhere=1e-6, evidence=3.0, reason="", grid=GRID,
    )  # fmt: skip


@given(sec=st.integers(1, 2**31 - 1), nanosec=st.integers(0, 10**9 - 1))
def test_stamps_come_back(sec: int, nanosec: int) -> None:
    back = messages.stamp_of(messages.seconds(Time(sec=sec, nanosec=nanosec)))
    assert abs((back.sec - sec) * 10**9 + back.nanosec - nanosec) < 300


@pytest.mark.parametrize("state", ["searching", "lost", None])
def test_what_is_not_believed_is_no_fix(state: str | None) -> None:
    message = messages.navsat_message(fix(state) if state else None, FRAME, Time(), "base_link")
    assert message.status.status == message.status.STATUS_NO_FIX
    assert math.isnan(message.latitude)
    assert math.isnan(message.longitude)
    assert math.isnan(message.altitude)


def test_a_believed_fix_in_wgs84_and_in_the_map_frame() -> None:
    message = messages.navsat_message(fix(), FRAME, Time(), "base_link")
    assert (message.latitude, message.longitude) == pytest.approx((60.01, 18.02), abs=1e-9)
    horizontal = np.array(message.position_covariance).reshape(3, 3)[:2, :2]
    np.testing.assert_allclose(np.linalg.eigvalsh(horizontal), np.linalg.eigvalsh(fix().covariance), rtol=2e-3)
    pose = messages.pose_message(fix(), FRAME, (0.1, -0.05), (120.0, 4.0), 1e-4)
    covariance = np.array(pose.covariance).reshape(6, 6)
    assert covariance[2, 2] == 4.0
    assert covariance[3, 3] == covariance[4, 4] == 1e-4
    assert covariance[5, 5] == pytest.approx(0.05**2)
    true_north = math.radians(90 - fix().yaw_deg())
    assert math.remainder(yaw_of(messages.quaternion_of(pose.pose.orientation)) - true_north, math.tau) == (
        pytest.approx(0, abs=1e-3)
    )


def test_the_transform_is_stamped_and_planar() -> None:
    message = messages.odom_transform(MapPose(10.0, 20.0, 1.0, np.eye(2)), (3.0, 4.0, 0.5), Time(sec=5), "map", "odom")
    assert (message.header.frame_id, message.child_frame_id, message.header.stamp.sec) == ("map", "odom", 5)
    turned = complex(3.0, 4.0) * complex(math.cos(0.5), math.sin(0.5))
    moved = message.transform.translation
    assert (moved.x + turned.real, moved.y + turned.imag) == pytest.approx((10.0, 20.0))
    assert moved.z == 0.0
    assert yaw_of(messages.quaternion_of(message.transform.rotation)) == pytest.approx(0.5)
