"""Orthorectification against OpenCV's projection, and on real frames with known poses."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera, Mount
from kittiwake_runtime.localization.descriptor import in_colours
from kittiwake_runtime.localization.footprint import disc_mask
from kittiwake_runtime.localization.frames import body_to_ned
from kittiwake_runtime.localization.orthorectify import (
    ground_points,
    max_footprint_m,
    orthorectify,
    usable_heights_m,
)

DATA = Path(os.environ.get("KITTIWAKE_DATA", Path(__file__).parents[4] / "shared" / "data"))
LENS = (-0.2641, 0.1019, 0.00073, 0.00026, -0.0258)
tilt = st.floats(-0.3, 0.3)


def correlation(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    both = np.isfinite(a) & np.isfinite(b)
    return float(np.corrcoef(a[both], b[both])[0, 1])


@given(
    roll=tilt,
    pitch=tilt,
    yaw=st.floats(-3.0, 3.0),
    height=st.floats(30.0, 2000.0),
    u=st.floats(0, 1367),
    v=st.floats(0, 911),
)
def test_ground_points_project_back_through_opencv(
    roll: float, pitch: float, yaw: float, height: float, u: float, v: float
) -> None:
    mount = Mount(2.0, -80.0, 5.0, 0.3, -0.1, 0.2)
    camera = Camera(1368, 912, 911.7, 909.2, 681.4, 459.8, LENS, mount)
    forward, left = ground_points([u, v], camera, (roll, pitch, yaw), height)
    # The heading frame turned by yaw is NED about nadir.
    north = forward * math.cos(yaw) + left * math.sin(yaw)
    east = forward * math.sin(yaw) - left * math.cos(yaw)
    turn = np.eye(3)
    for axis, angle in ((2, yaw), (1, pitch), (0, roll)):
        turn = turn @ cv2.Rodrigues(np.eye(3)[axis] * angle)[0]
    rotation = (turn @ mount.optical_to_body).T
    shift = -rotation @ (turn @ mount.position_m + [0.0, 0.0, -height])
    point = np.array([[north, east, 0.0]])
    pixel, _ = cv2.projectPoints(point, cv2.Rodrigues(rotation)[0], shift, camera.matrix, np.array(LENS))
    np.testing.assert_allclose(np.ravel(pixel), [u, v], atol=1e-4)


@pytest.mark.parametrize("yaw_deg", [0.0, 40.0, 250.0])
@pytest.mark.parametrize(
    ("roll_deg", "pitch_deg", "mount"),
    [
        (0.0, 0.0, Mount()),
        (8.0, -6.0, Mount(x_m=2.0, y_m=-1.0, z_m=0.5)),
        (0.0, 5.0, Mount(pitch_deg=-70.0, yaw_deg=10.0)),
        (-4.0, 0.0, Mount(yaw_deg=90.0)),
    ],
)
@pytest.mark.parametrize("gsd_m", [1.5, 3.5])  # odd numbers of texture samples
def test_a_patch_is_the_ground(
    ground: Any, yaw_deg: float, roll_deg: float, pitch_deg: float, mount: Mount, gsd_m: float
) -> None:
    camera = Camera.from_fov(1000, 800, 70.0, mount)
    at = np.array([30.0, -50.0, -200.0])
    roll, pitch, yaw = np.radians([roll_deg, pitch_deg, yaw_deg])
    image = ground.photograph(camera, at, (roll, pitch, yaw))
    patch = orthorectify(image, camera, (roll, pitch, yaw), 200.0, gsd_m)
    axis = (np.arange(33) - 16) * gsd_m
    forward = patch.centre_forward_m - axis[:, None] + np.zeros(33)
    left = patch.centre_left_m - axis[None, :] + np.zeros((33, 1))
    north = at[0] + forward * math.cos(yaw) + left * math.sin(yaw)
    east = at[1] + forward * math.sin(yaw) - left * math.cos(yaw)
    expected = np.where(disc_mask(33), ground.at(north, east, gsd_m), np.nan)
    assert patch.seen_share == 1.0
    assert patch.image.shape == (33, 33)
    assert patch.image.dtype == np.float32
    assert correlation(patch.image, expected) > 0.985
    assert np.nanmax(np.abs(patch.image - expected)) < 0.12
    assert np.isnan(patch.image[~disc_mask(33)]).all()
    if mount.pitch_deg == -90.0:
        assert (patch.centre_forward_m, patch.centre_left_m) == (0.0, 0.0)
    else:
        assert patch.centre_forward_m > 0.0


def test_depth_does_not_matter_and_each_colour_is_seen_as_grey_is(ground: Any) -> None:
    camera = Camera.from_fov(400, 300, 70.0)
    image = ground.photograph(camera, np.array([0.0, 0.0, -150.0]), (0.0, 0.0, 0.0))
    plain = orthorectify(image, camera, (0.0, 0.0, math.nan), 150.0, 3.0).image
    for other in (image.astype(np.uint16) * 257, image / 255.0):
        again = orthorectify(other, camera, (0.0, 0.0, 0.0), 150.0, 3.0).image
        np.testing.assert_allclose(again, plain, atol=3e-3)
    coloured = orthorectify(np.dstack([image, image // 2, 255 - image]), camera, (0.0, 0.0, 0.0), 150.0, 3.0).image
    assert coloured.shape == (33, 33, 3)
    np.testing.assert_allclose(coloured, np.dstack([plain, plain / 2, 1 - plain]), atol=5e-3)


def test_samples_are_means_and_not_picks() -> None:
    camera = Camera.from_fov(1200, 1200, 60.0)
    checker = (np.indices((1200, 1200)).sum(axis=0) % 2 * 255).astype(np.uint8)
    patch = orthorectify(checker, camera, (0.02, 0.03, 0.0), 200.0, 5.0)
    assert np.nanstd(patch.image) < 0.01
    assert np.nanmean(patch.image) == pytest.approx(0.5, abs=0.01)


def test_a_hill_is_put_where_it_is(ground: Any) -> None:
    """A raised plane is the same picture from lower down; a slope is checked against its intersection."""
    camera = Camera.from_fov(1000, 800, 70.0)
    image = ground.photograph(camera, np.array([0.0, 0.0, -160.0]), (0.0, 0.05, 0.0))

    def raised(forward: Any, left: Any) -> Any:
        return np.full(np.shape(forward), 40.0)

    with_dem = orthorectify(image, camera, (0.0, 0.05, 0.0), 200.0, 3.0, dem=raised)
    lower = orthorectify(image, camera, (0.0, 0.05, 0.0), 160.0, 3.0)
    np.testing.assert_allclose(with_dem.image, lower.image, atol=1e-5)

    points = ground_points([[100.0, 100.0]], camera, (0.0, 0.0, 0.0), 200.0, dem=lambda f, left: 0.3 * f)
    ray = camera.rays([100.0, 100.0])
    forward_per_metre = -ray[1]  # image down is backwards
    expected = 200.0 * forward_per_metre / (1.0 + 0.3 * forward_per_metre)
    assert points[0, 0] == pytest.approx(expected, abs=1e-6)


def test_part_of_the_disc(ground: Any) -> None:
    camera = Camera.from_fov(1000, 500, 70.0)
    image = ground.photograph(camera, np.array([0.0, 0.0, -100.0]), (0.0, 0.0, 0.0))
    patch = orthorectify(image, camera, (0.0, 0.0, 0.0), 100.0, 100.0 / 33)
    half = 50.0 * math.tan(math.radians(35.0)) / 50.0  # half the view's height over the disc's radius
    strip = 2.0 / math.pi * (half * math.sqrt(1.0 - half**2) + math.asin(half))
    assert patch.seen_share == pytest.approx(strip, abs=0.03)
    assert np.isnan(patch.image[0, 16])
    with pytest.raises(FrameError, match="% of the 400 m disc is in view") as error:
        orthorectify(image, camera, (0.0, 0.0, 0.0), 100.0, 400.0 / 33)
    assert "--footprint" in error.value.hint


@pytest.mark.parametrize(
    ("attitude", "height", "reason"),
    [
        ((math.nan, 0.0, 0.0), 100.0, "attitude is not finite"),
        ((0.0, math.inf, 0.0), 100.0, "attitude is not finite"),
        ((0.0, 0.0, 0.0), 0.0, "height above ground of 0.0 m"),
        ((0.0, 0.0, 0.0), -3.0, "height above ground of -3.0 m"),
        ((0.0, 0.0, 0.0), math.nan, "height above ground of nan m"),
        ((0.0, math.pi / 2 + 0.1, 0.0), 100.0, "above the horizon"),
        ((math.pi, 0.0, 0.0), 100.0, "above the horizon"),
    ],
)
def test_frames_that_can_not_be_used(attitude: tuple[float, float, float], height: float, reason: str) -> None:
    camera = Camera.from_fov(400, 300, 70.0)
    with pytest.raises(FrameError, match=reason):
        orthorectify(np.zeros((300, 400), np.uint8), camera, attitude, height, 3.0)


def test_images_that_can_not_be_used() -> None:
    camera = Camera.from_fov(400, 300, 70.0)
    for image, reason in ((np.zeros((300, 500), np.uint8), "500x300"), (np.zeros((300, 400), bool), "bool")):
        with pytest.raises(FrameError, match=reason):
            orthorectify(image, camera, (0.0, 0.0, 0.0), 100.0, 3.0)
    with pytest.raises(FrameError, match="ground sample"):
        orthorectify(np.zeros((300, 400), np.uint8), camera, (0.0, 0.0, 0.0), 100.0, 0.0)


def test_usable_heights_are_those_that_work() -> None:
    camera = Camera.from_fov(400, 300, 60.0)
    lowest, highest = usable_heights_m(camera, 160.0)
    assert max_footprint_m(camera, lowest) == pytest.approx(160.0)
    blank = np.zeros((300, 400), np.uint8)
    seen = orthorectify(blank, camera, (0.0, 0.0, 0.0), lowest, 160.0 / 33).seen_share
    assert seen == pytest.approx(0.9, abs=0.02)
    # At the highest, four footprints span the view.
    assert max_footprint_m(camera, highest) == pytest.approx(4 * 160.0)
    lever = Camera.from_fov(400, 300, 60.0, Mount(x_m=5.0))
    assert usable_heights_m(lever, 160.0) == pytest.approx((lowest, highest))
    # With few pixels, one of them covers a sample at the highest: height / focal length.
    coarse = Camera.from_fov(80, 60, 60.0)
    lowest, highest = usable_heights_m(coarse, 160.0)
    assert lowest < highest < 4 * lowest
    assert highest / coarse.fx == pytest.approx(160.0 / 33, rel=1e-3)


@pytest.mark.data
@pytest.mark.parametrize("name", ["3324c_2015_1004_05_0182_RGB", "3324c_2015_1004_06_0253_RGB"])
def test_real_frames_fall_on_their_orthophoto(name: str) -> None:
    """Aerial frames with surveyed poses and a DEM, against orthophotos that others made, at 20 m a sample."""
    rasterio = pytest.importorskip("rasterio")
    folder = DATA / "uav" / "baviaans"
    if not (folder / "raw_frames").is_dir():
        pytest.skip(f"no real frames under {folder} (KITTIWAKE_DATA)")
    with (folder / "raw_frames" / "ngi_xyz_opk.csv").open() as file:
        row = next(row for row in csv.DictReader(file) if row["filename"] == name)
    x, y, z = (float(row[key]) for key in "xyz")
    attitude = attitude_of(*np.radians([float(row[key]) for key in ("omega", "phi", "kappa")]))
    focal = 120.0 / 92.16 * 640  # millimetres of focal length over those of the sensor, in pixels
    camera = Camera(640, 1152, focal, focal, 319.5, 575.5)
    with rasterio.open(folder / "raw_frames" / f"{name}.tif") as file:
        image = np.moveaxis(file.read([1, 2, 3]), 0, -1)
    with rasterio.open(folder / "raw_frames" / "dem.tif") as file:
        heights, to_dem = file.read(1).astype(np.float32), ~file.transform

    def terrain(forward: Any, left: Any) -> Any:
        return sampled(heights, to_dem, (x, y), attitude[2], forward, left)

    below = float(terrain(0.0, 0.0))
    patch = orthorectify(
        image,
        camera,
        attitude,
        z - below,
        20.0,
        101,
        dem=lambda forward, left: terrain(forward, left) - below,
    )
    found = []
    for number in range(1, 5):
        with rasterio.open(folder / f"ngi_rgb_byte_{number}.tif") as file:
            ortho, to_ortho = np.moveaxis(file.read([1, 2, 3]), 0, -1), ~file.transform
        gray = cv2.cvtColor(np.ascontiguousarray(ortho), cv2.COLOR_RGB2GRAY).astype(np.float32)
        found.append(best_shift(patch, cv2.blur(gray, (5, 5)), to_ortho, (x, y), attitude[2]))
    score, off_m = max(found)
    assert score > 0.98
    assert off_m == 0.0  # to the 10 m of the search


def attitude_of(omega: float, phi: float, kappa: float) -> tuple[float, float, float]:
    """Roll, pitch and yaw of a body whose camera looks straight down, from photogrammetry's angles."""
    right_up_back_to_enu = np.eye(3)
    for axis, angle in enumerate((omega, phi, kappa)):
        right_up_back_to_enu = right_up_back_to_enu @ cv2.Rodrigues(np.eye(3)[axis] * angle)[0]
    enu_to_ned = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
    body = enu_to_ned @ right_up_back_to_enu[:, [1, 0, 2]] * [1.0, 1.0, -1.0]
    angles = (math.atan2(body[2, 1], body[2, 2]), -math.asin(body[2, 0]), math.atan2(body[1, 0], body[0, 0]))
    np.testing.assert_allclose(body_to_ned(*angles), body, atol=1e-9)
    return angles


