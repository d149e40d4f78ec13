"""The belief as `nav_msgs/OccupancyGrid` takes it: at most 256 cells a side, row 0 in the south, in frame ``map``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.localization.filter import PointMassFilter
from kittiwake_runtime.localization.pictures import Canvas, belief_map

from .geometry import MapFrame

MAX_SIDE = 256


@dataclass(frozen=True)
class BeliefGrid:
    """The window that the belief lives in.

    Attributes:
        levels: ``(rows, cols) int8``, row 0 in the south: 0 to 100 over five decades below the largest cell.
        cell_m: width of a cell.
        x_m, y_m, yaw_rad: pose of the grid's south-western corner in the frame ``map``; the yaw is the convergence.
    """

    levels: npt.NDArray[np.int8]
    cell_m: float
    x_m: float
    y_m: float
    yaw_rad: float


def belief_grid(filter_: PointMassFilter, frame: MapFrame) -> BeliefGrid:
    """The belief over position, in cells as wide as it takes to stay within 256 a side."""
    belief = filter_.belief
    _, rows, cols = belief.mass.shape
    factor = math.ceil(max(rows, cols) / MAX_SIDE)
    cell_m = belief.cell_m * factor
    height, width = math.ceil(rows / factor), math.ceil(cols / factor)
    west, north = belief.east_m - belief.cell_m / 2, belief.north_m + belief.cell_m / 2
    share = belief_map(filter_, Canvas(np.zeros((height, width, 3), np.uint8), west, north, cell_m))
    most = max(float(share.max()), 1e-30)
    level = 1 + np.log10(np.maximum(share / most, 1e-5)) / 5
    south = north - height * cell_m
    x, y = frame.from_grid(west, south)
    turn = frame.turn_at(west, south)
    yaw = math.atan2(turn[1, 0], turn[0, 0])
    return BeliefGrid(np.rint(100 * level[::-1]).astype(np.int8), cell_m, x, y, yaw)
