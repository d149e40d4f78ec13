"""What a simulated vehicle measures, as standard messages."""

from __future__ import annotations

import math
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, Imu, NavSatFix, NavSatStatus, Range
from std_msgs.msg import Header

from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.simulate import Motion, Sensors

from . import geometry
from .geometry import MapFrame
from .messages import quaternion_message
from .simulated_flight import GYRO_NOISE_RAD_S, Measured

MAP_FRAME, ODOM_FRAME, BASE_FRAME, CAMERA_FRAME = "map", "odom", "base_link", "camera"


def camera_info(camera: Camera) -> CameraInfo:
    """A camera's intrinsics and lens; its mount is in camera.yaml alone."""
    k = [float(value) for value in camera.matrix.ravel()]
    return CameraInfo(
        header=Header(frame_id=CAMERA_FRAME),
        width=camera.width,
        height=camera.height,
        distortion_model="plumb_bob",
        d=[float(value) for value in camera.distortion],
        k=k,
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0],
    )


def imu(measured: Measured, stamp: Time) -> Imu:
    """Attitude, FLU in ENU about true north, and gyro; no acceleration."""
    variance = Sensors.attitude_noise_rad**2
    rate = GYRO_NOISE_RAD_S**2
    message = Imu(header=Header(stamp=stamp, frame_id=BASE_FRAME))
    message.orientation = quaternion_message(geometry.from_attitude(measured.attitude_rad))
    message.orientation_covariance = _diagonal(variance)
    x, y, z = (float(value) for value in measured.gyro_rad_s)
    message.angular_velocity.x, message.angular_velocity.y, message.angular_velocity.z = x, y, z
    message.angular_velocity_covariance = _diagonal(rate)
    message.linear_acceleration_covariance = [-1.0] + 8 * [0.0]  # REP-145: not measured
    return message


def odometry(measured: Measured, stamp: Time) -> Odometry:
    """Pose in a local frame that starts where the flight did; z is the height above the ground there."""
    x, y, yaw = measured.odometry
    roll, pitch, _ = measured.attitude_rad
    message = Odometry(header=Header(stamp=stamp, frame_id=ODOM_FRAME), child_frame_id=BASE_FRAME)
    message.pose.pose.position = Point(x=x, y=y, z=measured.truth.height_agl_m)
    message.pose.pose.orientation = quaternion_message(geometry.from_attitude((roll, pitch, math.pi / 2 - yaw)))
    message.twist.twist.linear.x = measured.speed_m_s
    message.twist.twist.angular.z = measured.turn_rate_rad_s
    flown_m = measured.speed_m_s * measured.time_s
    share = Motion.odometry_share**2 * Motion.step_m  # variance of the protocol's steps, for each metre
    turn = Motion.odometry_turn_rad**2 / Motion.step_m
    variances = [share * flown_m + 1e-4] * 3 + [Sensors.attitude_noise_rad**2] * 2 + [turn * flown_m + 1e-6]
    for i, variance in enumerate(variances):
        message.pose.covariance[7 * i] = variance
    return message


def range_below(measured: Measured, stamp: Time) -> Range:
    """A laser along the body's down axis."""
    return Range(
        header=Header(stamp=stamp, frame_id=BASE_FRAME),
        radiation_type=Range.INFRARED,
        field_of_view=0.01,
        min_range=0.2,
        max_range=1000.0,
        range=measured.range_m,
    )


def truth(frame: MapFrame, place: tuple[float, float], heading_rad: float, stamp: Time) -> Odometry:
    """Where the vehicle really is, in the frame ``map``, from easting, northing and heading on the grid."""
    x, y = frame.from_grid(*place)
    ahead = frame.turn_at(*place) @ [math.cos(heading_rad), math.sin(heading_rad)]
    message = Odometry(header=Header(stamp=stamp, frame_id=MAP_FRAME), child_frame_id=BASE_FRAME)
    message.pose.pose.position = Point(x=x, y=y, z=0.0)
    message.pose.pose.orientation = quaternion_message(geometry.from_yaw(math.atan2(ahead[1], ahead[0])))
    return message


def navsat(lat_deg: Any, lon_deg: Any, stamp: Time) -> NavSatFix:
    """Where the vehicle really is, in WGS84."""
    return NavSatFix(
        header=Header(stamp=stamp, frame_id=BASE_FRAME),
        status=NavSatStatus(status=NavSatStatus.STATUS_FIX, service=NavSatStatus.SERVICE_GPS),
        latitude=float(lat_deg),
        longitude=float(lon_deg),
        altitude=math.nan,
        position_covariance_type=NavSatFix.COVARIANCE_TYPE_UNKNOWN,
    )


def _diagonal(variance: float) -> list[float]:
    return [variance, 0.0, 0.0, 0.0, variance, 0.0, 0.0, 0.0, variance]