def sampled(
    raster: Any, to_raster: Any, xy: tuple[float, float], yaw: float, forward: Any, left: Any
) -> np.ndarray[Any, Any]:
    """A raster at forward and left of a place; outside it NaN."""
    forward, left = np.broadcast_arrays(np.asarray(forward, float), np.asarray(left, float))
    east = xy[0] + forward * math.sin(yaw) - left * math.cos(yaw)
    north = xy[1] + forward * math.cos(yaw) + left * math.sin(yaw)
    t = to_raster
    column, line = t.a * east + t.b * north + t.c - 0.5, t.d * east + t.e * north + t.f - 0.5
    at = (np.atleast_2d(column).astype(np.float32), np.atleast_2d(line).astype(np.float32))
    values = cv2.remap(raster, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=math.nan)
    return np.asarray(values).reshape(forward.shape)


def best_shift(patch: Any, gray: Any, to_ortho: Any, xy: tuple[float, float], yaw: float) -> tuple[float, float]:
    """Best correlation with an orthophoto over shifts of 50 m, and the length of that shift."""
    axis = (np.arange(101) - 50) * 20.0
    forward, left = patch.centre_forward_m - axis[:, None], patch.centre_left_m - axis[None, :]
    found = [(-1.0, math.inf)]
    for east in range(-50, 51, 10):
        for north in range(-50, 51, 10):
            there = sampled(gray, to_ortho, (xy[0] + east, xy[1] + north), yaw, forward, left)
            there[~(there > 1.0)] = np.nan  # no data is black
            if np.isfinite(there[disc_mask(101)]).mean() > 0.7:
                found.append((correlation(in_colours(patch.image, 1)[..., 0], there), math.hypot(east, north)))
    return max(found)
