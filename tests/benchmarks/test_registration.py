"""Registration finds a known shift between two rasters of unlike photometry and unlike grids."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from places import Raster, data_dir, load_north_dakota
from registration import register


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


@pytest.mark.data
def test_north_dakota_lies_within_what_its_description_says() -> None:
    try:
        rasters = list(load_north_dakota(data_dir()).rasters.values())
    except FileNotFoundError as error:
        pytest.skip(str(error))
    residuals = [register(rasters[0], other).residual_m for other in rasters[1:]]
    assert np.median(residuals) < 2.0 and max(residuals) < 2.5
