"""What flies: the face of a method that is compared, and the product behind it.

A method is picklable and knows the maps; `start` gives a pilot for one flight, which is fed observations in turn.
The baseline's is in baselines/pilot.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from flights import FlightPlan, Observation
from runs import day_of

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.map_index import MapIndex

STEP_S = 5.0


@dataclass(frozen=True)
class Said:
    """Where a method takes the vehicle to be, metres; `radius95_m` is NaN where it publishes none."""

    easting_m: float
    northing_m: float
    converged: bool
    radius95_m: float
    sigma_m: float


Pilot = Callable[[Observation], Said]
"""One flight of one method: an observation in, what it says out."""


class Method(Protocol):
    """What is compared."""

    def start(self, plan: FlightPlan) -> Pilot:
        """A pilot that knows nothing yet, over the plan's map."""


class Product:
    """The runtime's localizer, on one index for each date of the map.

    Args:
        indexes: the ``.kwmap`` of each date.
        bundle_root: folder of the bundle that made them.
    """

    def __init__(self, indexes: dict[str, Path], bundle_root: Path) -> None:
        self._indexes, self._bundle_root = indexes, bundle_root

    def start(self, plan: FlightPlan) -> Pilot:
        """A fresh localizer."""
        localizer = Localizer(_open_index(self._indexes[plan.map_date]), _open_model(self._bundle_root))
        return _Located(localizer, _unix_s(plan.query_date))


class _Located:
    """A flight of the product, from a time on."""

    def __init__(self, localizer: Localizer, start_s: float) -> None:
        self._localizer, self._start_s, self._number = localizer, start_s, 0

    def __call__(self, seen: Observation) -> Said:
        step = None if seen.step is None else OdometryStep(**asdict(seen.step))
        view, time_s = seen.view, self._start_s + self._number * STEP_S
        fix = self._localizer.update(step, view.rgb, time_s=time_s, lever=view.lever)
        self._number += 1
        sigma_m = math.sqrt(float(np.trace(fix.covariance)))
        return Said(fix.easting_m, fix.northing_m, fix.state == "converged", fix.radius95_m, sigma_m)


def _unix_s(date: str) -> float:
    """When a place's date was; zero for the season of a made-up world."""
    day = day_of(date)
    return datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp() if day else 0.0


@lru_cache(maxsize=16)
def _open_index(path: Path) -> MapIndex:
    return MapIndex.open(path)


@lru_cache(maxsize=1)
def _open_model(bundle_root: Path) -> Any:
    return open_engine(Bundle.open(bundle_root), device="cpu", threads=1)
