"""What the localizer says: a fix, a pose carried forward from it, and the files that hold a track.

A *fix* is stamped with its image. A *pose* is a fix carried forward by odometry to a later time; an autopilot
gets poses only. Both say how far to believe them: state, source, age, the radius that holds 95 %, and a
protection radius at a stated risk.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

from .flight_log import OdometryStep
from .frames import Enu, Grid

Float64 = npt.NDArray[np.float64]
State = Literal["searching", "converged", "lost"]
Source = Literal["map_matched", "propagated"]

PROTECTION_RISK = 1e-3
"""Chance that the truth lies outside the protection radius."""


@dataclass(frozen=True)
class Fix:
    """Where the vehicle is, on the index's grid, and how far to believe it.

    Attributes:
        time_s: time of the image (of a pose: the time that it was carried forward to), UTC seconds.
        easting_m, northing_m: mean of the belief on the grid; not to be used unless `is_believed`.
        heading_rad: of the vehicle's forward axis, counter-clockwise from grid east.
        covariance: ``(2, 2) float64`` of (easting, northing), m², with the map's own error as a bias.
        position_std_m: square root of the trace of the belief's covariance, without the map's error.
        heading_std_rad: standard deviation of the heading.
        state: ``searching``, ``converged`` or ``lost``.
        source: ``map_matched`` when this frame supported it, else ``propagated``.
        age_s, distance_since_match_m: since the last supported match; infinite before the first.
        elsewhere: probability that the vehicle is not where the belief is.
        evidence: natural logarithm of the frame's likelihood against "elsewhere"; NaN when none was weighed.
        reason: why it is lost, searching, or not matched, in one line; empty when all is well.
        stages_ms: milliseconds of each stage of the update.
    """

    time_s: float
    easting_m: float
    northing_m: float
    heading_rad: float
    covariance: Float64
    position_std_m: float
    heading_std_rad: float
    state: State
    source: Source
    age_s: float
    distance_since_match_m: float
    elsewhere: float
    evidence: float
    reason: str
    grid: Grid
    stages_ms: dict[str, float] = field(default_factory=dict)

    @property
    def is_believed(self) -> bool:
        """Whether the position may be shown, flown or sent."""
        return self.state == "converged"

    @property
    def radius95_m(self) -> float:
        """Radius around the position that holds the truth with 95 %, metres."""
        return radius_m(self.covariance, 0.95)

    @property
    def protection_radius_m(self) -> float:
        """Radius outside which the truth lies with a chance of 1e-3 at most; infinite if elsewhere is likelier."""
        left = PROTECTION_RISK - self.elsewhere
        return radius_m(self.covariance, 1 - left) if left > 0 else math.inf

    def wgs84(self) -> tuple[float, float]:
        """Latitude and longitude, degrees."""
        lat, lon = self.grid.to_wgs84(self.easting_m, self.northing_m)
        return float(lat), float(lon)

    def yaw_deg(self) -> float:
        """Heading clockwise from true north, degrees in [0, 360)."""
        return float(self.grid.yaw_deg(self.heading_rad, self.easting_m, self.northing_m)) % 360

    def enu_m(self, origin: Enu, height_m: float = 0.0) -> Float64:
        """``(3,)`` metres east, north, up of a published origin; the height is above the ellipsoid."""
        return np.asarray(origin.from_wgs84(*self.wgs84(), height_m), np.float64)

    def carried(self, step: OdometryStep) -> Fix:
        """The pose after a further step of odometry, its covariance grown by the step's and the heading's noise."""
        c, s = math.cos(self.heading_rad), math.sin(self.heading_rad)
        east = c * step.forward_m - s * step.left_m
        north = s * step.forward_m + c * step.left_m
        across = np.array([[-north], [east]]) * self.heading_std_rad
        grown = self.covariance + np.eye(2) * step.sigma_m**2 + across @ across.T
        return replace(
            self,
            time_s=self.time_s + step.dt_s,
            easting_m=self.easting_m + east,
            northing_m=self.northing_m + north,
            heading_rad=self.heading_rad + step.turn_rad,
            covariance=grown,
            position_std_m=math.hypot(self.position_std_m, math.sqrt(2) * step.sigma_m, float(np.hypot(*across[:, 0]))),
            heading_std_rad=math.hypot(self.heading_std_rad, step.sigma_turn_rad),
            source="propagated",
            age_s=self.age_s + step.dt_s,
            distance_since_match_m=self.distance_since_match_m + math.hypot(step.forward_m, step.left_m),
            evidence=math.nan,
            stages_ms={},
        )


def radius_m(covariance: Float64, share: float) -> float:
    """Radius of the circle around the mean that holds a share of a 2-D Gaussian, metres.

    A sum of two scaled chi-squares is matched in mean and variance (Patnaik 1949), and its quantile taken by
    Wilson and Hilferty's cube root; within 2 % of the exact radius at 95 % for every ratio of the axes.
    """
    axes = np.maximum(np.linalg.eigvalsh(covariance), 0.0)
    mean, half_variance = float(axes.sum()), float((axes**2).sum())
    if mean <= 0:
        return 0.0
    freedom = mean**2 / half_variance
    a = 2 / (9 * freedom)
    quantile = freedom * max(1 - a + NormalDist().inv_cdf(share) * math.sqrt(a), 0.0) ** 3
    return math.sqrt(half_variance / mean * quantile)


TRACK_COLUMNS = (
    "time_s",
    "state",
    "source",
    "lat_deg",
    "lon_deg",
    "yaw_deg",
    "easting_m",
    "northing_m",
    "radius95_m",
    "protection_radius_m",
    "position_std_m",
    "yaw_std_deg",
    "age_s",
    "distance_since_match_m",
    "elsewhere",
    "evidence",
    "update_ms",
    "reason",
)


def write_track_csv(fixes: Sequence[Fix], path: Path) -> None:
    """Write a track, a line a fix; positions that are not believed are left empty. The write is atomic."""
    rows = [_row(fix) for fix in fixes]
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, TRACK_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)


def _row(fix: Fix) -> dict[str, str]:
    row = {
        "time_s": f"{fix.time_s:.3f}",
        "state": fix.state,
        "source": fix.source,
        "age_s": _number(fix.age_s, 2),
        "distance_since_match_m": _number(fix.distance_since_match_m, 1),
        "elsewhere": f"{fix.elsewhere:.3g}",
        "evidence": _number(fix.evidence, 2),
        "update_ms": f"{sum(fix.stages_ms.values()):.1f}",
        "reason": fix.reason,
    }
    if fix.is_believed:
        lat, lon = fix.wgs84()
        row |= {
            "lat_deg": f"{lat:.8f}",
            "lon_deg": f"{lon:.8f}",
            "yaw_deg": f"{fix.yaw_deg():.2f}",
            "easting_m": f"{fix.easting_m:.2f}",
            "northing_m": f"{fix.northing_m:.2f}",
            "radius95_m": f"{fix.radius95_m:.1f}",
            "protection_radius_m": _number(fix.protection_radius_m, 1),
            "position_std_m": f"{fix.position_std_m:.1f}",
            "yaw_std_deg": f"{math.degrees(fix.heading_std_rad):.2f}",
        }
    return row


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""


def write_track_geojson(fixes: Sequence[Fix], path: Path) -> None:
    """Write the believed part of a track as GeoJSON (RFC 7946: longitude first): lines, and a point a fix."""
    features = [_line(part) for part in _believed_parts(fixes) if len(part) > 1]
    features += [_point(fix) for fix in fixes if fix.is_believed]
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps({"type": "FeatureCollection", "features": features}, indent=1))
    os.replace(temporary, path)


def _believed_parts(fixes: Sequence[Fix]) -> list[list[Fix]]:
    parts: list[list[Fix]] = [[]]
    for fix in fixes:
        if fix.is_believed:
            parts[-1].append(fix)
        elif parts[-1]:
            parts.append([])
    return parts


def _line(fixes: Sequence[Fix]) -> dict[str, object]:
    coordinates = [[round(lon, 8), round(lat, 8)] for lat, lon in (fix.wgs84() for fix in fixes)]
    return {
        "type": "Feature",
        "geometry": {"type": "LineString", "coordinates": coordinates},
        "properties": {"start_s": fixes[0].time_s, "end_s": fixes[-1].time_s},
    }


def _point(fix: Fix) -> dict[str, object]:
    lat, lon = fix.wgs84()
    return {
        "type": "Feature",
        "geometry": {"type": "Point", "coordinates": [round(lon, 8), round(lat, 8)]},
        "properties": {
            "time_s": fix.time_s,
            "yaw_deg": round(fix.yaw_deg(), 2),
            "radius95_m": round(fix.radius95_m, 1),
            "source": fix.source,
        },
    }
