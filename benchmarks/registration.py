"""How well two dates of a place lie on each other: phase correlation over tiles.

The localizer can't be more exact than the rasters it is measured with, so this stands beside its error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from places import Raster

Array = NDArray[Any]

TILE_PX = 128
MIN_TILES = 4
SHARP_PEAK = 0.1


@dataclass(frozen=True)
class Registration:
    """Where the second date shows what the first one shows, metres; positive is east and north.

    Attributes:
        east_m, north_m: median shift of the tiles that gave one.
        tiles: how many did; the fields are NaN below `MIN_TILES`.
    """

    east_m: float
    north_m: float
    tiles: int

    @property
    def residual_m(self) -> float:
        """Length of the shift."""
        return float(np.hypot(self.east_m, self.north_m))


def register(first: Raster, second: Raster) -> Registration:
    """Constant translation between two dates, over the ground that both show.

    Both are sampled on the first one's grid by georeference and turned into unit gradients, which keep
    field borders where crops and seasons change; tiles with a blunt correlation peak are left out.
    """
    return translation(tile_shifts(first, second))


def translation(shifts_m: Array) -> Registration:
    """The median of `tile_shifts`, of one pair of rasters or of several that are to share a translation."""
    if len(shifts_m) < MIN_TILES:
        return Registration(float("nan"), float("nan"), len(shifts_m))
    east, north = np.median(shifts_m, axis=0)
    return Registration(float(east), float(north), len(shifts_m))


def tile_shifts(first: Raster, second: Raster) -> Array:
    """(N, 2) metres east and north by which each tile with a sharp peak of `second` lies off `first`."""
    grid_east, grid_north = _pixel_centres(first)
    one = _edges(first.grey)
    two = _edges(second.sample(grid_east, grid_north))
    window = cv2.createHanningWindow((TILE_PX, TILE_PX), cv2.CV_32F)
    shifts = []
    for row in range(0, one.shape[0] - TILE_PX + 1, TILE_PX // 2):
        for col in range(0, one.shape[1] - TILE_PX + 1, TILE_PX // 2):
            tile = np.s_[row : row + TILE_PX, col : col + TILE_PX]
            (east, south), peak = _phase_shift(one[tile], two[tile], window)
            if peak > SHARP_PEAK:
                shifts.append((east, -south))
    return np.array(shifts).reshape(-1, 2) * first.gsd_m


def _phase_shift(one: Array, two: Array, window: Array) -> tuple[tuple[float, float], float]:
    """Shift of `two` against `one` in pixels (right, down) with sub-pixel peak, and the peak's share of the energy.

    The complex gradients are correlated as they are: cv2.phaseCorrelate takes real images only.
    """
    spectrum = np.conj(np.fft.fft2(one * window)) * np.fft.fft2(two * window)
    surface = np.fft.fftshift(np.fft.ifft2(spectrum / np.maximum(np.abs(spectrum), 1e-9)).real)
    surface = cv2.GaussianBlur(surface, (0, 0), 1.0).clip(min=1e-9)
    row, col = np.unravel_index(np.argmax(surface[1:-1, 1:-1]), (TILE_PX - 2, TILE_PX - 2))
    near = surface[row : row + 3, col : col + 3]
    down = row + 1 - TILE_PX // 2 + _vertex(near[:, 1])
    right = col + 1 - TILE_PX // 2 + _vertex(near[1])
    return (right, down), float(near.sum())


def _vertex(three: Array) -> float:
    """Offset of the maximum of a Gaussian through three samples from the middle one, in samples."""
    before, middle, after = np.log(three)
    return float((before - after) / (2 * (before - 2 * middle + after) - 1e-12))


def _edges(grey: Array) -> Array:
    """(H, W) complex64 gradient of unit length or less, doubled in angle so that a border keeps its sign
    where crops swap their brightness; zero where there is no data."""
    smooth = cv2.GaussianBlur(grey, (0, 0), 1.0)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *order) for order in ((1, 0), (0, 1)))
    gradient = np.nan_to_num(across) + 1j * np.nan_to_num(down)
    return (gradient**2 / (np.abs(gradient) ** 2 + 1e-4)).astype(np.complex64)


def _pixel_centres(raster: Raster) -> tuple[Array, Array]:
    rows, cols = raster.grey.shape
    east = raster.west_m + (np.arange(cols) + 0.5) * raster.gsd_m
    north = raster.north_m - (np.arange(rows) + 0.5) * raster.gsd_m
    grid_east, grid_north = np.meshgrid(east, north)
    return grid_east, grid_north
