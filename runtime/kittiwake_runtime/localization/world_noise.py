"""Random fields that are pure functions of the ground coordinates, the clay of the procedural world.

Every value comes from a hash of integer lattice coordinates, so a window of the world needs nothing from its
neighbours, and the same ground seen through two windows gives the same numbers, bit for bit. Only elementwise
float32 arithmetic is used per pixel, for that reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Key = tuple[int, ...]

# Coordinates are snapped to this fraction of a metre: the rounding of a window's own origin must not show.
_SNAP_PER_M = 1024.0
# Standard deviation of a cubic B-spline over uniform [-1, 1) lattice values: sqrt(1/3) times .4794, the mean
# over the cell of the sum of squared weights, once for each axis.
_SPLINE_STD = 0.2768


@dataclass(frozen=True)
class Window:
    """Pixel centres of a north-up window: ``x`` (W,) eastwards, ``y`` (H,) from north to south, metres."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    gsd_m: float

    @classmethod
    def over(cls, west: float, north: float, columns: range, rows: range, gsd_m: float) -> Window:
        """The given columns and rows of the pixel grid whose upper left corner is (west, north)."""
        x = west + (np.arange(columns.start, columns.stop) + 0.5) * gsd_m
        y = north - (np.arange(rows.start, rows.stop) + 0.5) * gsd_m
        return cls(np.round(x * _SNAP_PER_M) / _SNAP_PER_M, np.round(y * _SNAP_PER_M) / _SNAP_PER_M, gsd_m)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self.y), len(self.x)

    def moved(self, east_m: float, north_m: float) -> Window:
        """The window of the same shape that lies so far away."""
        return Window(self.x + east_m, self.y + north_m, self.gsd_m)

    def offsets(self, east_m: float, north_m: float) -> tuple[F32, F32]:
        """Offsets of the pixel centres from a point: (1, W) eastwards and (H, 1) northwards, metres."""
        return (self.x - east_m).astype(np.float32)[None, :], (self.y - north_m).astype(np.float32)[:, None]


def hashed(*keys: int | NDArray[np.int64]) -> NDArray[np.uint32]:
    """A well mixed 32-bit number for each tuple of integers (the keys broadcast)."""
    state: NDArray[np.uint32] = np.asarray(0x2545F491, np.uint32)
    with np.errstate(over="ignore"):
        for key in keys:
            state = (state ^ np.asarray(key, np.int64).astype(np.uint32)) * np.uint32(0x9E3779B1)
            state ^= state >> np.uint32(15)
            state = state * np.uint32(0x85EBCA77)
            state ^= state >> np.uint32(13)
    return state


def uniform(*keys: int | NDArray[np.int64]) -> F32:
    """Uniform numbers in [0, 1), one for each tuple of integers (the keys broadcast)."""
    return np.asarray((hashed(*keys) >> np.uint32(8)) * np.float32(2.0**-24), np.float32)


def draw(*keys: int) -> float:
    """One uniform number in [0, 1) for one tuple of integers."""
    return float(uniform(*keys))


def spline_noise(window: Window, pitch_m: float, key: Key) -> F32:
    """(H, W) noise of mean 0 and standard deviation 1: cubic B-splines over a hashed lattice."""
    x_weights, x_first = _taps(window.x / pitch_m)
    y_weights, y_first = _taps(window.y / pitch_m)
    columns = np.arange(x_first.min(), x_first.max() + 4)
    rows = np.arange(y_first.min(), y_first.max() + 4)
    lattice = (uniform(*key, rows[:, None], columns[None, :]) * 2 - 1) * np.float32(1 / _SPLINE_STD)
    x_index, y_index = x_first - columns[0], y_first - rows[0]
    by_row = x_weights[0] * lattice[:, x_index]
    for tap in range(1, 4):
        by_row += x_weights[tap] * lattice[:, x_index + tap]
    value: F32 = y_weights[0][:, None] * by_row[y_index]
    term = np.empty_like(value)
    for tap in range(1, 4):
        np.take(by_row, y_index + tap, axis=0, out=term, mode="clip")
        term *= y_weights[tap][:, None]
        value += term
    return value


