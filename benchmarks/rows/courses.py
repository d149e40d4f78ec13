"""What is flown in a row: the ground, the footprint and the kind of flight; then the tracks, by either method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from baselines.pilot import Ncc
from flights import FlightPlan, Nadir, Sensor, plan_entry, plan_flight
from journeys import Journey, Kidnapping
from pilots import Method, Product
from places import Area, Place, Raster, year_pairs
from runs import (
    FLOWN,
    Dates,
    Fly,
    baseline_code,
    build_indexes,
    calibrations,
    code_hash,
    fly_all,
    key_of,
    product_code,
)
from scoring import Track

from kittiwake_runtime.bundle import Bundle
from rows.run import SEED, Run, bundle_root

OUTSIDE_M = 2000.0
ENTRY_UPDATES = 75
"""About 25 to get over the map, and 50 above it."""


@dataclass(frozen=True)
class Course:
    """Plain flights over a place.

    Attributes:
        place: rasters and the pairs of them that are flown in turn.
        footprint_m: of the index and of what the camera sees.
        sensor: how the ground becomes a view.
        tutors: (map, seen) rasters that the baseline's likelihood is learned on; None takes the place's other dates.
    """

    place: Place
    footprint_m: float
    sensor: Sensor = field(default_factory=Nadir)
    tutors: tuple[tuple[Raster, Raster], ...] | None = field(default=None, repr=False)

    def plan(self, index: int) -> FlightPlan:
        """The flight of a number."""
        place = self.place
        return plan_flight(place.pairs, index=index, footprint_m=self.footprint_m, area=place.area, seed=SEED)

    def journey(self, method: Method) -> Fly:
        """How a method flies it."""
        return Journey(method, self.place, self.sensor)

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the flights."""
        place = self.place
        return type(self).__name__, place.sha256, place.pairs, place.area, self.footprint_m, self.sensor, SEED

    def examples(self) -> dict[Dates, tuple[tuple[Raster, Raster], ...]]:
        """What the baseline's likelihood is learned on, for each two dates that are flown."""
        rasters, found = self.place.rasters, {}
        for dates in map(frozenset, self.place.pairs):
            others = year_pairs(tuple(date for date in rasters if date not in dates)) if self.tutors is None else ()
            found[dates] = self.tutors or tuple((rasters[a], rasters[b]) for a, b in others)
        return found


@dataclass(frozen=True)
class KidnapCourse(Course):
    """Flights that are moved once they have converged."""

    def journey(self, method: Method) -> Fly:
        """How a method flies it."""
        return Kidnapping(method, self.place, SEED)


@dataclass(frozen=True)
class EntryCourse(Course):
    """Flights that start `OUTSIDE_M` beyond the map and fly in.

    Attributes:
        map_area: west, south, east, north of the map.
    """

    map_area: Area = (0.0, 0.0, 0.0, 0.0)

    def plan(self, index: int) -> FlightPlan:
        """The flight of a number."""
        return plan_entry(
            self.place.pairs,
            index=index,
            footprint_m=self.footprint_m,
            area=self.map_area,
            outside_m=OUTSIDE_M,
            updates=ENTRY_UPDATES,
            seed=SEED,
        )

    def journey(self, method: Method) -> Fly:
        """How a method flies it."""
        return Journey(method, self.place, self.sensor, self.map_area)

    @property
    def key(self) -> tuple[Any, ...]:
        """What decides the flights."""
        return (*super().key, self.map_area)


@dataclass(frozen=True)
class ElsewhereCourse(Course):
    """Flights over ground that is not the map's: each stays within the raster that it looks at."""

    def plan(self, index: int) -> FlightPlan:
        """The flight of a number."""
        pairs = self.place.pairs
        area = self.place.rasters[pairs[index % len(pairs)][1]].bounds
        return plan_flight(pairs, index=index, footprint_m=self.footprint_m, area=area, seed=SEED)


def fly_product(
    run: Run, course: Course, flights: int | Sequence[int], title: str, bundle: Bundle | None = None
) -> list[Track]:
    """The product's tracks.

    Args:
        flights: the first so many, or those of these numbers.
        bundle: another model than the one under test.
    """
    bundle = bundle or run.bundle
    plans = [course.plan(index) for index in (range(flights) if isinstance(flights, int) else flights)]

    def make() -> Fly:
        indexes = build_indexes(course.place, [plan.map_date for plan in plans], course.footprint_m, bundle)
        return course.journey(Product(indexes, bundle_root(bundle)))

    key = key_of(code_hash(product_code()), bundle.sha256, course.key)
    return fly_all(make, plans, key=key, processes=run.processes, title=title)


def fly_ncc(run: Run, course: Course, flights: int, title: str, fold: int = 1) -> list[Track]:
    """The baseline's tracks, on the first of the same flights; none where it is not asked for."""

    def make() -> Fly:
        examples = course.examples()
        likelihoods = calibrations(examples, course.footprint_m, fold=fold, seed=SEED, processes=run.processes)
        return course.journey(Ncc(course.place, likelihoods, fold))

    plans = [course.plan(index) for index in range(flights)]
    title = f"{title}, ncc" + (f" fold {fold}" if fold > 1 else "")
    folder = None if run.quick else FLOWN  # a quick run's few flights are not for keeping
    return fly_all(make, plans, key=ncc_key(course, fold), processes=run.processes, title=title, folder=folder)


def ncc_key(course: Course, fold: int = 1) -> str:
    """Hash of the baseline's code, data and seed: its tracks are flown once for each."""
    return key_of(code_hash(baseline_code()), course.key, fold)
