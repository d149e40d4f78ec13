"""Simulated flights, against OpenCV, pyproj and the orthorectification that they feed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kittiwake_runtime.localization.camera import Mount, load_camera
from kittiwake_runtime.localization.descriptor import in_colours
from kittiwake_runtime.localization.flight_log import odometry_steps, read_frames, read_image
from kittiwake_runtime.localization.orthorectify import ground_points, orthorectify
from kittiwake_runtime.localization.simulate import (
    DEFAULT_CAMERA,
    Motion,
    Sensors,
    Truth,
    _ground_points,
    photograph,
    simulate_flight,
    write_flight,
)
from kittiwake_runtime.localization.world import (
    CRS,
    ORIGIN_EASTING_M,
    ORIGIN_NORTHING_M,
    World,
)

WORLD = World(5)
AREA = (0.0, 0.0, 4000.0, 3000.0)
CAMERA = DEFAULT_CAMERA.scaled_to(120, 100)
TILTED = replace(CAMERA, mount=Mount(roll_deg=2.0, pitch_deg=-81.0, yaw_deg=12.0, x_m=0.4, y_m=-0.2, z_m=0.3))
TRUTH = Truth(2100.0, 1400.0, heading_rad=0.9, roll_rad=0.05, pitch_rad=-0.08, height_agl_m=130.0)
EXACT = Sensors(height_walk_share=0.0, height_noise_share=0.0, tilt_rad=0.0, attitude_noise_rad=0.0, pixel_noise=0.0)


def flight(**changes: Any) -> list[Any]:
    settings: dict[str, Any] = {
        "bounds": AREA, "season": "summer", "camera": CAMERA, "updates": 4, "seed": 1, "threads": 1,
    }  # fmt: skip
    return list(simulate_flight(WORLD, **(settings | changes)))


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of frames whose images don't matter."""
    blank = np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8)
    monkeypatch.setattr("kittiwake_runtime.localization.simulate.photograph", lambda *_, **__: blank)


@pytest.mark.parametrize("camera", [CAMERA, TILTED])
def test_rays_meet_the_ground_where_opencv_projects_it_from(camera: Any) -> None:
    points = _ground_points(camera, TRUTH)[::9, ::7].reshape(-1, 2)
    # The pose by hand: optical axes in the world (east, north, up), column by column.
    ch, sh = math.cos(TRUTH.heading_rad), math.sin(TRUTH.heading_rad)
    frd_to_enu = np.array([[ch, sh, 0], [sh, -ch, 0], [0, 0, -1.0]])
    roll, _ = cv2.Rodrigues(np.array([TRUTH.roll_rad, 0, 0]))
    pitch, _ = cv2.Rodrigues(np.array([0, TRUTH.pitch_rad, 0]))
    body_to_enu = frd_to_enu @ pitch @ roll
    optical_to_enu = body_to_enu @ camera.mount.optical_to_body
    lens = np.array([TRUTH.x_m, TRUTH.y_m, TRUTH.height_agl_m]) + body_to_enu @ camera.mount.position_m
    rotation, _ = cv2.Rodrigues(optical_to_enu.T)
    ground = np.column_stack([points, np.zeros(len(points))])
    seen, _ = cv2.projectPoints(ground, rotation, -optical_to_enu.T @ lens, camera.matrix, np.array(camera.distortion))
    v, u = np.meshgrid(np.arange(0, camera.height, 9), np.arange(0, camera.width, 7), indexing="ij")
    np.testing.assert_allclose(seen[:, 0], np.column_stack([u.ravel(), v.ravel()]), atol=1e-6)


def test_rays_meet_the_ground_where_orthorectification_looks() -> None:
    pixels = np.array([[3.0, 5.0], [60.0, 50.0], [110.0, 90.0]])
    points = _ground_points(TILTED, TRUTH)[[5, 50, 90], [3, 60, 110]] - (TRUTH.x_m, TRUTH.y_m)
    forward, left = ground_points(pixels, TILTED, (TRUTH.roll_rad, TRUTH.pitch_rad), TRUTH.height_agl_m).T
    ch, sh = math.cos(TRUTH.heading_rad), math.sin(TRUTH.heading_rad)
    np.testing.assert_allclose(points, np.column_stack([forward * ch - left * sh, forward * sh + left * ch]), atol=1e-9)


