"""Villages and farmsteads of the procedural world: where they stand, and rectangles drawn with soft edges."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kittiwake_runtime.localization.world_noise import F32, Window, draw, stripe

_VILLAGE_CELL_M = 3200.0
_FARM_CELL_M = 1000.0
_LOT_M = 36.0
_STREET_EVERY_LOTS = 3
_STREET_HALF_M = 2.6
_OUTSIDE_M = 240.0  # how far a farm's lane, or a shadow, reaches out of the yard

ROOFS = ((150.0, 96.0, 78.0), (122.0, 116.0, 112.0), (176.0, 172.0, 166.0), (98.0, 88.0, 84.0))


@dataclass(frozen=True)
class Block:
    """A rectangle on the ground: centre and half sizes in metres, direction of its length, height, roof."""

    east_m: float
    north_m: float
    half_length_m: float
    half_width_m: float
    cos: float
    sin: float
    height_m: float
    roof: int

    @property
    def reach_m(self) -> float:
        """Radius of the circle around it."""
        return math.hypot(self.half_length_m, self.half_width_m)


@dataclass(frozen=True)
class Settlement:
    """A village or a farmstead: a yard of some radius, streets (blocks without height), buildings."""

    east_m: float
    north_m: float
    radius_m: float
    streets: tuple[Block, ...]
    buildings: tuple[Block, ...]


def settlements(window: Window, seed: int) -> Iterator[Settlement]:
    """Those that may show in a window."""
    for cell_m, make in ((_VILLAGE_CELL_M, _village), (_FARM_CELL_M, _farm)):
        columns = range(math.floor(window.x[0] / cell_m) - 1, math.floor(window.x[-1] / cell_m) + 2)
        rows = range(math.floor(window.y[-1] / cell_m) - 1, math.floor(window.y[0] / cell_m) + 2)
        for row in rows:
            for column in columns:
                found = make(seed, column, row)
                if found is not None and _near(window, found.east_m, found.north_m, _OUTSIDE_M + found.radius_m):
                    yield found


@dataclass(frozen=True)
class Drawn:
    """Coverage of a block on ``part`` of a window, and metres across its long axis there."""

    part: tuple[slice, slice]
    cover: F32
    across_m: F32


def draw_block(window: Window, block: Block, east_m: float = 0.0, north_m: float = 0.0) -> Drawn | None:
    """Coverage of a block moved by (east_m, north_m), on the part of the window that it touches, if any."""
    east, north = block.east_m + east_m, block.north_m + north_m
    reach = block.reach_m + 2 * window.gsd_m
    columns = np.flatnonzero(np.abs(window.x - east) < reach)
    rows = np.flatnonzero(np.abs(window.y - north) < reach)
    if not len(columns) or not len(rows):
        return None
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    dx, dy = Window(window.x[part[1]], window.y[part[0]], window.gsd_m).offsets(east, north)
    along = dx * np.float32(block.cos) + dy * np.float32(block.sin)
    across = dy * np.float32(block.cos) - dx * np.float32(block.sin)
    cover = stripe(along, block.half_length_m, window.gsd_m) * stripe(across, block.half_width_m, window.gsd_m)
    return Drawn(part, cover, across)


def _near(window: Window, east_m: float, north_m: float, margin_m: float) -> bool:
    return bool(
        window.x[0] - margin_m < east_m < window.x[-1] + margin_m
        and window.y[-1] - margin_m < north_m < window.y[0] + margin_m
    )


@functools.lru_cache(maxsize=256)
def _village(seed: int, column: int, row: int) -> Settlement | None:
    key = (seed, 40, column, row)
    if draw(*key, 0) > 0.5:
        return None
    east, north = (column + draw(*key, 1)) * _VILLAGE_CELL_M, (row + draw(*key, 2)) * _VILLAGE_CELL_M
    radius, angle = 110 + 260 * draw(*key, 3) ** 2, math.pi * draw(*key, 4)
    cos, sin = math.cos(angle), math.sin(angle)
    lots = range(-math.ceil(radius / _LOT_M), math.ceil(radius / _LOT_M) + 1)
    houses = []
    for i in lots:
        for j in lots:
            along, across = (i + 0.5) * _LOT_M, (j + 0.5) * _LOT_M
            centrality = 1 - math.hypot(along, across) / radius
            if j % _STREET_EVERY_LOTS == 0 or draw(*key, 5, i, j) > 0.35 + 0.8 * centrality or centrality < 0:
                continue
            along += 10 * (draw(*key, 6, i, j) - 0.5)
            across += 10 * (draw(*key, 7, i, j) - 0.5)
            size = 5 + 7 * draw(*key, 8, i, j) ** 3, 3.5 + 2.5 * draw(*key, 9, i, j)
            turned = (-sin, cos) if draw(*key, 10, i, j) < 0.4 else (cos, sin)
            roof = int(4 * draw(*key, 11, i, j))
            x, y = east + along * cos - across * sin, north + along * sin + across * cos
            houses.append(Block(x, y, *size, *turned, 4 + 4 * draw(*key, 12, i, j), roof))
    streets = []
    for j in lots:
        if j % _STREET_EVERY_LOTS == 0 and abs(j + 0.5) * _LOT_M < radius:
            half = math.sqrt(radius**2 - ((j + 0.5) * _LOT_M) ** 2)
            x, y = east - (j + 0.5) * _LOT_M * sin, north + (j + 0.5) * _LOT_M * cos
            streets.append(Block(x, y, half, _STREET_HALF_M, cos, sin, 0.0, 0))
    streets.append(Block(east, north, radius * 1.2, _STREET_HALF_M, -sin, cos, 0.0, 0))
    return Settlement(east, north, radius, tuple(streets), tuple(houses))


@functools.lru_cache(maxsize=2048)
def _farm(seed: int, column: int, row: int) -> Settlement | None:
    key = (seed, 41, column, row)
    if draw(*key, 0) > 0.45:
        return None
    east, north = (column + draw(*key, 1)) * _FARM_CELL_M, (row + draw(*key, 2)) * _FARM_CELL_M
    angle = math.pi * draw(*key, 3)
    cos, sin = math.cos(angle), math.sin(angle)
    barns = []
    for n in range(2 + int(5 * draw(*key, 4))):
        x, y = (east + 80 * (draw(*key, 5, n) - 0.5), north + 80 * (draw(*key, 6, n) - 0.5))
        size = 6 + 18 * draw(*key, 7, n) ** 2, 4 + 6 * draw(*key, 8, n)
        turned = (-sin, cos) if draw(*key, 9, n) < 0.5 else (cos, sin)
        barns.append(Block(x, y, *size, *turned, 4 + 5 * draw(*key, 10, n), int(4 * draw(*key, 11, n))))
    lane = 40 + 70 * draw(*key, 12)
    street = Block(east + lane * cos, north + lane * sin, lane, 1.8, cos, sin, 0.0, 0)
    return Settlement(east, north, 45 + 25 * draw(*key, 13), (street,), tuple(barns))
