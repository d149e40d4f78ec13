"""Fixes and poses as ROS messages."""

from __future__ import annotations

import array
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, PoseWithCovariance, PoseWithCovarianceStamped, TransformStamped
from geometry_msgs.msg import Quaternion as QuaternionMessage
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from sensor_msgs.msg import NavSatFix, NavSatStatus
from std_msgs.msg import Header

from kittiwake_runtime.localization.outputs import Fix

from .belief_grid import BeliefGrid
from .geometry import MapFrame, MapPose, Quaternion, from_attitude, from_yaw, odom_in_map

UNKNOWN_VARIANCE = 1e6
"""Of what is not known, in m² or rad²: a zero would say that it is perfect."""

LEVEL_STD_RAD = math.radians(1.0)
"""Of roll and pitch where the attitude's source does not say."""


def seconds(stamp: Any) -> float:
    """A `builtin_interfaces/Time` in seconds; exact to 0.3 µs in this century."""
    return float(stamp.sec) + 1e-9 * float(stamp.nanosec)


def stamp_of(time_s: float) -> Time:
    """The inverse of :func:`seconds`."""
    nanoseconds = round(time_s * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def quaternion_of(message: Any) -> Quaternion:
    """``(w, x, y, z)`` of a `geometry_msgs/Quaternion`."""
    return message.w, message.x, message.y, message.z


def quaternion_message(q: Quaternion) -> QuaternionMessage:
    """The inverse of :func:`quaternion_of`."""
    return QuaternionMessage(w=q[0], x=q[1], y=q[2], z=q[3])


def pose_message(
    fix: Fix, frame: MapFrame, tilt_rad: tuple[float, float], height: tuple[float, float], tilt_variance: float
) -> PoseWithCovariance:
    """A fix in the frame ``map``.

    Args:
        tilt_rad: roll and pitch of the body FRD.
        height: z, metres above the ground below, and its variance.
        tilt_variance: of roll and pitch, rad².
    """
    pose = frame.pose(fix)
    orientation = from_attitude((*tilt_rad, math.pi / 2 - pose.yaw_rad))
    covariance = np.zeros((6, 6))
    covariance[:2, :2] = pose.covariance
    covariance[2, 2] = height[1]
    covariance[3, 3] = covariance[4, 4] = tilt_variance
    covariance[5, 5] = fix.heading_std_rad**2
    position = Point(x=pose.x_m, y=pose.y_m, z=height[0])
    return PoseWithCovariance(
        pose=Pose(position=position, orientation=quaternion_message(orientation)), covariance=covariance.ravel()
    )


def fix_message(pose: PoseWithCovariance, header: Header) -> PoseWithCovarianceStamped:
    """An accepted fix, stamped with its image."""
    return PoseWithCovarianceStamped(header=header, pose=pose)


def navsat_message(fix: Fix | None, frame: MapFrame, stamp: Time, frame_id: str) -> NavSatFix:
    """A fix in WGS84; STATUS_NO_FIX and NaN where it is not believed. The height above the ellipsoid is not known."""
    message = NavSatFix(header=Header(stamp=stamp, frame_id=frame_id))
    message.altitude = math.nan
    if fix is None or not fix.is_believed:
        message.status.status = NavSatStatus.STATUS_NO_FIX
        message.latitude = message.longitude = math.nan
        message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_UNKNOWN
        return message
    message.status.status = NavSatStatus.STATUS_FIX
    message.latitude, message.longitude = fix.wgs84()
    (xx, xy), (yx, yy) = frame.pose(fix).covariance.tolist()
    message.position_covariance = [xx, xy, 0.0, yx, yy, 0.0, 0.0, 0.0, UNKNOWN_VARIANCE]
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_KNOWN
    return message


def odometry_message(pose: PoseWithCovariance, stamp: Time, frame_id: str, base_frame: str, twist: Any) -> Odometry:
    """A pose carried forward; the twist is the odometry's own, or unknown."""
    message = Odometry(header=Header(stamp=stamp, frame_id=frame_id), child_frame_id=base_frame, pose=pose)
    if twist is not None:
        message.twist = twist
    else:
        message.twist.covariance = (np.eye(6) * UNKNOWN_VARIANCE).ravel()
    return message


def path_message(points: Iterable[PoseStamped], stamp: Time, frame_id: str) -> Path:
    """The believed track."""
    return Path(header=Header(stamp=stamp, frame_id=frame_id), poses=list(points))


def grid_message(grid: BeliefGrid, stamp: Time, frame_id: str) -> OccupancyGrid:
    """The belief over position."""
    message = OccupancyGrid(header=Header(stamp=stamp, frame_id=frame_id))
    message.info.map_load_time = stamp
    message.info.resolution = grid.cell_m
    message.info.height, message.info.width = grid.levels.shape
    message.info.origin.position = Point(x=grid.x_m, y=grid.y_m, z=0.0)
    message.info.origin.orientation = quaternion_message(from_yaw(grid.yaw_rad))
    data = array.array("b")
    data.frombytes(np.ascontiguousarray(grid.levels).tobytes())
    message.data = data
    return message


def odom_transform(
    base_in_map: MapPose, odom: tuple[float, float, float], stamp: Time, map_frame: str, odom_frame: str
) -> Any:
    """The transform ``map → odom`` (REP-105): where the odometry's frame must lie for the vehicle to be where it is.

    Args:
        odom: x, y and yaw of the vehicle in the odometry's frame.
    """
    x, y, yaw = odom_in_map(base_in_map, *odom)
    message = TransformStamped(header=Header(stamp=stamp, frame_id=map_frame), child_frame_id=odom_frame)
    message.transform.translation.x, message.transform.translation.y = x, y
    message.transform.rotation = quaternion_message(from_yaw(yaw))
    return message
