"""Farmland of the procedural world: districts of one field direction, split into parcels by property lines.

A district is a cell of a jittered Voronoi pattern. Within it, row lines of uneven spacing make strips, column
lines of each strip's own spacing make parcels, and some parcels are split again, along one or both axes.
Nothing here depends on the date: what grows on a parcel is the painter's matter (``world_paint.py``).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.localization.world_noise import F32, Key, Window, draw, fbm, uniform

Index = NDArray[np.intp]

DISTRICT_M = 2000.0
_WARP_M = 90.0  # how far noise bends the borders of districts
ROWS, COLUMNS = 32, 44  # lines for 2.6 km around the district's seed, at the narrowest spacing
PARCELS = ROWS * COLUMNS * 4
_ROW_LINES, _COLUMN_LINES = ROWS + 1, ROWS * (COLUMNS + 1)
_SPLITS = _ROW_LINES + _COLUMN_LINES
LINES = _SPLITS + ROWS * COLUMNS * 3
_NO_SPLIT = 1e9


@dataclass(frozen=True, eq=False)
class District:
    """One district: its seed, the direction of its fields, and its property lines, in metres from the seed.

    Attributes:
        key: what its parcels' hashes start with.
        east_m, north_m: the seed.
        cos, sin: direction of the rows against east.
        row_pitch_m, column_pitch_m (ROWS,): mean spacings; column_phase (ROWS,): offset in spacings.
        row_lines (ROWS + 1,), column_lines (ROWS, COLUMNS + 1): where the lines lie.
        split_u (ROWS, COLUMNS), split_v (ROWS, COLUMNS, 2): further splits of a parcel, far away where none.
        track_m, hedge_m, margin_m (LINES,): half widths of what follows a line, 0 where there is none.
        pasture: share of grassland; potholes: how wet its hollows are, standard deviations.
    """

    key: Key
    east_m: float
    north_m: float
    cos: float
    sin: float
    row_pitch_m: float
    column_pitch_m: F32
    column_phase: F32
    row_lines: F32
    column_lines: F32
    split_u: F32
    split_v: F32
    track_m: F32
    hedge_m: F32
    margin_m: F32
    pasture: float
    potholes: float


@dataclass(frozen=True)
class Parcels:
    """Where each pixel lies; every array is (H, W).

    Attributes:
        districts: those of the window; their tables are stacked in this order.
        slot: which of them; parcel: index into their stacked parcels (``slot * PARCELS + ...``).
        u_m, v_m: along and across the rows, metres from the district's seed.
        across_m: (2, H, W) distance to the nearest line in u and in v; line: (2, H, W) index into the stacked
            lines (``slot * LINES + ...``).
        border_m: distance to the district's border; border_chance: [0, 1), one number for each border.
    """

    districts: tuple[District, ...]
    slot: Index
    parcel: Index
    u_m: F32
    v_m: F32
    across_m: F32
    line: Index
    border_m: F32
    border_chance: F32


def parcels(window: Window, seed: int) -> Parcels:
    """The parcels under a window."""
    cells, slot, other, border_m = _voronoi(window, seed)
    present = np.unique(slot)
    districts = tuple(district(seed, *cells[cell]) for cell in present)
    pair = np.array(cells, np.int64)
    mine, theirs = pair[slot], pair[other]
    border_chance = uniform(seed, 11, *(mine + theirs).transpose(2, 0, 1), *np.abs(mine - theirs).transpose(2, 0, 1))
    slot = np.searchsorted(present, slot)
    u, v = _field_coordinates(window, districts, slot)
    parcel, across_m, line = _locate(districts, slot, u, v)
    return Parcels(districts, slot, parcel, u, v, across_m, line, border_m, border_chance)


def _voronoi(window: Window, seed: int) -> tuple[list[tuple[int, int]], Index, Index, F32]:
    """Cells near the window; for each pixel the nearest, the second nearest, and metres to their border."""
    cells, seeds = _seeds_near(window, seed)
    bend = [fbm(window, (700.0, 300.0), (seed, 12, axis)) * np.float32(_WARP_M / 2) for axis in (0, 1)]
    first: F32 = np.full(window.shape, np.inf, np.float32)
    second: F32 = first.copy()
    nearest: Index = np.zeros(window.shape, np.intp)
    runner_up: Index = nearest.copy()
    for number, (east, north) in enumerate(seeds):
        dx, dy = window.offsets(east, north)
        dx, dy = dx + bend[0], dy + bend[1]
        square = dx * dx + dy * dy
        closer = square < first
        closer_than_second = ~closer & (square < second)
        runner_up = np.where(closer, nearest, np.where(closer_than_second, number, runner_up))
        second = np.where(closer, first, np.minimum(second, square))
        nearest = np.where(closer, number, nearest)
        first = np.where(closer, square, first)
    apart = np.hypot(*(seeds[nearest] - seeds[runner_up]).transpose(2, 0, 1)).astype(np.float32)
    return cells, nearest, runner_up, (second - first) / (2 * apart)


def _seeds_near(window: Window, seed: int) -> tuple[list[tuple[int, int]], NDArray[np.float64]]:
    """Cells whose seed may be the nearest or the second nearest of some pixel, and those seeds (n, 2)."""
    west, east = window.x[0] - _WARP_M * 2, window.x[-1] + _WARP_M * 2
    south, north = window.y[-1] - _WARP_M * 2, window.y[0] + _WARP_M * 2
    columns = range(math.floor(west / DISTRICT_M) - 2, math.floor(east / DISTRICT_M) + 3)
    rows = range(math.floor(south / DISTRICT_M) - 2, math.floor(north / DISTRICT_M) + 3)
    cells = [(column, row) for row in rows for column in columns]
    seeds = np.array([_seed_of(seed, column, row) for column, row in cells])
    gap_x = np.maximum(np.maximum(west - seeds[:, 0], seeds[:, 0] - east), 0)
    gap_y = np.maximum(np.maximum(south - seeds[:, 1], seeds[:, 1] - north), 0)
    far_x = np.maximum(np.abs(seeds[:, 0] - west), np.abs(seeds[:, 0] - east))
    far_y = np.maximum(np.abs(seeds[:, 1] - south), np.abs(seeds[:, 1] - north))
    keep = np.hypot(gap_x, gap_y) <= np.sort(np.hypot(far_x, far_y))[1]
    return [cell for cell, kept in zip(cells, keep, strict=True) if kept], seeds[keep]


@functools.lru_cache(maxsize=4096)
def _seed_of(seed: int, column: int, row: int) -> tuple[float, float]:
    """Seed of a cell, in its inner 70 %."""
    return (
        (column + 0.15 + 0.7 * draw(seed, 13, column, row)) * DISTRICT_M,
        (row + 0.15 + 0.7 * draw(seed, 14, column, row)) * DISTRICT_M,
    )


@functools.lru_cache(maxsize=128)
def district(seed: int, column: int, row: int) -> District:
    """The district of a cell."""
    key = (seed, 20, column, row)
    k, j = np.arange(ROWS + 1)[:, None], np.arange(COLUMNS + 1)[None, :]
    strip, along = k[:-1], j[:, :-1]
    row_pitch = 200.0 + 500.0 * draw(*key, 0)
    row_lines = (k[:, 0] - ROWS / 2 + 0.5 * (uniform(*key, 1, k[:, 0]) - 0.5)) * row_pitch
    column_pitch = 160 + 700 * uniform(*key, 2, strip)
    phase = uniform(*key, 3, strip)
    column_lines = (j - COLUMNS / 2 + phase + 0.5 * (uniform(*key, 4, strip, j) - 0.5)) * column_pitch

    where = 0.25 + 0.5 * uniform(*key, 5, strip, along)
    width = np.diff(column_lines, axis=1)
    has_u = (uniform(*key, 6, strip, along) < 0.4) & (width > 200)
    split_u = np.where(has_u, column_lines[:, :-1] + where * width, _NO_SPLIT)
    half = np.arange(2)[None, None, :]
    where = 0.25 + 0.5 * uniform(*key, 7, strip[..., None], along[..., None], half)
    has_v = uniform(*key, 8, strip[..., None], along[..., None], half) < 0.3
    split_v = np.where(has_v, row_lines[:-1, None, None] + where * np.diff(row_lines)[:, None, None], _NO_SPLIT)

    angle = draw(*key, 9) * math.pi / 2
    track, hedge, margin = _line_features(key)
    return District(
        key, *_seed_of(seed, column, row), math.cos(angle), math.sin(angle),
        row_pitch, column_pitch[:, 0], phase[:, 0],
        row_lines.astype(np.float32), column_lines.astype(np.float32),
        split_u.astype(np.float32), split_v.astype(np.float32), track, hedge, margin,
        pasture=0.08 + 0.4 * draw(*key, 10) ** 2, potholes=2.9 - 1.3 * draw(*key, 11),
    )  # fmt: skip


def _line_features(key: Key) -> tuple[F32, F32, F32]:
    """Half widths (LINES,) of track, hedge and grass margin: through lines have more of them than splits."""
    number = np.arange(LINES)
    through = np.where(number < _ROW_LINES, 1.0, np.where(number < _SPLITS, 0.6, 0.15)).astype(np.float32)
    has_track = uniform(*key, 12, number) < 0.45 * through
    has_hedge = uniform(*key, 13, number) < (0.05 + 0.6 * draw(*key, 14) ** 2) * through
    track = np.where(has_track, 1.3 + 1.5 * uniform(*key, 15, number), 0)
    hedge = np.where(has_hedge, 2 + 4.5 * uniform(*key, 16, number), 0)
    margin = np.maximum(track, hedge) + 0.5 + 2.5 * uniform(*key, 17, number) ** 2
    return track.astype(np.float32), hedge.astype(np.float32), margin.astype(np.float32)


def _field_coordinates(window: Window, districts: tuple[District, ...], slot: Index) -> tuple[F32, F32]:
    """Metres along and across the rows, from the seed of each pixel's district."""
    east, north, cos, sin = np.array([(d.east_m, d.north_m, d.cos, d.sin) for d in districts]).T
    dx = (window.x[None, :] - east[slot]).astype(np.float32)
    dy = (window.y[:, None] - north[slot]).astype(np.float32)
    cos, sin = cos.astype(np.float32)[slot], sin.astype(np.float32)[slot]
    return dx * cos + dy * sin, dy * cos - dx * sin


