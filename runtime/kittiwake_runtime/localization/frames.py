"""Frames and units: projected grid, WGS84, a local tangent plane, and the two ways to say a direction.

Inside, a direction is a *heading*: radians, counter-clockwise from east on the index's grid. In files and on
screens it is a *yaw*: degrees, clockwise from true north. Grid north is not true north (2.6 degrees apart at
3 degrees off the meridian and 60 N), so every conversion asks for the place.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kittiwake_runtime.errors import MapError

if TYPE_CHECKING:
    from pyproj import Proj, Transformer

Floats = NDArray[np.float64]

WGS84_A_M = 6378137.0
WGS84_E2 = 0.0066943799901413165
_PSEUDO_MERCATOR = "Popular Visualisation Pseudo Mercator"


def wrap_angle(angle_rad: ArrayLike) -> Floats:
    """Angles brought into (-pi, pi], any shape."""
    angle = np.asarray(angle_rad, dtype=np.float64)
    return np.asarray(np.pi - np.mod(np.pi - angle, 2.0 * np.pi))


def wrap_yaw_deg(yaw_deg: ArrayLike) -> Floats:
    """Yaws brought into [0, 360) degrees, any shape."""
    yaw = np.mod(np.asarray(yaw_deg, dtype=np.float64), 360.0)
    return np.asarray(np.where(yaw >= 360.0, 0.0, yaw))  # mod(-1e-17, 360) rounds up to 360


def body_to_ned(roll_rad: ArrayLike, pitch_rad: ArrayLike, yaw_rad: ArrayLike) -> Floats:
    """Rotation from body FRD (forward, right, down) to NED, aerospace ZYX: ``Rz(yaw) Ry(pitch) Rx(roll)``.

    Args:
        roll_rad: right wing down is positive.
        pitch_rad: nose up is positive.
        yaw_rad: clockwise from north. The three broadcast.

    Returns:
        (..., 3, 3) float64, so that ``v_ned = R @ v_body``.
    """
    r, p, y = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (roll_rad, pitch_rad, yaw_rad)))
    cr, sr, cp, sp, cy, sy = np.cos(r), np.sin(r), np.cos(p), np.sin(p), np.cos(y), np.sin(y)
    rows = (
        (cp * cy, sr * sp * cy - cr * sy, cr * sp * cy + sr * sy),
        (cp * sy, sr * sp * sy + cr * cy, cr * sp * sy - sr * cy),
        (-sp, sr * cp, cr * cp),
    )
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def utm_crs(lat_deg: float, lon_deg: float) -> str:
    """The WGS84 UTM zone of a place, as ``"EPSG:32633"``, with the exceptions of Norway and Svalbard.

    Raises:
        MapError: beyond 84 N or 80 S, where UTM is not defined.
    """
    if not -80.0 <= lat_deg <= 84.0:
        raise MapError(
            f"UTM is not defined at latitude {lat_deg:.2f} (80 S to 84 N)",
            "name a projected metric CRS with east and north axes, such as a local stereographic one",
        )
    lon = (lon_deg + 180.0) % 360.0 - 180.0
    zone = min(int((lon + 180.0) // 6.0) + 1, 60)
    if 56.0 <= lat_deg < 64.0 and 3.0 <= lon < 12.0:
        zone = 32
    elif lat_deg >= 72.0 and 0.0 <= lon < 42.0:
        zone = 31 + 2 * int((lon + 3.0) // 12.0)
    return f"EPSG:{(32600 if lat_deg >= 0.0 else 32700) + zone}"


@dataclass(frozen=True)
class Grid:
    """A projected metric grid: metres east and north of some origin, in a coordinate reference system.

    Make it with :meth:`from_crs`. All methods take scalars or arrays that broadcast and give float64 arrays;
    a point where the projection is not defined gives NaN.

    Attributes:
        wkt: the CRS as WKT2, two-dimensional, axes east and north, metres.
    """

    wkt: str

    @classmethod
    def from_crs(cls, crs: Any) -> Grid:
        """A grid from WKT, ``"EPSG:32633"``, a number, a ``pyproj.CRS`` or a ``rasterio`` CRS.

        Raises:
            MapError: the CRS is unknown, not projected, not in metres, not east and north, or Web Mercator.
        """
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        hint = "warp the map to a metric grid, for example its UTM zone"
        try:
            parsed = CRS.from_user_input(crs).to_2d()
        except CRSError as error:
            raise MapError(f"can't read the CRS {str(crs)[:60]!r}: {error}", "give WKT or EPSG:nnnn") from error
        axes = parsed.axis_info[:2]
        if not parsed.is_projected:
            raise MapError(f"the CRS {parsed.name!r} is not projected", hint)
        if any(abs(axis.unit_conversion_factor - 1.0) > 1e-9 for axis in axes):
            raise MapError(f"the CRS {parsed.name!r} is in {axes[0].unit_name}, not in metres", hint)
        if {axis.direction for axis in axes} != {"east", "north"}:
            directions = " and ".join(axis.direction for axis in axes)
            raise MapError(f"the axes of {parsed.name!r} point {directions}, not east and north", hint)
        operation = parsed.coordinate_operation
        if operation is not None and operation.method_name == _PSEUDO_MERCATOR:
            raise MapError(f"a metre of {parsed.name!r} (Web Mercator) is not a metre on the ground", hint)
        return cls(parsed.to_wkt())

    def to_wgs84(self, easting_m: ArrayLike, northing_m: ArrayLike) -> tuple[Floats, Floats]:
        """Grid metres to WGS84 ``(lat_deg, lon_deg)``."""
        lon, lat = _to_wgs84(self.wkt).transform(*_pair(easting_m, northing_m))
        return _finite(lat), _finite(lon)

    def from_wgs84(self, lat_deg: ArrayLike, lon_deg: ArrayLike) -> tuple[Floats, Floats]:
        """WGS84 degrees to grid metres ``(easting_m, northing_m)``."""
        lat, lon = _pair(lat_deg, lon_deg)
        easting, northing = _to_wgs84(self.wkt).transform(lon, lat, direction="INVERSE")
        return _finite(easting), _finite(northing)

    def convergence_rad(self, easting_m: ArrayLike, northing_m: ArrayLike) -> Floats:
        """True azimuth of grid north: positive where grid north lies east (clockwise) of true north."""
        return np.radians(_finite(self._factors(easting_m, northing_m).meridian_convergence))

    def scale_factor(self, easting_m: ArrayLike, northing_m: ArrayLike) -> Floats:
        """Grid metres for a metre on the ellipsoid (0.9996 to 1.001 within a UTM zone)."""
        return np.sqrt(_finite(self._factors(easting_m, northing_m).areal_scale))

    def yaw_deg(self, heading_rad: ArrayLike, easting_m: ArrayLike, northing_m: ArrayLike) -> Floats:
        """Heading (counter-clockwise from grid east) to yaw in [0, 360) (clockwise from true north)."""
        grid_bearing = np.pi / 2.0 - np.asarray(heading_rad, dtype=np.float64)
        return wrap_yaw_deg(np.degrees(grid_bearing + self.convergence_rad(easting_m, northing_m)))

    def heading_rad(self, yaw_deg: ArrayLike, easting_m: ArrayLike, northing_m: ArrayLike) -> Floats:
        """Yaw (clockwise from true north) to heading in (-pi, pi] (counter-clockwise from grid east)."""
        grid_bearing = np.radians(np.asarray(yaw_deg, dtype=np.float64)) - self.convergence_rad(easting_m, northing_m)
        return wrap_angle(np.pi / 2.0 - grid_bearing)

    def _factors(self, easting_m: ArrayLike, northing_m: ArrayLike) -> Any:
        easting, northing = _pair(easting_m, northing_m)
        projection = _projection(self.wkt)
        # The grid's own datum: a shift of metres to WGS84 must not tilt the meridian's convergence.
        lon, lat = projection(easting, northing, inverse=True)
        return projection.get_factors(lon, lat)


@dataclass(frozen=True)
class Enu:
    """A tangent plane: east, north, up in metres about a published origin. For local use, it falls away from
    the ellipsoid (20 m at 16 km).

    Attributes:
        lat_deg, lon_deg, height_m: the origin, WGS84, height above the ellipsoid.
    """

    lat_deg: float
    lon_deg: float
    height_m: float = 0.0

    def from_wgs84(self, lat_deg: ArrayLike, lon_deg: ArrayLike, height_m: ArrayLike = 0.0) -> Floats:
        """WGS84 degrees and ellipsoid height to (..., 3) float64 metres east, north, up."""
        return np.asarray((_to_ecef(lat_deg, lon_deg, height_m) - self._origin) @ self._ecef_to_enu.T)

    def to_wgs84(self, enu_m: ArrayLike) -> tuple[Floats, Floats, Floats]:
        """(..., 3) metres east, north, up to WGS84 ``(lat_deg, lon_deg, ellipsoid height_m)``."""
        return _from_ecef(np.asarray(enu_m, dtype=np.float64) @ self._ecef_to_enu + self._origin)

    @functools.cached_property
    def _origin(self) -> Floats:
        return _to_ecef(self.lat_deg, self.lon_deg, self.height_m)

    @functools.cached_property
    def _ecef_to_enu(self) -> Floats:
        lat, lon = math.radians(self.lat_deg), math.radians(self.lon_deg)
        sin_lat, cos_lat, sin_lon, cos_lon = math.sin(lat), math.cos(lat), math.sin(lon), math.cos(lon)
        return np.array(
            [
                [-sin_lon, cos_lon, 0.0],
                [-sin_lat * cos_lon, -sin_lat * sin_lon, cos_lat],
                [cos_lat * cos_lon, cos_lat * sin_lon, sin_lat],
            ]
        )


def _to_ecef(lat_deg: ArrayLike, lon_deg: ArrayLike, height_m: ArrayLike) -> Floats:
    values = (np.asarray(v, dtype=np.float64) for v in (lat_deg, lon_deg, height_m))
    lat, lon, height = np.broadcast_arrays(*values)
    lat, lon = np.radians(lat), np.radians(lon)
    radius = WGS84_A_M / np.sqrt(1.0 - WGS84_E2 * np.sin(lat) ** 2)
    across = (radius + height) * np.cos(lat)
    along_axis = (radius * (1.0 - WGS84_E2) + height) * np.sin(lat)
    return np.stack([across * np.cos(lon), across * np.sin(lon), along_axis], axis=-1)


def _from_ecef(xyz_m: Floats) -> tuple[Floats, Floats, Floats]:
    """Fixed-point iteration on the latitude: each turn shrinks the error by 1/150, six reach rounding."""
    x, y, z = np.moveaxis(xyz_m, -1, 0)
    across = np.hypot(x, y)
    lat = np.arctan2(z, across * (1.0 - WGS84_E2))
    for _ in range(6):
        radius = WGS84_A_M / np.sqrt(1.0 - WGS84_E2 * np.sin(lat) ** 2)
        lat = np.arctan2(z + WGS84_E2 * radius * np.sin(lat), across)
    # Unlike across / cos(lat) - radius, this form of the height also holds at the poles.
    height = across * np.cos(lat) + z * np.sin(lat) - WGS84_A_M * np.sqrt(1.0 - WGS84_E2 * np.sin(lat) ** 2)
    return np.degrees(lat), np.degrees(np.arctan2(y, x)), np.asarray(height)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.broadcast_arrays(np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64))
    return a, b


def _finite(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(array), array, np.nan)


@functools.lru_cache(maxsize=16)
def _to_wgs84(wkt: str) -> Transformer:
    from pyproj import Transformer

    return Transformer.from_crs(wkt, "EPSG:4326", always_xy=True)


@functools.lru_cache(maxsize=16)
def _projection(wkt: str) -> Proj:
    from pyproj import Proj

    return Proj(wkt)
