"""Where the vehicle might be, as somebody tells the node: `/initialpose` and a NavSatFix become soft priors."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.outputs import radius_m

from .geometry import MapFrame, unit, yaw_of
from .messages import quaternion_of

LEAST_RADIUS_M = 20.0
"""No prior is taken for better than this: a wrong one shall only delay."""

SIGMAS_95 = 2.45
"""Of a round normal distribution in the plane, the radius that holds 95 %."""
USEFUL_YAW_STD_RAD = math.radians(60.0)


@dataclass(frozen=True)
class Prior:
    """A place, the radius that holds 95 % of it, and perhaps a yaw (clockwise from true north)."""

    lat_deg: float
    lon_deg: float
    radius_m: float
    yaw_deg: float | None = None
    yaw_std_deg: float = 10.0

    def carried(self, step: OdometryStep, frame: MapFrame) -> Prior:
        """Where it is after a step of the vehicle: along its yaw, or anywhere that far off where that is not known."""
        moved_m = math.hypot(step.forward_m, step.left_m)
        if self.yaw_deg is None:
            return self.widened(moved_m)
        yaw, turn_deg = math.radians(self.yaw_deg), math.degrees(step.turn_rad)
        x, y, _ = frame.origin.from_wgs84(self.lat_deg, self.lon_deg)
        lat, lon = frame.to_wgs84(
            float(x) + step.forward_m * math.sin(yaw) - step.left_m * math.cos(yaw),
            float(y) + step.forward_m * math.cos(yaw) + step.left_m * math.sin(yaw),
        )
        aside_m = moved_m * math.radians(self.yaw_std_deg)
        radius = math.hypot(self.radius_m, SIGMAS_95 * math.hypot(aside_m, step.sigma_m))
        yaw_std_deg = math.hypot(self.yaw_std_deg, math.degrees(step.sigma_turn_rad))
        return Prior(lat, lon, radius, (self.yaw_deg - turn_deg) % 360, yaw_std_deg)

    def widened(self, by_m: float) -> Prior:
        """The same place, known so much less well."""
        return replace(self, radius_m=self.radius_m + by_m)

    def apply(self, localizer: Localizer) -> None:
        """Start the localizer from it."""
        localizer.set_prior(self.lat_deg, self.lon_deg, self.radius_m)
        if self.yaw_deg is not None:
            localizer.set_heading(self.yaw_deg, self.yaw_std_deg)


def initial_pose(message: Any, frame: MapFrame, map_frame: str) -> Prior:
    """A `geometry_msgs/PoseWithCovarianceStamped` in the frame ``map``; its yaw counts when it is known within 60°.

    Raises:
        FrameError: another frame, or numbers that say nothing.
    """
    if message.header.frame_id != map_frame:
        raise FrameError(f"frame_id is {message.header.frame_id!r}, expected {map_frame!r}")
    position, covariance = message.pose.pose.position, np.asarray(message.pose.covariance, float).reshape(6, 6)
    q = unit(quaternion_of(message.pose.pose.orientation))
    if not (math.isfinite(position.x) and math.isfinite(position.y)):
        raise FrameError(f"the position is not finite: {position.x}, {position.y}")
    radius = _radius(covariance[:2, :2])
    lat, lon = frame.to_wgs84(position.x, position.y)
    std = math.sqrt(covariance[5, 5]) if covariance[5, 5] > 0 else math.inf
    if q is None or not std < USEFUL_YAW_STD_RAD:
        return Prior(lat, lon, radius)
    return Prior(lat, lon, radius, (90 - math.degrees(yaw_of(q))) % 360, max(math.degrees(std), 2.0))


def navsat_prior(message: Any) -> Prior:
    """A `sensor_msgs/NavSatFix`: its covariance, where it says one, else 100 m.

    Raises:
        FrameError: it has no fix, or numbers that say nothing.
    """
    if message.status.status < message.status.STATUS_FIX:
        raise FrameError("its status says that it has no fix")
    lat, lon = float(message.latitude), float(message.longitude)
    if not (abs(lat) <= 90 and abs(lon) <= 180):
        raise FrameError(f"latitude {lat}, longitude {lon} is no place")
    if message.position_covariance_type == message.COVARIANCE_TYPE_UNKNOWN:
        return Prior(lat, lon, 100.0)
    return Prior(lat, lon, _radius(np.asarray(message.position_covariance, float).reshape(3, 3)[:2, :2]))


def _radius(covariance: Any) -> float:
    if not np.isfinite(covariance).all() or min(covariance[0, 0], covariance[1, 1]) < 0:
        raise FrameError(f"the covariance of the position is not usable: {covariance.tolist()}")
    return max(radius_m((covariance + covariance.T) / 2, 0.95), LEAST_RADIUS_M)