def _taps(position: NDArray[np.float64]) -> tuple[F32, NDArray[np.int64]]:
    """Cubic B-spline weights (4, n) and the first of the four lattice points (n,) for each position."""
    first = np.floor(position)
    t = (position - first).astype(np.float32)
    s = 1 - t
    weights: F32 = np.stack([s * s * s, (3 * t - 6) * t * t + 4, (3 * s - 6) * s * s + 4, t * t * t])
    return weights * np.float32(1 / 6), first.astype(np.int64) - 1


def fbm(window: Window, pitches_m: Sequence[float], key: Key, gain: float = 0.6) -> F32:
    """(H, W) sum of octaves, each ``gain`` times the one before; unit variance when all are resolved.

    An octave finer than the pixels fades out instead of aliasing.
    """
    amplitudes = [gain**octave for octave in range(len(pitches_m))]
    norm = float(np.sqrt(np.sum(np.square(amplitudes))))
    total = np.zeros(window.shape, np.float32)
    for octave, (pitch_m, amplitude) in enumerate(zip(pitches_m, amplitudes, strict=True)):
        visible = float(resolved(pitch_m, window.gsd_m))
        if visible > 0:
            total += spline_noise(window, pitch_m, (*key, octave)) * np.float32(amplitude * visible / norm)
    return total


def resolved(period_m: float | F32, gsd_m: float) -> F32:
    """How much of a pattern's contrast a pixel keeps: 0 below two pixels a period, 1 from four on."""
    periods = np.asarray(period_m, np.float32) * np.float32(0.5 / gsd_m)
    return np.asarray(np.clip(periods - 1, 0, 1))


def stripe(distance_m: F32, half_width_m: float | F32, gsd_m: float) -> F32:
    """Share of a pixel that a strip covers: a strip narrower than the pixel fades in proportion."""
    half = np.asarray(half_width_m, np.float32)
    covered = (half - np.abs(distance_m)) * np.float32(1 / gsd_m) + np.float32(0.5)
    return np.asarray(np.clip(covered, 0, np.minimum(half * np.float32(2 / gsd_m), 1)))


def slopes(field: F32) -> tuple[F32, F32]:
    """Change of a field for a pixel downwards and to the right, one-sided on the outermost ring."""
    down, right = np.gradient(field)
    return np.asarray(down, np.float32), np.asarray(right, np.float32)


def beyond(field: F32, level: float, gsd_m: float) -> tuple[F32, F32]:
    """Where a field exceeds a level: signed distance to its contour in metres (first order), and coverage.

    The outermost ring of pixels has a one-sided slope; callers give windows with a rim that they cut off.
    """
    down, right = slopes(field)
    slope = np.sqrt(down * down + right * right) + np.float32(1e-6)
    distance_px = (field - np.float32(level)) / slope
    return distance_px * np.float32(gsd_m), np.clip(distance_px + np.float32(0.5), 0, 1)


@dataclass(frozen=True)
class Dots:
    """Scattered points, one a cell: distance to the cell's point, and three numbers in [0, 1) of its own."""

    distance_m: F32
    chance: F32
    size: F32
    tint: F32


def dots(window: Window, pitch_m: float, margin_m: float, key: Key) -> Dots:
    """One point in each cell of a lattice, at least ``margin_m`` inside it; all of the fields are (H, W)."""
    x_cell, y_cell = np.floor(window.x / pitch_m), np.floor(window.y / pitch_m)
    columns = np.arange(int(x_cell.min()), int(x_cell.max()) + 1)
    rows = np.arange(int(y_cell.min()), int(y_cell.max()) + 1)
    pick = np.ix_(y_cell.astype(np.int64) - rows[0], x_cell.astype(np.int64) - columns[0])

    def per_cell(number: int) -> F32:
        return uniform(*key, number, rows[:, None], columns[None, :])[pick]

    room = np.float32(pitch_m - 2 * margin_m)
    x_in = (window.x - x_cell * pitch_m - margin_m).astype(np.float32)[None, :] - per_cell(0) * room
    y_in = (window.y - y_cell * pitch_m - margin_m).astype(np.float32)[:, None] - per_cell(1) * room
    return Dots(np.sqrt(x_in * x_in + y_in * y_in), per_cell(2), per_cell(3), per_cell(4))
