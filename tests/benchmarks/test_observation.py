"""Tilt, scale and height against closed forms: a plane of grey tells by its slope at what scale it was seen."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import observation
import pytest
from flights import FlightPlan, View, cut_patch, plan_flight
from observation import CAMERA, HeightUnknown, Rough, photograph
from places import Raster

from kittiwake_runtime.localization.descriptor import in_colours
from kittiwake_runtime.localization.filter import SCALES_UNKNOWN

POSE = np.array([2200.0, 2100.0, 0.7])
SLOPE = np.array([2e-4, 1e-4])  # grey a metre, east and north
FOOTPRINT_M, HEIGHT_M = 160.0, 120.0


@pytest.fixture(scope="module")
def ramp() -> Raster:
    """4 x 4 km at 5 m whose grey is a plane."""
    axis = 5.0 * (np.arange(800) + 0.5)
    east, north = np.meshgrid(axis, axis[::-1])
    return Raster(grey_at(east, north).astype(np.float32), 0.0, 4000.0, 5.0)


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "photographed", lambda view, *_: view)
    monkeypatch.setattr(observation, "ATTITUDE_SIGMA_RAD", 0.0)


def grey_at(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    return 0.05 + SLOPE[0] * east + SLOPE[1] * north


def plan(index: int) -> FlightPlan:
    area = (600.0, 600.0, 3400.0, 3400.0)
    return plan_flight((("a", "b"),), index=index, footprint_m=FOOTPRINT_M, area=area, seed=3)


def size_of(view: View, patch: np.ndarray, heading: float) -> float:
    """How many metres of ground a metre of the patch shows, from the slope along the plane's own gradient."""
    c, s = math.cos(heading), math.sin(heading)
    ahead, right = SLOPE @ (c, s), SLOPE @ (s, -c)
    rows, cols = np.nonzero(np.isfinite(patch))
    metres = FOOTPRINT_M / 33
    terms = np.stack([(16 - rows) * metres, (cols - 16) * metres, np.ones(len(rows))], axis=1)
    found = np.linalg.lstsq(terms, patch[rows, cols], rcond=None)[0][:2]
    assert np.cross([*found, 0], [ahead, right, 0])[2] == pytest.approx(0.0, abs=2e-9), "turned as well"
    return float(np.hypot(*found) / np.hypot(ahead, right))


def views(sensor: Rough | HeightUnknown, flight: FlightPlan, ramp: Raster) -> Iterator[tuple[np.ndarray, View]]:
    return zip(flight.poses, sensor.views(flight, ramp), strict=True)


@pytest.mark.parametrize("roll_deg, pitch_deg", [(0.0, 0.0), (0.0, 20.0), (-20.0, 0.0), (13.0, -9.0)])
def test_a_tilted_pictures_pixels_are_a_homography_of_the_ground(
    ramp: Raster, roll_deg: float, pitch_deg: float
) -> None:
    """Zisserman's K [r1 r2 t] with Euler angles written out, ground axes forward and right, the camera looking down."""
    r, p = math.radians(roll_deg), math.radians(pitch_deg)
    about_forward = np.array([[1, 0, 0], [0, math.cos(r), -math.sin(r)], [0, math.sin(r), math.cos(r)]])
    about_right = np.array([[math.cos(p), 0, math.sin(p)], [0, 1, 0], [-math.sin(p), 0, math.cos(p)]])
    level_to_body = (about_right @ about_forward).T
    body_to_optical = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])  # image right is right, image down is backward
    rotation = body_to_optical @ level_to_body
    intrinsics = np.array([[CAMERA.fx, 0, CAMERA.cx], [0, CAMERA.fy, CAMERA.cy], [0, 0, 1]])
    ground_to_pixel = intrinsics @ np.column_stack([rotation[:, 0], rotation[:, 1], rotation[:, 2] * HEIGHT_M])
    picture = photograph(ramp, POSE, np.array([r, p, 0.0]), HEIGHT_M)
    for u, v in ((0, 0), (60, 50), (119, 0), (20, 99), (100, 70)):
        forward, right, w = np.linalg.solve(ground_to_pixel, [u, v, 1.0])
        forward, right = forward / w, right / w
        east = POSE[0] + forward * math.cos(POSE[2]) + right * math.sin(POSE[2])
        north = POSE[1] + forward * math.sin(POSE[2]) - right * math.cos(POSE[2])
        assert picture[v, u] == pytest.approx(grey_at(east, north), abs=2e-4)


