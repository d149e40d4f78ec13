"""Kidnapped flights and flights that fly in, flown by a pilot that always knows, or never does."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from baselines.ncc import NccFix
from baselines.pilot import _Correlated
from flights import FlightPlan, Observation, Odometry, View, plan_entry, plan_flight
from journeys import Journey, Kidnapping
from pilots import Pilot, Said
from places import Place, Raster
from rows.courses import ENTRY_UPDATES, EntryCourse

PAIRS = (("map", "seen"),)
SIDE_M = 6000.0


@pytest.fixture(scope="module")
def place() -> Place:
    grey = np.full((1200, 1200), 0.5, np.float32)
    return Place("made", {name: Raster(grey, 0.0, SIDE_M, 5.0, sha256=name) for name in PAIRS[0]}, PAIRS)


@dataclass
class Knowing:
    """Converged from its fourth update on, at the truth; remembers what it saw."""

    converges: bool = True
    seen: list[Observation] = field(default_factory=list)

    def start(self, plan: FlightPlan) -> Pilot:
        def say(observation: Observation) -> Said:
            self.seen.append(observation)
            east, north, _ = observation.pose
            return Said(east, north, self.converges and len(self.seen) >= 4, 10.0, 5.0)

        return say


def test_kidnapped_five_updates_past_convergence_and_a_kilometre_away(place: Place) -> None:
    for index in range(5):
        method = Knowing()
        plan = plan_flight(PAIRS, index=index, footprint_m=160.0, area=place.area, seed=1)
        track = Kidnapping(method, place, seed=1)(plan)
        assert (track.declared, track.event) == (3, 9)
        before, after = method.seen[8].pose, method.seen[9].pose
        np.testing.assert_array_equal(before, plan.poses[8])
        assert math.dist(before[:2], after[:2]) >= 1000.0
        assert method.seen[9].step == plan.steps[9], "odometry does not tell of the move"
        assert len(method.seen) == 59 and len(track.converged) == 100
        np.testing.assert_allclose(track.off_m[:59], 0.0)
        assert np.isnan(track.off_m[59:]).all() and not track.converged[59:].any()


def test_a_flight_that_never_converges_is_not_moved(place: Place) -> None:
    method = Knowing(converges=False)
    plan = plan_flight(PAIRS, index=0, footprint_m=160.0, area=place.area, seed=1)
    track = Kidnapping(method, place, seed=1)(plan)
    assert (track.event, track.declared, len(method.seen)) == (-1, None, 50)


def test_flights_from_outside_start_2_km_off_and_enter(place: Place) -> None:
    area = (2200.0, 2200.0, 3800.0, 3800.0)
    course = EntryCourse(place, 160.0, map_area=area)
    for index in range(12):
        plan = course.plan(index)
        east, north = plan.poses[:, 0], plan.poses[:, 1]
        beyond = np.hypot(
            np.maximum(np.maximum(2200 - east, east - 3800), 0), np.maximum(np.maximum(2200 - north, north - 3800), 0)
        )
        assert beyond[0] == pytest.approx(2000.0) and len(plan.poses) == ENTRY_UPDATES
        track = Journey(Knowing(), place, map_area=area)(plan)
        assert 20 <= track.event <= 30 and track.event == np.flatnonzero(beyond == 0)[0]
        assert (beyond[track.event + 2 :] == 0).all(), "it stays over the map"
        np.testing.assert_allclose(np.hypot(*np.diff(plan.poses[:, :2], axis=0).T), 100.0)
    assert plan_entry(PAIRS, index=1, footprint_m=160.0, area=area, outside_m=500.0, updates=9, seed=1).index == 1


def test_the_baseline_follows_the_views_centre_and_finds_the_vehicle_from_it() -> None:
    """A stand-in localizer that adds up the steps it is given must come out at each view's centre."""
    rng = np.random.default_rng(2)
    poses = np.array([[0.0, 0.0, 0.3], [90.0, 30.0, 0.9], [120.0, 140.0, 1.4]])
    levers = [complex(*rng.normal(0, 20, 2)) for _ in poses]

    class Summing:
        centre, heading = 0j, 0.3

        def update(self, step: Odometry | None, patch: np.ndarray) -> NccFix:
            if step is None:
                self.centre = complex(*poses[0, :2]) + levers[0] * np.exp(0.3j)
            else:
                self.centre += complex(step.forward_m, step.left_m) * np.exp(1j * self.heading)
                self.heading += step.turn_rad
            return NccFix(self.centre.real, self.centre.imag, self.heading, np.eye(2), True)

    pilot, before = _Correlated(Summing()), None
    for pose, lever in zip(poses, levers, strict=True):
        step = None
        if before is not None:
            body = complex(*(pose[:2] - before[:2])) * np.exp(-1j * before[2])
            step = Odometry(body.real, body.imag, pose[2] - before[2], 2.0, 0.03)
        said = pilot(Observation(step, View(np.zeros((33, 33)), (), (lever.real, lever.imag)), pose))
        assert (said.easting_m, said.northing_m) == pytest.approx(tuple(pose[:2]))
        before = pose