def _locate(districts: tuple[District, ...], slot: Index, u: F32, v: F32) -> tuple[Index, F32, Index]:
    """Parcel, distance to the nearest line in u and v, and which line that is."""
    row_lines = np.concatenate([d.row_lines for d in districts])
    row_pitch = np.array([d.row_pitch_m for d in districts], np.float32)
    guess = np.floor(v / row_pitch[slot]).astype(np.intp) + ROWS // 2
    row = _settle(v, row_lines, slot * (ROWS + 1), guess, ROWS)
    strip = slot * ROWS + row
    v_line, to_v = _nearest_line(v, row_lines, slot * (ROWS + 1) + row)

    column_lines = np.concatenate([d.column_lines.ravel() for d in districts])
    pitch = np.concatenate([d.column_pitch_m for d in districts])
    phase = np.concatenate([d.column_phase for d in districts])
    guess = np.floor(u / pitch[strip] - phase[strip]).astype(np.intp) + COLUMNS // 2
    column = _settle(u, column_lines, strip * (COLUMNS + 1), guess, COLUMNS)
    u_line, to_u = _nearest_line(u, column_lines, strip * (COLUMNS + 1) + column)

    block = strip * COLUMNS + column
    past_u = u - np.concatenate([d.split_u.ravel() for d in districts])[block]
    half = block * 2 + (past_u >= 0)
    past_v = v - np.concatenate([d.split_v.ravel() for d in districts])[half]
    parcel = half * 2 + (past_v >= 0)

    first = slot * LINES
    in_district = block - slot * (ROWS * COLUMNS)
    u_split, v_split = np.abs(past_u) < to_u, np.abs(past_v) < to_v
    line_u = np.where(u_split, _SPLITS + in_district, _ROW_LINES + u_line - slot * _COLUMN_LINES)
    line_v = np.where(
        v_split, _SPLITS + ROWS * COLUMNS + half - slot * (ROWS * COLUMNS * 2), v_line - slot * (ROWS + 1)
    )
    across = np.stack([np.where(u_split, np.abs(past_u), to_u), np.where(v_split, np.abs(past_v), to_v)])
    return parcel, across, np.stack([line_u, line_v]) + first


def _settle(position: F32, lines: F32, offset: Index, guess: Index, count: int) -> Index:
    """Interval that holds a position; their jitter is less than half a spacing: one step settles it."""
    guess = np.clip(guess, 1, count - 2)
    at = offset + guess
    return np.asarray(guess + (position >= lines[at + 1]) - (position < lines[at]))


def _nearest_line(position: F32, lines: F32, lower: Index) -> tuple[Index, F32]:
    """The nearer of the two lines around a position, and the distance to it."""
    below, above = position - lines[lower], lines[lower + 1] - position
    return lower + (above < below), np.minimum(below, above)
