"""The protocol's geometry and statistics against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import flights
import numpy as np
import pytest
from flights import COLOUR_NOISE, PIXEL_NOISE, cut_patch, disc_mask, fly, glance, photographed, plan_flight
from places import Raster, data_dir, load_north_dakota, year_pairs

from kittiwake_runtime.localization.descriptor import LUMA

AREA = (1000.0, 7000.0, 3400.0, 9000.0)
PAIRS = (("2009-01-01", "2015-01-01"), ("2015-01-01", "2009-01-01"))


@pytest.fixture
def ramp() -> Raster:
    """2.4 x 2 km at 5 m whose grey is a plane in easting and northing: see `ramp_grey`."""
    east, north = np.meshgrid(1000.0 + 5.0 * (np.arange(480) + 0.5), 9000.0 - 5.0 * (np.arange(400) + 0.5))
    return Raster(ramp_grey(east, north).astype(np.float32), 1000.0, 9000.0, 5.0)


def ramp_grey(east: np.ndarray, north: np.ndarray) -> np.ndarray:
    """The plane, 0.1 to 0.9 over the raster."""
    return 0.1 + 0.5 * (east - 1000.0) / 2400.0 + 0.3 * (9000.0 - north) / 2000.0


def plan(index: int, seed: int = 1) -> flights.FlightPlan:
    return plan_flight(PAIRS, index=index, footprint_m=160.0, area=AREA, seed=seed)


@pytest.mark.parametrize("heading_deg", [0.0, 37.0, 90.0, 200.0])
@pytest.mark.parametrize("footprint_m", [100.0, 160.0, 320.0])
def test_patch_shows_the_ground_ahead_at_its_top(ramp: Raster, heading_deg: float, footprint_m: float) -> None:
    heading = math.radians(heading_deg)
    pose = np.array([2222.0, 8111.0, heading])
    patch = cut_patch(ramp, pose, footprint_m)
    gsd_m = footprint_m / 33
    forward, right = np.array([math.cos(heading), math.sin(heading)]), np.array([math.sin(heading), -math.cos(heading)])
    for row, col in ((16, 16), (1, 16), (16, 31), (28, 5)):
        east, north = pose[:2] + (16 - row) * gsd_m * forward + (col - 16) * gsd_m * right
        assert patch[row, col] == pytest.approx(ramp_grey(east, north), abs=2e-4)  # remap: 1/32 px


def test_patch_is_a_disc_of_33_pixels(ramp: Raster) -> None:
    patch = cut_patch(ramp, np.array([2200.0, 8000.0, 0.3]), 160.0)
    assert patch.shape == (33, 33) and patch.dtype == np.float32
    rows, cols = np.mgrid[-16:17, -16:17]
    np.testing.assert_array_equal(np.isfinite(patch), rows**2 + cols**2 <= 16.5**2)


def test_coarse_pixels_average_their_ground() -> None:
    rng = np.random.default_rng(0)
    noise = Raster(rng.random((400, 400)).astype(np.float32), 0.0, 2000.0, 5.0)
    patch = cut_patch(noise, np.array([1000.0, 1000.0, 0.4]), 660.0)  # 20 m a pixel over 5 m: 16 values each
    assert np.nanstd(patch) < noise.grey.std() / 3


def test_ground_without_data_is_nan(ramp: Raster) -> None:
    patch = cut_patch(ramp, np.array([1000.0, 8000.0, math.pi / 2]), 160.0)  # on the western edge, looking north
    assert np.isnan(patch[:, :16]).all()
    assert np.isfinite(patch[16, 18:32]).all()


def test_pairs_are_ordered_and_five_years_apart() -> None:
    dates = ("2009-08-18", "2010-06-29", "2014-07-20", "2015-09-26")
    expected = {("2009", "2014"), ("2009", "2015"), ("2010", "2015")}
    years = {(a[:4], b[:4]) for a, b in year_pairs(dates)}
    assert years == expected | {(b, a) for a, b in expected}


def test_flights_stay_a_footprint_inside_and_step_100_m() -> None:
    for index in range(20):
        poses = plan(index).poses
        assert poses.shape == (50, 3)
        assert (poses[:, 0] >= 1160).all() and (poses[:, 0] <= 3240).all()
        assert (poses[:, 1] >= 7160).all() and (poses[:, 1] <= 8840).all()
        moved = np.diff(poses[:, :2], axis=0)
        np.testing.assert_allclose(np.hypot(*moved.T), 100.0)
        np.testing.assert_allclose(np.arctan2(moved[:, 1], moved[:, 0]), poses[:-1, 2], atol=1e-9)


def test_odometry_noise_is_what_the_filter_is_told() -> None:
    forward, left, turn = [], [], []
    for index in range(60):
        flight = plan(index)
        assert flight.steps[0] is None and len(flight.steps) == 50
        for before, after, step in zip(flight.poses[:-1], flight.poses[1:], flight.steps[1:], strict=True):
            assert step is not None
            assert step.sigma_m == pytest.approx(2.0) and step.sigma_turn_rad == math.radians(1.5)
            forward.append(step.forward_m - 100.0)
            left.append(step.left_m)
            turn.append(math.remainder(step.turn_rad - (after[2] - before[2]), 2 * math.pi))
    for errors, sigma in ((forward, 2.0), (left, 2.0), (turn, math.radians(1.5))):
        assert np.std(errors) == pytest.approx(sigma, rel=0.06)  # 2940 samples: 1.3 % at one sigma
        assert abs(np.mean(errors)) < 4 * sigma / math.sqrt(len(errors))


def test_headings_wander_by_15_degrees() -> None:
    wide = (0.0, 0.0, 1e6, 1e6)  # no border near
    turns = [np.diff(np.unwrap(plan_flight(PAIRS, index=i, footprint_m=160, area=wide, seed=2).poses[:, 2]))
             for i in range(40)]  # fmt: skip
    assert np.std(np.concatenate(turns)) == pytest.approx(math.radians(15), rel=0.06)


def test_same_seed_same_flight_and_pairs_take_turns(ramp: Raster) -> None:
    one, two = list(fly(plan(3), ramp)), list(fly(plan(3), ramp))
    np.testing.assert_array_equal(one[7].view.patch, two[7].view.patch)
    np.testing.assert_array_equal(plan(3).poses, plan(3).poses)
    assert not np.array_equal(plan(3).poses, plan(4).poses)
    assert not np.array_equal(plan(3, seed=1).poses, plan(3, seed=2).poses)
    assert [plan(i).map_date for i in range(4)] == ["2009-01-01", "2015-01-01"] * 2


def test_photometry_is_gain_and_gamma_of_the_flight_and_3_percent_noise(ramp: Raster) -> None:
    flight = plan(5)
    observation = next(fly(flight, ramp))
    assert 0.8 <= flight.gain <= 1.25 and 0.8 <= flight.gamma <= 1.25
    clean = flight.gain * cut_patch(ramp, flight.poses[0], 160.0) ** flight.gamma
    noise = (observation.view.patch - clean)[disc_mask()]
    assert noise.std() == pytest.approx(0.03, rel=0.15)


def test_glance_draws_a_camera_each_time(ramp: Raster) -> None:
    rng = np.random.default_rng(0)
    pose = np.array([2200.0, 8000.0, 0.0])
    means = [np.nanmean(glance(ramp, pose, 160.0, rng).patch) for _ in range(30)]
    assert max(means) / min(means) > 1.2


def test_a_colour_camera_sees_the_ground_that_a_grey_one_sees_with_noise_of_its_own(ramp: Raster) -> None:
    coloured = replace(ramp, rgb=np.stack([ramp.grey, 0.5 * ramp.grey, 1 - ramp.grey], axis=-1))
    pose = np.array([2200.0, 8000.0, 0.4])
    clean, patch = cut_patch(coloured, pose, 160.0, rgb=True), cut_patch(coloured, pose, 160.0)
    np.testing.assert_allclose(clean, np.stack([patch, 0.5 * patch, 1 - patch], axis=-1), atol=1e-5)
    alone, both = (glance(raster, pose, 160.0, np.random.default_rng(5)) for raster in (ramp, coloured))
    np.testing.assert_array_equal(alone.patch, both.patch, "colours change nothing of the grey view")
    middle = np.full_like(clean[disc_mask()], 0.5)
    noise = photographed(middle, 1.0, 1.0, np.random.default_rng(0), COLOUR_NOISE) @ np.array(LUMA) - 0.5
    assert noise.std() == pytest.approx(PIXEL_NOISE, rel=0.1)


def test_no_room_to_fly() -> None:
    with pytest.raises(ValueError, match="no room to fly"):
        plan_flight(PAIRS, index=0, footprint_m=160.0, area=(0.0, 0.0, 500.0, 3000.0), seed=1)


def test_missing_data_says_where_and_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="KITTIWAKE_DATA"):
        load_north_dakota(tmp_path)


@pytest.mark.data
def test_north_dakota_is_read_by_georeference() -> None:
    try:
        place = load_north_dakota(data_dir())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert len(place.rasters) == 7 and len(place.pairs) == 20
    assert place.common_area == pytest.approx((485902.0, 5205631.2, 490569.0, 5209245.0))
