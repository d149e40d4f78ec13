"""The drone photos as a user's flight: what is written is checked against pyproj and the poses; then it is flown."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from drone_photos import write_drone_flight
from places import data_dir
from pyproj import Geod

from kittiwake_runtime.cli import main
from kittiwake_runtime.localization.camera import load_camera
from kittiwake_runtime.localization.flight_log import odometry_steps, read_frames
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.orthorectify import ground_points

SOURCE = data_dir() / "uav" / "fengyuan_dji"
GEOD = Geod(ellps="WGS84")


@pytest.fixture(scope="module")
def source() -> Path:
    if not (SOURCE / "poses.csv").is_file():
        pytest.skip(f"no drone photos in {SOURCE} (KITTIWAKE_DATA)")
    return SOURCE


@pytest.fixture(scope="module")
def flight(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drone")
    write_drone_flight(source, folder)
    return folder


@pytest.mark.data
def test_the_maps_corners_are_where_its_description_says(source: Path, flight: Path, tmp_path: Path) -> None:
    write_drone_flight(source, tmp_path / "raw", corrected=False)
    corners = json.loads((source / "map.json").read_text())
    offset = json.loads((source / "camera.json").read_text())["map_offset_m"]
    with rasterio.open(tmp_path / "raw" / "map.tif") as raw, rasterio.open(flight / "map.tif") as mended:
        assert raw.crs.to_epsg() == mended.crs.to_epsg() == 32651
        grid = Grid.from_crs(str(raw.crs))
        for name, pixel in (("TL", (0, 0)), ("TR", (raw.width, 0)), ("BL", (0, raw.height)),
                            ("BR", (raw.width, raw.height))):  # fmt: skip
            lat, lon = grid.to_wgs84(*rasterio.transform.xy(raw.transform, *pixel[::-1], offset="ul"))
            assert GEOD.inv(lon, lat, *corners[name])[2] < 1.5
        moved = np.subtract((mended.transform.c, mended.transform.f), (raw.transform.c, raw.transform.f))
        np.testing.assert_allclose(moved, (-offset["east"], -offset["north"]), atol=1e-6)


@pytest.mark.data
def test_the_middle_of_a_photo_falls_where_it_was_measured(source: Path, flight: Path) -> None:
    lead = json.loads((source / "camera.json").read_text())["ground_point_of_image_centre_m"]
    camera = load_camera(flight / "camera.yaml")
    forward, left = ground_points([799.5, 449.5], camera, (0.0, 0.0, 0.0), 120.0)
    assert (forward, -left) == pytest.approx((lead["forward_of_gps_along_flight_yaw"], lead["right"]))
    left_edge, right_edge = ground_points([[-0.5, 449.5], [1599.5, 449.5]], camera, (0.0, 0.0, 0.0), 120.0)
    assert left_edge[1] - right_edge[1] == pytest.approx(2 * 120 * math.tan(math.radians(71.5 / 2)))


@pytest.mark.data
def test_odometry_is_what_gps_says_plus_the_protocols_noise(source: Path, flight: Path) -> None:
    frames = read_frames(flight / "frames.csv")
    with (source / "poses.csv").open(newline="") as file:
        poses = {row["file"]: row for row in csv.DictReader(file)}
    assert len(frames) == len(poses) == 30
    shares, turns = [], []
    for before, after, step in zip(frames, frames[1:], odometry_steps(frames), strict=False):
        a, b = poses[before.file.name], poses[after.file.name]
        azimuth, _, length = GEOD.inv(float(a["lon"]), float(a["lat"]), float(b["lon"]), float(b["lat"]))
        bearing = math.radians(azimuth - float(a["flight_yaw"]))
        wanted = np.array([length * math.cos(bearing), -length * math.sin(bearing)])
        shares += list((np.array([step.forward_m, step.left_m]) - wanted) / length)
        turned = math.radians(float(a["flight_yaw"]) - float(b["flight_yaw"]))
        turns.append(math.degrees(math.remainder(step.turn_rad - turned, math.tau)))
        assert step.note == "", "no step of this flight is a reset"
    # 58 and 29 numbers: the widest that chance makes of 2 % and of 1.5 degrees, with one in a thousand beyond.
    assert 0.014 < np.std(shares) < 0.026
    assert 0.9 < np.std(turns) < 2.2


@pytest.mark.data
def test_columns_can_be_left_out(source: Path, tmp_path: Path) -> None:
    write_drone_flight(source, tmp_path, odometry=False, height_known=False)
    frame = read_frames(tmp_path / "frames.csv")[0]
    assert (frame.odometry, frame.height_agl_m) == (None, None)
    assert frame.height_above_takeoff_m == pytest.approx(119.7)


def test_absent_photos_are_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="KITTIWAKE_DATA"):
        write_drone_flight(tmp_path, tmp_path / "out")


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("height_known", [True, False])
def test_the_photos_are_located(source: Path, tmp_path: Path, height_known: bool) -> None:
    """Against GPS; the lead and the map's shift were fitted on the even rows, so the odd ones are looked at alone."""
    write_drone_flight(source, tmp_path, height_known=height_known)
    build = ["map", "build", "map.tif", "-o", "area.kwmap", "--footprint", "95", "--georef-sigma", "2"]
    locate = ["locate", "--map", "area.kwmap", "--camera", "camera.yaml", "--frames", "frames.csv", "-o", "located"]
    for words in (build, locate):
        assert main([str(tmp_path / word) if "." in word or word == "located" else word for word in words]) == 0
    with (tmp_path / "located" / "track.csv").open(newline="") as file:
        track = list(csv.DictReader(file))
    errors = []
    for row, frame in zip(track, read_frames(tmp_path / "frames.csv"), strict=True):
        assert frame.truth is not None
        believed = row["state"] == "converged"
        distance_m = GEOD.inv(float(row["lon_deg"]), float(row["lat_deg"]), *frame.truth[::-1])[2] if believed else None
        errors.append(distance_m)
    found = [error for error in errors if error is not None]
    assert len(found) >= 24, "converged within six photos, and stayed so"
    assert max(found) < 20, "no position was ever wrong"
    assert np.median([error for error in errors[1::2] if error is not None]) < 6