def test_nose_up_looks_ahead_and_right_wing_down_looks_left(ramp: Raster) -> None:
    """The centre of the picture is h tan(tilt) away from nadir."""
    reach = HEIGHT_M * math.tan(math.radians(20))
    ahead, left = np.array([math.cos(0.7), math.sin(0.7)]), np.array([-math.sin(0.7), math.cos(0.7)])
    for attitude, direction in (((0.0, math.radians(20)), ahead), ((math.radians(20), 0.0), left)):
        picture = photograph(ramp, POSE, np.array([*attitude, 0.0]), HEIGHT_M)
        middle = picture[49:51, 59:61].mean()
        assert middle == pytest.approx(grey_at(*(POSE[:2] + reach * direction)), abs=4e-4)


@pytest.mark.usefixtures("no_noise")
def test_without_errors_tilt_is_taken_out_and_the_lever_says_where_the_patch_is(
    ramp: Raster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observation, "MAX_SCALE_ERROR", 0.0)
    monkeypatch.setattr(observation, "HEIGHT_ERROR_M", 0.0)
    levers = []
    for pose, view in views(Rough(), plan(0), ramp):
        forward, left = view.lever
        c, s = math.cos(pose[2]), math.sin(pose[2])
        centre = (pose[0] + c * forward - s * left, pose[1] + s * forward + c * left, pose[2])
        seen = np.isfinite(view.patch)
        assert seen.sum() > 0.9 * 855
        np.testing.assert_allclose(view.patch[seen], cut_patch(ramp, centre, FOOTPRINT_M)[seen], atol=1.5e-3)
        levers.append(math.hypot(forward, left))
    assert max(levers) > 15, "tilted so far that the disc below is not all in view"


@pytest.mark.usefixtures("no_noise")
def test_scale_and_height_are_wrong_by_so_much_and_no_more(ramp: Raster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "MAX_TILT_RAD", 0.0)
    sizes = []
    for index in range(60):
        flight = plan(index)
        sizes.append(size_of(view := next(Rough().views(flight, ramp)), view.patch, flight.poses[0, 2]))
    low, high = 0.95 * 120 / 123, 1.05 * 120 / 117
    assert low - 1e-3 <= min(sizes) < low + 0.02 and high - 0.02 < max(sizes) <= high + 1e-3


@pytest.mark.usefixtures("no_noise")
def test_each_assumed_height_shows_the_ground_at_its_scale(ramp: Raster) -> None:
    shares = []
    for index in range(30):
        flight = plan(index)
        view = next(HeightUnknown().views(flight, ramp))
        heading = flight.poses[0, 2]
        share = size_of(view, view.patch, heading)
        assert len(view.rgb) == len(SCALES_UNKNOWN) == 9
        for scale, patch in zip(SCALES_UNKNOWN, view.rgb, strict=True):
            assert size_of(view, patch[..., 1], heading) * scale == pytest.approx(share, rel=5e-3)
        shares.append(share)
    assert 0.7 <= min(shares) < 0.78 and 1.22 < max(shares) <= 1.301


@pytest.mark.usefixtures("no_noise")
def test_the_ground_rises_and_falls_within_its_bounds(ramp: Raster) -> None:
    shares = [size_of(view, view.patch, pose[2]) for pose, view in views(HeightUnknown(), plan(1), ramp)]
    steps = np.diff(shares)
    assert min(shares) > 0.698 and max(shares) < 1.302
    assert 0.01 < np.std(steps) < 0.03


def test_a_samples_noise_is_the_protocols(ramp: Raster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch's sample averages `PIXELS_A_SAMPLE` squared pixels, less what bilinear reading smooths on top."""
    monkeypatch.setattr(observation, "RELIEF_SIGMA", 0.0)
    flight = plan(4)
    noisy = list(HeightUnknown().views(flight, Raster(ramp.grey * 0 + 0.5, 0.0, 4000.0, 5.0)))
    grey = np.mean([np.nanstd(view.patch) for view in noisy])
    assert 0.018 < grey < 0.036
    luma = [in_colours(view.rgb[4], 1) for view in noisy]  # the fifth of nine scales is the assumed height
    assert np.mean([np.nanstd(patch) for patch in luma]) == pytest.approx(grey, rel=0.05)
