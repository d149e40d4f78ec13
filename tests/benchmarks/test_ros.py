"""The ROS benchmark's arithmetic: a pose that is late by a known time is off by the way flown in it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from nav_msgs.msg import Odometry
from ros_rows.consistency import NINETY
from ros_rows.live import SIDE_M, excess_errors, on_circle
from scipy.stats import chi2
from sensor_msgs.msg import NavSatFix

from kittiwake_ros.geometry import from_yaw
from kittiwake_ros.messages import quaternion_message, stamp_of
from kittiwake_runtime.localization.frames import Enu

ORIGIN = Enu(60.0, 18.0)
SPEED_M_S, HEADING_RAD = 20.0, 0.7
T0 = 1.75e9


def odometry(time_s: float, x_m: float, y_m: float, yaw_rad: float) -> Any:
    message = Odometry()
    message.header.stamp = stamp_of(time_s)
    message.pose.pose.position.x, message.pose.pose.position.y = x_m, y_m
    message.pose.pose.orientation = quaternion_message(from_yaw(yaw_rad))
    return message


def along(t: float) -> tuple[float, float]:
    return SPEED_M_S * t * math.cos(HEADING_RAD), SPEED_M_S * t * math.sin(HEADING_RAD)


def update(t: float, off_m: float) -> Any:
    lat, lon, _ = ORIGIN.to_wgs84([along(t)[0] + off_m, along(t)[1], 0.0])
    message = NavSatFix(latitude=float(lat), longitude=float(lon))
    message.header.stamp, message.status.status = stamp_of(T0 + t), 0
    return message


@pytest.mark.parametrize("late_s", [0.0, 0.2, 2.0])
def test_a_pose_that_is_late_is_off_by_the_way_flown(late_s: float) -> None:
    """The update is 5 m off, which is its own affair; the odometry's frame is turned against the map's."""
    times = np.arange(0, 10, 0.1)
    heard = {
        "/truth": [odometry(T0 + t, *along(t), HEADING_RAD) for t in times],
        "/odometry": [odometry(T0 + t, SPEED_M_S * t, 0.0, 0.0) for t in times],
    }
    poses = [odometry(T0 + t, along(t - late_s)[0] + 5.0, along(t - late_s)[1], HEADING_RAD) for t in (4.0, 5.0, 6.0)]
    found = list(excess_errors([update(3.0, 5.0), *poses], heard, ORIGIN))
    assert found == pytest.approx([SPEED_M_S * late_s] * 3, abs=0.01)


def test_ninety_per_cent_is_scipys() -> None:
    assert pytest.approx(chi2(2).ppf(0.9)) == NINETY


def test_the_circle_closes_and_stays_on_the_area() -> None:
    assert on_circle(0.0)[:2] == pytest.approx(on_circle(1.0)[:2])
    assert all(0 < value < SIDE_M for share in np.linspace(0, 1, 9) for value in on_circle(share)[:2])
