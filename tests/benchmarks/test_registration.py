"""Registration finds a known shift between two rasters of unlike photometry and unlike grids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from places import Place, Raster, data_dir, load_baviaans, load_north_dakota
from registration import register, tile_shifts, translation
from rows.seasons import kept_translation


def ground(seed: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.GaussianBlur(rng.random((330, 330)).astype(np.float32), (0, 0), 3.0) * 6 - 2.5


def test_finds_a_subpixel_shift_and_ignores_brightness() -> None:
    texture = ground()
    shift = np.array([[1.0, 0.0, 0.6], [0.0, 1.0, -0.4]])  # content moves 0.6 px east and 0.4 px north
    moved = cv2.warpAffine(texture, shift, texture.shape[::-1], flags=cv2.INTER_CUBIC)
    found = register(Raster(texture, 0.0, 1650.0, 5.0), Raster(0.8 * moved**1.0 + 0.1, 0.0, 1650.0, 5.0))
    assert (found.east_m, found.north_m) == pytest.approx((3.0, 2.0), abs=0.3)


def test_another_origin_is_not_a_shift() -> None:
    texture = ground()
    cut = Raster(texture[3:, 4:], 20.0, 1635.0, 5.0)
    assert register(Raster(texture, 0.0, 1650.0, 5.0), cut).residual_m < 0.1


def test_unlike_grounds_give_none() -> None:
    blank = Raster(np.zeros((330, 330), np.float32), 0.0, 1650.0, 5.0)
    found = register(Raster(ground(), 0.0, 1650.0, 5.0), blank)
    assert found.tiles < 4 and np.isnan(found.residual_m)


def test_two_crops_share_a_translation() -> None:
    texture = ground()
    moved = cv2.warpAffine(texture, np.array([[1.0, 0.0, 0.6], [0.0, 1.0, -0.4]]), texture.shape[::-1])
    one, two = Raster(texture, 0.0, 1650.0, 5.0), Raster(moved, 0.0, 1650.0, 5.0)
    halves = [(0.0, 825.0, 1650.0, 1650.0), (0.0, 0.0, 1650.0, 825.0)]
    found = translation(np.concatenate([tile_shifts(one.cropped(half), two.cropped(half)) for half in halves]))
    assert (found.east_m, found.north_m) == pytest.approx((3.0, 2.0), abs=0.4)
    assert translation(np.empty((0, 2))).tiles == 0


def test_the_kept_translation_is_of_the_ends_alone() -> None:
    """The ends lie 3 m east; the middle, which is flown over, 6 m west: that is not looked at."""
    texture = np.vstack([ground(seed) for seed in (1, 2, 3, 4, 5)])
    moved = cv2.warpAffine(texture, np.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.0]]), texture.shape[::-1])
    moved[400:1250] = cv2.warpAffine(texture, np.array([[1.0, 0, -1.2], [0, 1.0, 0]]), texture.shape[::-1])[400:1250]
    height = 5.0 * len(texture)
    rasters = {name: Raster(grey, 0.0, height, 5.0) for name, grey in (("map", texture), ("seen", moved))}
    flown = (0.0, height - 6250.0, 1650.0, height - 2000.0)
    found = kept_translation(Place("made", rasters, (("map", "seen"),), flown=flown))
    assert (found.east_m, found.north_m) == pytest.approx((3.0, 0.0), abs=0.4)


@pytest.mark.data
def test_baviaans_lies_where_its_description_says() -> None:
    """2.4 m west, and 4.9 m along the rows, which count southwards, by whoever prepared the data."""
    try:
        place = load_baviaans(data_dir())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = kept_translation(place)
    assert (found.east_m, found.north_m) == pytest.approx((-2.4, -4.9), abs=2.5)
    assert found.tiles >= 12
    west, south, east, north = place.area
    assert (east - west) * (north - south) > 40e6


@pytest.mark.data
def test_north_dakota_lies_within_what_its_description_says() -> None:
    try:
        rasters = list(load_north_dakota(data_dir()).rasters.values())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    residuals = [register(rasters[0], other).residual_m for other in rasters[1:]]
    assert np.median(residuals) < 2.0 and max(residuals) < 2.5
