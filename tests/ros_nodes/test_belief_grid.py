"""The belief as a grid: never larger than 256 a side, its largest cell where the belief is."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kittiwake_ros.belief_grid import belief_grid
from kittiwake_ros.geometry import MapFrame
from kittiwake_runtime.localization.filter import PointMassFilter
from kittiwake_runtime.localization.frames import Enu, Grid

GRID = Grid.from_crs("EPSG:32633")
E0, N0 = 660_000.0, 6_660_000.0


@pytest.mark.parametrize(("rows", "cols"), [(40, 60), (700, 300), (256, 257)])
def test_the_largest_cell_is_where_the_belief_is(rows: int, cols: int) -> None:
    index: Any = SimpleNamespace(rows=rows, cols=cols, e0=E0, n0=N0, cell_m=10.0, grid=GRID)
    filter_ = PointMassFilter(SimpleNamespace(index=index))  # type: ignore[arg-type]
    row, col = rows // 3, cols // 4
    place = (E0 + 10.0 * col, N0 - 10.0 * row)
    filter_.set_prior(np.array(place), 15.0)
    lat, lon = GRID.to_wgs84(E0, N0)
    frame = MapFrame(Enu(float(lat), float(lon)), GRID)
    grid = belief_grid(filter_, frame)

    assert max(grid.levels.shape) <= 256
    assert grid.levels.min() >= 0
    assert grid.levels.max() == 100
    top, right = np.unravel_index(int(np.argmax(grid.levels)), grid.levels.shape)
    across, up = (right + 0.5) * grid.cell_m, (top + 0.5) * grid.cell_m
    c, s = math.cos(grid.yaw_rad), math.sin(grid.yaw_rad)
    found = (grid.x_m + c * across - s * up, grid.y_m + s * across + c * up)
    assert found == pytest.approx(frame.from_grid(*place), abs=1.2 * grid.cell_m)
    assert grid.levels.shape[0] * grid.cell_m == pytest.approx(10.0 * rows, abs=grid.cell_m)