@pytest.mark.parametrize("heading", [math.pi / 2, 0.0, -2.3])
def test_orthorectified_view_is_the_map_turned_by_the_heading(heading: float) -> None:
    truth = replace(TRUTH, heading_rad=heading)
    camera = replace(DEFAULT_CAMERA, mount=TILTED.mount)
    image = photograph(WORLD, camera, truth, "summer", threads=1)
    gsd = 160 / 33
    attitude = (truth.roll_rad, truth.pitch_rad, 0.0)
    patch = orthorectify(image, camera, attitude, truth.height_agl_m, gsd, min_seen_share=0.4)
    ahead, left = np.meshgrid(*[(16 - np.arange(33)) * gsd] * 2, indexing="ij")
    ahead, left = ahead + patch.centre_forward_m, left + patch.centre_left_m
    east = truth.x_m + ahead * math.cos(heading) - left * math.sin(heading)
    north = truth.y_m + ahead * math.sin(heading) + left * math.cos(heading)
    # The map at a fifth of the patch's sample, averaged over five, read off at the patch's points.
    fine = gsd / 5
    west, top = truth.x_m - 300, truth.y_m + 300
    map_rgb = WORLD.render((west, top - 600, west + 600, top), fine, "summer", threads=1)
    map_gray = cv2.blur(cv2.cvtColor(map_rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255, (5, 5))
    at = ((east - west) / fine - 0.5).astype(np.float32), ((top - north) / fine - 0.5).astype(np.float32)
    expected = cv2.remap(map_gray, *at, cv2.INTER_LINEAR)
    gray = in_colours(patch.image, 1)[..., 0]
    seen = np.isfinite(gray)
    assert seen.sum() > 300
    assert np.corrcoef(gray[seen], expected[seen])[0, 1] > 0.985
    assert np.abs(gray[seen] - expected[seen]).mean() < 0.01


def test_above_the_horizon_it_is_black() -> None:
    ahead = replace(CAMERA, mount=Mount(pitch_deg=0.0))
    image = photograph(WORLD, ahead, replace(TRUTH, roll_rad=0.0, pitch_rad=0.0), "summer", threads=1)
    assert not image[: CAMERA.height // 2].any()
    assert image[-1].any()
    up = replace(CAMERA, mount=Mount(pitch_deg=90.0))
    assert not photograph(WORLD, up, TRUTH, "summer").any()


@pytest.mark.usefixtures("no_pictures")
def test_the_walk_is_that_of_the_protocol() -> None:
    frames = flight(updates=800, seed=3)
    place = np.array([(f.easting_m - ORIGIN_EASTING_M, f.northing_m - ORIGIN_NORTHING_M) for f in frames])
    assert place.min() >= 160
    assert (place <= np.array(AREA[2:]) - 160).all()
    step = np.diff(place, axis=0)
    np.testing.assert_allclose(np.hypot(*step.T), 100.0)
    heading = np.array([f.heading_rad for f in frames])
    np.testing.assert_allclose(np.exp(1j * heading[1:]), (step @ (1, 1j)) / 100, atol=1e-9)
    turn = np.angle(np.exp(1j * np.diff(heading)))
    free = np.abs(turn) < math.radians(50)  # a larger turn is the border's
    assert free.mean() > 0.9
    assert np.degrees(turn[free].std()) == pytest.approx(15, rel=0.12)
    assert np.diff([f.time_s for f in frames]) == pytest.approx(5.0)


@pytest.mark.usefixtures("no_pictures")
def test_odometry_is_as_noisy_as_it_says() -> None:
    frames = flight(updates=800, seed=4)
    ahead = np.exp(1j * np.array([f.heading_rad for f in frames]))
    place = np.array([f.easting_m + 1j * f.northing_m for f in frames])
    body = np.diff(place) / ahead[:-1]
    steps = [f.step for f in frames[1:]]
    off = np.array([s.forward_m + 1j * s.left_m for s in steps]) - body
    turn_off = np.angle(np.exp(1j * np.array([s.turn_rad for s in steps])) / (ahead[1:] / ahead[:-1]))
    assert frames[0].step is None
    for axis in (off.real, off.imag):
        assert axis.std() == pytest.approx(steps[0].sigma_m, rel=0.1)
        assert abs(axis.mean()) < 0.2
    assert turn_off.std() == pytest.approx(steps[0].sigma_turn_rad, rel=0.1)


@pytest.mark.usefixtures("no_pictures")
def test_odometry_without_noise_adds_up_to_the_track() -> None:
    frames = flight(updates=40, motion=Motion(odometry_share=0.0, odometry_turn_rad=0.0))
    first = frames[0]
    for frame in frames:
        away = complex(frame.odometry.x_m, frame.odometry.y_m) * np.exp(1j * first.heading_rad)
        assert frame.easting_m == pytest.approx(first.easting_m + away.real, abs=1e-6)
        assert frame.northing_m == pytest.approx(first.northing_m + away.imag, abs=1e-6)


@pytest.mark.usefixtures("no_pictures")
def test_yaw_is_from_true_north() -> None:
    """Against the geodesic from a point to one 10 m ahead: grid north is off by 2.6 degrees here."""
    pyproj = pytest.importorskip("pyproj")
    to_geo = pyproj.Transformer.from_crs(CRS, "EPSG:4326", always_xy=True)
    for frame in flight(updates=8, sensors=EXACT):
        ahead = 10 * np.array([math.cos(frame.heading_rad), math.sin(frame.heading_rad)])
        here = to_geo.transform(frame.easting_m, frame.northing_m)
        there = to_geo.transform(frame.easting_m + ahead[0], frame.northing_m + ahead[1])
        azimuth, _, _ = pyproj.Geod(ellps="WGS84").inv(*here, *there)
        yaw = math.degrees(frame.attitude_rad[2])
        assert (yaw - azimuth + 180) % 360 - 180 == pytest.approx(0, abs=0.01)
        grid_yaw = 90 - math.degrees(frame.heading_rad)
        assert (yaw - grid_yaw + 180) % 360 - 180 == pytest.approx(2.6, abs=0.1)


def test_same_seed_same_flight_and_exposure_is_drawn() -> None:
    one, two, other = flight(updates=2), flight(updates=2), flight(updates=2, seed=2)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.image, b.image)
        assert a.step == b.step
    assert one[0].easting_m != other[0].easting_m


def test_written_flight_reads_back(tmp_path: Path) -> None:
    pyproj = pytest.importorskip("pyproj")
    frames = flight(updates=3)
    csv = write_flight(frames, CAMERA, tmp_path / "flight")
    assert load_camera(csv.parent / "camera.yaml") == CAMERA
    rows = read_frames(csv)
    assert len(rows) == 3
    for step, frame in zip(odometry_steps(rows), frames[1:], strict=True):
        assert (step.forward_m, step.left_m) == pytest.approx((frame.step.forward_m, frame.step.left_m))
        assert step.turn_rad == pytest.approx(frame.step.turn_rad)
    to_grid = pyproj.Transformer.from_crs("EPSG:4326", CRS, always_xy=True)
    for row, frame in zip(rows, frames, strict=True):
        assert to_grid.transform(*row.truth[::-1]) == pytest.approx((frame.easting_m, frame.northing_m), abs=1e-3)
        assert row.attitude_rad == pytest.approx(frame.attitude_rad)
        assert row.height_agl_m == frame.height_agl_m
        assert np.abs(read_image(row.file).astype(float) - frame.image).mean() < 8  # JPEG of a noisy image


def test_bounds_and_start_are_checked() -> None:
    with pytest.raises(ValueError, match="leave no step"):
        flight(bounds=(0.0, 0.0, 350.0, 3000.0))
    with pytest.raises(ValueError, match="inside the bounds"):
        flight(start=(10.0, 10.0))
