"""Rotations and frames between ROS and the runtime: quaternions, FLU in ENU against FRD in NED, and the map frame.

Quaternions are ``(w, x, y, z)``. ROS (REP-103): body forward, left, up in a world of east, north, up. The runtime's
files: body forward, right, down in north, east, down. The frame ``map`` (REP-105) is the plane that touches the
ellipsoid at a published origin, x east, y north.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.localization.frames import Enu, Grid
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.outputs import Fix

Floats = npt.NDArray[np.float64]
Quaternion = tuple[float, float, float, float]

FLU_TO_FRD = np.diag([1.0, -1.0, -1.0])
ENU_TO_NED = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])


def unit(q: Quaternion) -> Quaternion | None:
    """The quaternion at unit length; None when it is not finite or more than 5 % off."""
    length = math.sqrt(sum(value * value for value in q))
    if not (math.isfinite(length) and abs(length - 1) < 0.05):
        return None
    w, x, y, z = q
    return w / length, x / length, y / length, z / length


def rotation(q: Quaternion) -> Floats:
    """``(3, 3)`` rotation matrix of a unit quaternion."""
    w, x, y, z = q
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion(turn: Floats) -> Quaternion:
    """Unit quaternion of a ``(3, 3)`` rotation matrix, w not negative (the eigenvector of Bar-Itzhack, 2000)."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = turn
    symmetric = np.array(
        [
            [xx - yy - zz, yx + xy, zx + xz, zy - yz],
            [yx + xy, yy - xx - zz, zy + yz, xz - zx],
            [zx + xz, zy + yz, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    x, y, z, w = np.linalg.eigh(symmetric)[1][:, -1]
    sign = -1.0 if w < 0 else 1.0
    return float(sign * w), float(sign * x), float(sign * y), float(sign * z)


def from_yaw(yaw_rad: float) -> Quaternion:
    """A turn about z, counter-clockwise."""
    return math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2)


def yaw_of(q: Quaternion) -> float:
    """Angle of the body's forward axis in the world's xy plane, counter-clockwise from x."""
    w, x, y, z = q
    return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def slerp(a: Quaternion, b: Quaternion, share: float) -> Quaternion:
    """The rotation on the shortest way from `a` (share 0) to `b` (share 1); Shoemake 1985."""
    p, q = np.array(a), np.array(b)
    cosine = float(p @ q)
    if cosine < 0:
        q, cosine = -q, -cosine
    angle = math.acos(min(cosine, 1.0))
    if angle < 1e-7:
        mixed = p + share * (q - p)
    else:
        mixed = (math.sin((1 - share) * angle) * p + math.sin(share * angle) * q) / math.sin(angle)
    w, x, y, z = mixed / np.linalg.norm(mixed)
    return float(w), float(x), float(y), float(z)


def attitude_rad(q: Quaternion) -> tuple[float, float, float]:
    """Roll, pitch and yaw of the body FRD in NED, aerospace ZYX, of a body FLU in ENU; yaw clockwise from north."""
    turn = ENU_TO_NED @ rotation(q) @ FLU_TO_FRD
    roll = math.atan2(turn[2, 1], turn[2, 2])
    pitch = -math.asin(max(-1.0, min(1.0, float(turn[2, 0]))))
    return roll, pitch, math.atan2(turn[1, 0], turn[0, 0])


def from_attitude(attitude: tuple[float, float, float]) -> Quaternion:
    """The inverse of :func:`attitude_rad`."""
    from kittiwake_runtime.localization.frames import body_to_ned

    return quaternion(ENU_TO_NED.T @ body_to_ned(*attitude) @ FLU_TO_FRD.T)


@dataclass(frozen=True)
class MapPose:
    """A pose in the frame ``map``: metres, radians counter-clockwise from east, ``(2, 2)`` covariance in m²."""

    x_m: float
    y_m: float
    yaw_rad: float
    covariance: Floats


@dataclass(frozen=True)
class MapFrame:
    """The frame ``map``, and the way between it and the index's grid.

    Attributes:
        origin: where it touches the ellipsoid; published with every state.
        grid: of the index.
    """

    origin: Enu
    grid: Grid

    @classmethod
    def of(cls, index: MapIndex) -> MapFrame:
        """The frame whose origin is the middle of the map."""
        west, south, east, north = index.bounds_m
        lat, lon = index.grid.to_wgs84((west + east) / 2, (south + north) / 2)
        return cls(Enu(float(lat), float(lon)), index.grid)

    def from_grid(self, easting_m: float, northing_m: float) -> tuple[float, float]:
        """x and y of a point of the grid."""
        ((x, y),) = self._from_grid([easting_m], [northing_m]).tolist()
        return x, y

    def to_wgs84(self, x_m: float, y_m: float) -> tuple[float, float]:
        """Latitude and longitude of a point of the frame."""
        lat, lon, _ = self.origin.to_wgs84([x_m, y_m, 0.0])
        return float(lat), float(lon)

    def turn_at(self, easting_m: float, northing_m: float) -> Floats:
        """``(2, 2)`` Jacobian of :meth:`from_grid`: a turn by the grid's convergence, and its scale."""
        return self._at(easting_m, northing_m)[1]

    def pose(self, fix: Fix) -> MapPose:
        """A fix in this frame."""
        (x, y), turn = self._at(fix.easting_m, fix.northing_m)
        ahead = turn @ np.array([math.cos(fix.heading_rad), math.sin(fix.heading_rad)])
        return MapPose(float(x), float(y), math.atan2(ahead[1], ahead[0]), turn @ fix.covariance @ turn.T)

    @lru_cache(maxsize=4)  # noqa: B019 - a node has one frame
    def _at(self, easting_m: float, northing_m: float) -> tuple[Floats, Floats]:
        """A point of the grid and the Jacobian there, from three points at once and once for all messages of a fix:
        each that is sent waits for it."""
        step_m = 10.0
        here, east, north = self._from_grid(
            [easting_m, easting_m + step_m, easting_m], [northing_m, northing_m, northing_m + step_m]
        )
        return here, np.column_stack([east - here, north - here]) / step_m

    def _from_grid(self, easting_m: list[float], northing_m: list[float]) -> Floats:
        """``(n, 2)`` x and y."""
        return self.origin.from_wgs84(*self.grid.to_wgs84(easting_m, northing_m))[:, :2]


def odom_in_map(base_in_map: MapPose, odom_x_m: float, odom_y_m: float, odom_yaw_rad: float) -> tuple[float, ...]:
    """x, y and yaw of the frame ``odom`` in ``map``, from where the vehicle is in both."""
    yaw = base_in_map.yaw_rad - odom_yaw_rad
    c, s = math.cos(yaw), math.sin(yaw)
    x = base_in_map.x_m - (c * odom_x_m - s * odom_y_m)
    y = base_in_map.y_m - (s * odom_x_m + c * odom_y_m)
    return x, y, math.remainder(yaw, math.tau)
