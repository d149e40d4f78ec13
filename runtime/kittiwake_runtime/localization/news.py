"""How much of a frame is news: what it shows of ground not seen before, and what its predecessors did not foretell.

Frames are no independent witnesses. Where two show the same ground they err together; and so they do where they look
alike, along a furrowed field or the edge of a wood. Errors of converged beliefs over North Dakota, in units of the
published covariance, grow as 1 / (1 - rho^2) with the similarity rho (docs/localization-training.md, "How sure it is").
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from .belief import Float32
from .descriptor import Descriptor, rotated_views
from .flight_log import OdometryStep

REMEMBERED = 4
"""Views that a new one is compared with."""


class News:
    """Tempers the frames of one flight.

    Args:
        descriptor: describes the views.
        footprint_m: diameter of a view's disc.
        least_move: share of the footprint to move before a view counts at all.
    """

    def __init__(self, descriptor: Descriptor, footprint_m: float, least_move: float) -> None:
        self._descriptor, self._footprint_m, self._least_move = descriptor, footprint_m, least_move
        self._since_view: complex | None = None
        self._heading = 0.0
        self._views: deque[Float32] = deque(maxlen=REMEMBERED)

    def move(self, step: OdometryStep) -> None:
        """Follow the odometry."""
        moved = complex(step.forward_m, step.left_m)
        if self._since_view is not None:
            self._since_view += moved * complex(math.cos(self._heading), math.sin(self._heading))
        self._heading += step.turn_rad

    def new_ground(self) -> float:
        """Share of the disc that the last view did not show; 0 below the least move."""
        if self._since_view is None:
            return 1.0
        x = abs(self._since_view) / self._footprint_m
        if x < self._least_move:
            return 0.0
        if x >= 1:
            return 1.0
        return float(1 - 2 / math.pi * (math.acos(x) - x * math.sqrt(1 - x * x)))

    def see(self, patch: Float32) -> float:
        """Remember a view; returns the share of it that the ones before did not foretell, 0..1.

        All views are turned to the heading in which the flight began, as odometry knows it. Of a unit vector the share
        cos^2 lies along another.

        Args:
            patch: ``(33, 33)`` or ``(33, 33, 3) float32``, up is forward, NaN unseen.
        """
        views = rotated_views(patch, np.array([self._heading]), self._descriptor.colours)
        vector = self._descriptor.describe(views)[0, :, 0, 0]
        likest = max((float(vector @ view) for view in self._views), default=0.0)
        self._views.append(vector)
        self._since_view = 0j
        return 1 - min(max(likest, 0.0), 1.0) ** 2
