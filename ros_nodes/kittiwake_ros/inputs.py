"""What comes in, message by message: taken over into the sensors' buffers, or refused with the reason."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import numpy as np

from kittiwake_runtime.errors import FrameError

from . import images
from .camera_clock import CameraClock, ClockOffset
from .camera_info import axis_in_flu, camera_of, disagreement, mount_of
from .diagnostics import Health
from .flight_tracker import FlightTracker
from .geometry import attitude_rad, yaw_of
from .gimbal_tf import GimbalTransforms
from .messages import LEVEL_STD_RAD, UNKNOWN_VARIANCE, quaternion_of, seconds
from .settings import Settings
from .synchronize import Sensors

RANGE_SHARE = 0.02
"""Standard deviation of a height, as a share of it, where its source does not say."""


class Host(Protocol):
    """The node, as far as inputs need it."""

    health: Health

    def refuse(self, source: str, reason: str) -> None:
        """Count a message that can't be used."""


class Inputs:
    """Takes the messages of one flight.

    Args:
        host: hears of refusals.
        settings: which source is for what.
        sensors, tracker: are filled.

    Attributes:
        twist: of the newest odometry; None before it, and where the autopilot is the source.
        odom_frame: frame_id of the odometry.
    """

    def __init__(self, host: Host, settings: Settings, sensors: Sensors, tracker: FlightTracker) -> None:
        self._host, self._settings, self._sensors, self._tracker = host, settings, sensors, tracker
        self.twist: Any = None
        self.odom_frame = ""
        self._image_frame = settings.camera_frame
        self._info: tuple[Any, ...] = ()
        self._clock = CameraClock()
        self._offset_text = "not known"
        self._tilt_variance = LEVEL_STD_RAD**2
        self._has_gyro = False

    def image_time_s(self, message: Any) -> float:
        """An image's stamp, the camera's offset taken out; a stamp of zero stays zero."""
        stamp_s = seconds(message.header.stamp)
        return stamp_s + self._settings.camera_offset_s if stamp_s > 0 else 0.0

    def image_problem(self, message: Any) -> str:
        """Why an image can't be used, as far as its fields say."""
        frame_id = message.header.frame_id
        if self._image_frame and frame_id != self._image_frame:
            return f"frame_id is {frame_id!r}, expected {self._image_frame!r}"
        if self._settings.compressed:
            return "" if len(message.data) else "it has no data"
        try:
            images.check(message)
        except FrameError as error:
            return f"{error.message} ({error.hint})" if error.hint else error.message
        camera = self._tracker.camera
        if camera is not None and (message.width, message.height) != (camera.width, camera.height):
            return f"it is {message.width}x{message.height} px, the camera is {camera.width}x{camera.height}"
        return ""

    def pixels(self, message: Any) -> Any:
        """The array of an image: on the localizer's thread."""
        return images.decode(message) if self._settings.compressed else images.to_array(message)

    def on_camera_info(self, message: Any) -> None:
        """Take the camera where camera.yaml gives none; else compare the two."""
        what = (message.width, message.height, message.distortion_model, *message.k, *message.d)
        what += (message.binning_x, message.binning_y, message.header.frame_id)
        if what == self._info:
            return
        self._info = what
        try:
            camera = camera_of(message, mount_of(self._settings.mount))
        except FrameError as error:
            self._info = ()
            self._host.refuse("camera/camera_info", f"{error.message} ({error.hint})")
            return
        if not self._settings.camera_frame:
            self._image_frame = message.header.frame_id
        if self._settings.camera:
            ours = self._tracker.camera
            self._host.health.set("camera_info", "warn", disagreement(ours, camera) if ours else "")
        else:
            self._tracker.camera = camera

    def on_imu(self, message: Any) -> None:
        """Attitude, where it is the source, and the gyro."""
        time_s = seconds(message.header.stamp)
        if self._settings.attitude_source == "imu":
            if message.orientation_covariance[0] == -1:
                self._host.refuse("imu", "it says that it has no orientation (orientation_covariance[0] is -1)")
            else:
                self._take("imu", self._sensors.add_attitude(time_s, quaternion_of(message.orientation)))
                self._note_tilt(message.orientation_covariance[0], message.orientation_covariance[4])
        if message.angular_velocity_covariance[0] != -1:
            rates = message.angular_velocity
            self._has_gyro = True
            self._take("imu", self._sensors.add_rates(time_s, (rates.x, rates.y, rates.z)))

    def on_odometry(self, message: Any) -> None:
        """Motion; attitude and height, where it is their source."""
        settings, time_s = self._settings, seconds(message.header.stamp)
        if message.header.frame_id == settings.map_frame:
            self._host.refuse("odometry", f"it is in {settings.map_frame!r}, which this node publishes: that is a loop")
            return
        position, orientation = message.pose.pose.position, quaternion_of(message.pose.pose.orientation)
        if self.odom_frame and message.header.frame_id != self.odom_frame:
            self._host.refuse("odometry", f"its frame changed to {message.header.frame_id!r}: taken as a reset")
        if abs(math.sqrt(sum(value * value for value in orientation)) - 1) > 0.05:
            self._host.refuse("odometry", "its orientation is no unit quaternion")
            return
        covariance = np.asarray(message.pose.covariance, float)
        broken = "" if np.isfinite(covariance).all() else "odometry: its covariance is not finite, and is not used"
        self._host.health.set("odometry covariance", "warn", broken)
        self._take("odometry", self._sensors.add_odometry(time_s, position.x, position.y, yaw_of(orientation)))
        self.twist, self.odom_frame = message.twist, message.header.frame_id
        if settings.attitude_source == "odometry":
            self._take("odometry", self._sensors.add_attitude(time_s, orientation))
            if not broken:
                self._note_tilt(covariance[21], covariance[28])
            if not self._has_gyro:
                rates = message.twist.twist.angular
                self._take("odometry", self._sensors.add_rates(time_s, (rates.x, rates.y, rates.z)))
        if settings.height_source in ("odometry", "above_takeoff"):
            self._take("odometry", self._sensors.add_height(time_s, position.z))

    def on_range(self, message: Any) -> None:
        """Height along the body's down axis."""
        value, least, most = float(message.range), float(message.min_range), float(message.max_range)
        if not (math.isfinite(value) and least <= value and (most <= least or value <= most)):
            self._host.refuse("range", f"{value:g} m is outside {least:g} to {most:g} m")
            return
        self._take("range", self._sensors.add_height(seconds(message.header.stamp), value))

    def on_gimbal(self, message: Any) -> None:
        """Orientation of the gimbal."""
        q = quaternion_of(message.quaternion)
        self._take("gimbal", self._sensors.add_gimbal(seconds(message.header.stamp), q))

    def poll_gimbal(self, transforms: GimbalTransforms, now_s: float) -> None:
        """Orientation of the gimbal, out of tf2."""
        if (found := transforms.newer(now_s)) is not None:
            self._take("tf", self._sensors.add_gimbal(*found))
        self._host.health.set("gimbal", "warn", transforms.problem)

    def _take(self, source: str, why_not: str) -> None:
        if why_not:
            self._host.refuse(source, why_not)

    def _note_tilt(self, roll_variance: float, pitch_variance: float) -> None:
        worst = max(float(roll_variance), float(pitch_variance))
        self._tilt_variance = worst if math.isfinite(worst) and worst > 0 else LEVEL_STD_RAD**2

    def tilt_rad(self) -> tuple[float, float]:
        """Newest roll and pitch of the body FRD."""
        newest = self._sensors.attitude.newest
        return attitude_rad(newest)[:2] if newest is not None else (0.0, 0.0)

    def height_and_tilt(self) -> tuple[tuple[float, float], float]:
        """Newest height above ground with its variance, and the variance of roll and pitch."""
        height_m = self._sensors.height.newest
        if height_m is None or not self._settings.height_is_agl:
            return (0.0, UNKNOWN_VARIANCE), self._tilt_variance
        return (height_m, (RANGE_SHARE * height_m) ** 2), self._tilt_variance

    def watches(self, time_s: float) -> bool:
        """Whether the check of the camera's clock wants the image of that time."""
        watched = self._settings.gimbal_source == "none" and len(self._sensors.rates) > 0
        return watched and time_s > 0 and self._clock.wants(time_s)

    def watch_clock(self, time_s: float, message: Any) -> None:
        """Show it the image; on its own thread, since it takes milliseconds."""
        with suppress(FrameError):  # it was refused, and told of, as an image
            self._clock.add(time_s, images.small_gray(message))

    def clock_estimate(self) -> Callable[[], ClockOffset | None] | None:
        """What compares the camera's clock with the gyro's, on the same thread; None where there is no gyro."""
        camera, rates = self._tracker.camera, self._sensors.rates.since(-math.inf)
        if camera is None or len(rates) < 2:
            return None
        times = np.array([time_s for time_s, _ in rates])
        about_axis = np.array([value for _, value in rates]) @ axis_in_flu(camera)
        return partial(self._clock.estimate, times, about_axis)

    def judge_clock(self, found: ClockOffset | None) -> str:
        """Tell of an estimate; returns why no image may be used, or an empty text."""
        if found is None:
            return self._tracker.refusal
        self._offset_text = f"{1e3 * found.offset_s:.0f}"
        level = "error" if found.is_refused else "warn"
        self._host.health.set("camera_clock", level, found.problem)
        return found.problem if found.is_refused else ""

    def values(self) -> dict[str, Any]:
        """For the diagnostics."""
        return {"camera_clock_offset_ms": self._offset_text}
