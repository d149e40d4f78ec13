"""Journeys make a track of a plan: flown plainly to its end, or moved away in the middle of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
from flights import UPDATES, FlightPlan, Nadir, Observation, Sensor, fly, plan_flight
from pilots import Method, Pilot, Said
from places import Area, Place
from scoring import Track

SETTLED_UPDATES = 5
"""Past the declaration, before the vehicle is moved."""
KIDNAP_M = 1000.0


@dataclass(frozen=True)
class Journey:
    """A plan flown from its first update to its last.

    Attributes:
        method: what localizes.
        place: rasters to look at.
        sensor: how.
        map_area: if given, the track's event is the first update above it.
    """

    method: Method
    place: Place
    sensor: Sensor = field(default_factory=Nadir)
    map_area: Area | None = None

    def __call__(self, plan: FlightPlan) -> Track:
        """Fly one plan."""
        log = _Log(self.method.start(plan))
        log.follow(fly(plan, self.place.rasters[plan.query_date], self.sensor))
        return log.track(plan, _first_above(plan, self.map_area), len(plan.poses))


@dataclass(frozen=True)
class Kidnapping:
    """A plan flown until `SETTLED_UPDATES` after the declaration, and from there on another, over the same map.

    The other one starts at least `KIDNAP_M` away; odometry tells of the step that was under way and not of the move.
    A flight that does not converge in time is flown to its end and has no event.
    """

    method: Method
    place: Place
    seed: int

    def __call__(self, plan: FlightPlan) -> Track:
        """Fly one plan, and its other."""
        log = _Log(self.method.start(plan))
        seen = self.place.rasters[plan.query_date]
        log.follow(fly(plan, seen), settled=SETTLED_UPDATES)
        event = len(log.said)
        if event < len(plan.poses):
            onward = fly(self._other(plan, plan.poses[event - 1]), seen)
            first = next(onward)
            log.follow([replace(first, step=plan.steps[event])])
            log.follow(onward)
        return log.track(plan, event if event < len(plan.poses) else -1, 2 * UPDATES)

    def _other(self, plan: FlightPlan, left: np.ndarray) -> FlightPlan:
        """A flight over the same two dates that starts far from where the vehicle was taken."""
        for attempt in count():
            index = (attempt + 1) * 1_000_000 + plan.index
            pair = ((plan.map_date, plan.query_date),)
            other = plan_flight(pair, index=index, footprint_m=plan.footprint_m, area=self.place.area, seed=self.seed)
            if math.dist(other.poses[0, :2], left[:2]) >= KIDNAP_M:
                return replace(other, gain=plan.gain, gamma=plan.gamma)
        raise AssertionError


class _Log:
    """What a pilot said, beside the truth."""

    def __init__(self, pilot: Pilot) -> None:
        self._pilot = pilot
        self.said: list[Said] = []
        self._off: list[tuple[float, float]] = []
        self._seconds: list[float] = []

    def follow(self, observations: Iterable[Observation], settled: int | None = None) -> None:
        """Update with each observation; stop once so many updates have passed since the declaration."""
        declared = None
        for observation in observations:
            started = time.perf_counter()
            said = self._pilot(observation)
            self._seconds.append(time.perf_counter() - started)
            self._off.append((said.easting_m - observation.pose[0], said.northing_m - observation.pose[1]))
            self.said.append(said)
            if said.converged and declared is None:
                declared = len(self.said)
            if settled is not None and declared is not None and len(self.said) >= declared + settled:
                return

    def track(self, plan: FlightPlan, event: int, length: int) -> Track:
        """The track, filled up with NaN to a length that all tracks of a row share."""
        blank = np.full(length - len(self.said), np.nan)
        return Track(
            (plan.map_date, plan.query_date),
            np.concatenate([np.array(self._off), np.stack([blank, blank], axis=1)]),
            np.array([said.converged for said in self.said] + [False] * len(blank)),
            np.concatenate([[said.radius95_m for said in self.said], blank]),
            np.concatenate([[said.sigma_m for said in self.said], blank]),
            np.concatenate([self._seconds, blank]),
            event,
        )


def _first_above(plan: FlightPlan, area: Area | None) -> int:
    if area is None:
        return -1
    west, south, east, north = area
    x, y = plan.poses[:, 0], plan.poses[:, 1]
    above = (x >= west) & (x <= east) & (y >= south) & (y <= north)
    return int(np.argmax(above)) if above.any() else -1
