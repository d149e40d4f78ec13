"""Fixes and poses: radii against sampling, carrying forward against Monte Carlo, files against their readers."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pyproj
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.frames import Enu, Grid
from kittiwake_runtime.localization.outputs import Fix, radius_m, write_track_csv, write_track_geojson

GRID = Grid.from_crs("EPSG:32635")


def fix(state: str = "converged", **changes: object) -> Fix:
    values: dict[str, object] = {
        "time_s": 100.0,
        "easting_m": 664_000.0,  # 3 degrees off the central meridian at 60 N
        "northing_m": 6_655_000.0,
        "heading_rad": 0.3,
        "covariance": np.diag([25.0, 9.0]),
        "position_std_m": 5.8,
        "heading_std_rad": math.radians(2),
        "state": state,
        "source": "map_matched",
        "age_s": 0.0,
        "distance_since_match_m": 0.0,
        "elsewhere": 1e-5,
        "evidence": 3.0,
        "reason": "",
        "grid": GRID,
    }
    return Fix(**(values | changes))  # type: ignore[arg-type]


@given(ratio=st.floats(0, 1), turn=st.floats(0, 3.2), share=st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_radius_holds_its_share(ratio: float, turn: float, share: float) -> None:
    rng = np.random.default_rng(0)
    c, s = math.cos(turn), math.sin(turn)
    root = np.array([[c, -s], [s, c]]) @ np.diag([10.0, 10.0 * ratio])
    sample = rng.normal(size=(40_000, 2)) @ root.T
    inside = (np.hypot(*sample.T) < radius_m(root @ root.T, share)).mean()
    assert inside == pytest.approx(share, abs=0.03)


def test_protection_radius_grows_with_doubt_and_ends_in_infinity() -> None:
    assert fix(elsewhere=1e-9).protection_radius_m < fix(elsewhere=9e-4).protection_radius_m
    assert fix(elsewhere=2e-3).protection_radius_m == math.inf
    assert fix().radius95_m < fix().protection_radius_m


def test_carrying_forward_grows_as_monte_carlo_does() -> None:
    rng = np.random.default_rng(0)
    start = fix(covariance=np.diag([4.0, 4.0]), heading_std_rad=math.radians(3))
    step = OdometryStep(40.0, 5.0, 0.2, 1.5, math.radians(1), 2.0)
    n = 200_000
    heading = start.heading_rad + rng.normal(0, start.heading_std_rad, n)
    noisy = complex(40, 5) + rng.normal(0, 1.5, n) + 1j * rng.normal(0, 1.5, n)
    position = rng.normal(0, 2, n) + 1j * rng.normal(0, 2, n) + noisy * np.exp(1j * heading)
    pose = start.carried(step)
    assert pose.time_s == 102.0
    assert pose.source == "propagated"
    assert pose.age_s == 2.0
    assert [pose.easting_m - start.easting_m, pose.northing_m - start.northing_m] == pytest.approx(
        [position.real.mean(), position.imag.mean()], abs=0.1
    )
    assert pose.covariance == pytest.approx(np.cov(position.real, position.imag), rel=0.03, abs=0.15)
    assert pose.heading_std_rad == pytest.approx(math.hypot(math.radians(3), math.radians(1)))


def test_yaw_is_from_true_north_at_a_zone_s_edge() -> None:
    here = fix()
    lat, lon = here.wgs84()
    east = pyproj.Transformer.from_crs(32635, 4326, always_xy=True)
    ahead = east.transform(here.easting_m + math.cos(0.3) * 100, here.northing_m + math.sin(0.3) * 100)
    azimuth, _, _ = pyproj.Geod(ellps="WGS84").inv(lon, lat, *ahead)
    assert here.yaw_deg() == pytest.approx(azimuth % 360, abs=0.01)
    assert abs(here.yaw_deg() - (90 - math.degrees(0.3))) > 2  # grid and true north really differ there


def test_enu_is_about_its_origin() -> None:
    lat, lon = fix().wgs84()
    assert fix().enu_m(Enu(lat, lon, 0.0)) == pytest.approx([0, 0, 0], abs=1e-6)


def test_positions_that_are_not_believed_are_not_written(tmp_path: Path) -> None:
    fixes = [fix("searching", reason="several places fit"), fix(), fix(time_s=101.0), fix("lost"), fix(time_s=103.0)]
    write_track_csv(fixes, tmp_path / "track.csv")
    write_track_geojson(fixes, tmp_path / "track.geojson")
    rows = list(csv.DictReader((tmp_path / "track.csv").open()))
    assert [row["lat_deg"] != "" for row in rows] == [False, True, True, False, True]
    assert rows[0]["reason"] == "several places fit"
    lat, lon = fix().wgs84()
    assert float(rows[1]["lat_deg"]) == pytest.approx(lat, abs=1e-7)
    features = json.loads((tmp_path / "track.geojson").read_text())["features"]
    lines = [f for f in features if f["geometry"]["type"] == "LineString"]
    assert [len(line["geometry"]["coordinates"]) for line in lines] == [2]
    assert lines[0]["geometry"]["coordinates"][0] == pytest.approx([lon, lat], abs=1e-7)
    assert not list(tmp_path.glob("*.part"))
