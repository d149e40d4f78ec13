"""Flights that a localizer must not believe in: moved away, over another place, or not yet over the map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from places import Place, Raster, read_raster
from results import Figure
from scoring import (
    converged_pct,
    happened,
    late_false,
    lost_updates,
    redeclared_false,
    right_updates,
    wrong_fixes,
)
from timing import world_map

from rows.courses import OUTSIDE_M, ElsewhereCourse, EntryCourse, KidnapCourse, fly_ncc, fly_product, ncc_key
from rows.figures import Statistic, flight_figures, judged, ncc_figures, noted
from rows.run import WORLD_SEED, Run, of_bundle, of_data, world_place

FLIGHTS = 200
ELSEWHERE_FLIGHTS = 400
ENTRY_FLIGHTS = 100
NCC_KIDNAPPED = 20

KIDNAP = {
    "lost_updates": Statistic(lost_updates, "", "up to the first that is not converged; never: 50", bar="<= 5"),
    "right_updates": Statistic(right_updates, "", "up to converged and right; never: 50", bar="<= 25"),
    "false": Statistic(redeclared_false, "flights", "declared anew, more than 90 m off", counts=True, bar="0"),
    "wrong_fixes": Statistic(wrong_fixes, "", "a flight, published after the kidnapping and before lost"),
}
KIDNAP_ALL = {
    "late": Statistic(late_false, "flights", "converged and wrong, but for 5 updates after the move", counts=True)
}
ELSEWHERE = {**judged(false="0"), "converged": Statistic(converged_pct, "%", "of flights wholly over another place")}
ENTRY = {
    "return_updates": Statistic(right_updates, "", "from the first above the map; never: 50", bar="<= 15"),
    "entry_false": replace(judged(false="0")["false"], note="start 2 km outside, fly in"),
}


def measure_kidnap(run: Run) -> list[Figure]:
    """At 160 m over North Dakota, moved by 1 km or more once 5 updates past convergence."""
    course = KidnapCourse(run.north_dakota, 160.0)
    ours = fly_product(run, course, run.count(FLIGHTS), "kidnap")
    rival = fly_ncc(run, course, run.ncc_count(NCC_KIDNAPPED), "kidnap")
    data, beside = of_data(course.place, of_bundle(run.bundle)), of_data(course.place, f"key {ncc_key(course)}")
    moved = happened(ours)
    figures = flight_figures("kidnap", KIDNAP, moved, data, happened(rival))
    return [
        *noted(figures, f"{len(moved)} of {len(ours)} flights converged and were moved"),
        *ncc_figures("kidnap", KIDNAP, happened(rival), beside),
        *flight_figures("kidnap", KIDNAP_ALL, ours, data, rival),
    ]


def measure_offmap(run: Run) -> list[Figure]:
    """North Dakota's maps under flights over Baviaanskloof and the procedural world; and flights that fly in."""
    course = ElsewhereCourse(_elsewhere(run), 160.0, tutors=_tutors(run))
    ours = fly_product(run, course, run.count(ELSEWHERE_FLIGHTS, 4), "offmap")
    rival = fly_ncc(run, course, run.ncc_count(), "offmap")
    data, beside = of_data(course.place, of_bundle(run.bundle)), of_data(course.place, f"key {ncc_key(course)}")
    entry = _entry(run)
    entered = fly_product(run, entry, run.count(ENTRY_FLIGHTS), "offmap, fly in")
    return [
        *flight_figures("offmap", ELSEWHERE, ours, data, rival),
        *ncc_figures("offmap", ELSEWHERE, rival, beside),
        *flight_figures("offmap", ENTRY, happened(entered), of_data(entry.place, of_bundle(run.bundle))),
    ]


def measure_all(measured: Iterable[Figure], missing: Sequence[str]) -> list[Figure]:
    """False convergences over every flight of the table.

    Args:
        measured: the figures of all rows.
        missing: the rows that were not measured.
    """
    counted = [figure for figure in measured if is_false_count(figure.id) and figure.value is not None]
    total, flights = sum(figure.value or 0.0 for figure in counted), sum(figure.n or 0 for figure in counted)
    if not flights:
        return []
    note = "sum of " + ", ".join(figure.id for figure in counted)
    note += f"; 95 % bound {300 / flights:.2g} %" if total == 0 else f"; {100 * total / flights:.2g} %"
    note += "; the limits of doubt were chosen on some of these flights, and others were flown since: "
    note += "docs/localization-training.md, 'How sure it is'"
    note += f"; without {', '.join(missing)}" if missing else ""
    # The sum of many rare counts is Poisson's: 3 for none, else about two standard deviations.
    spread = 1.96 * total**0.5
    interval = (0.0, 3.0) if total == 0 else (max(total - spread, 0.0), total + spread)
    return [Figure("all.false", total, "flights", flights, interval, "0", note=note)]


def is_false_count(id_: str) -> bool:
    """Whether a figure counts flights of the product that were false; `kidnap.late` holds what `kidnap.false` does."""
    return id_ == "kidnap.late" or (id_.endswith("false") and id_ not in ("kidnap.false", "all.false"))


def _elsewhere(run: Run) -> Place:
    """North Dakota's dates as maps, other grounds to look at."""
    maps = run.north_dakota
    world = world_place(WORLD_SEED, "summer", "autumn", 4000.0).rasters["autumn"]
    others = {"baviaans": run.baviaans.rasters["2015-05-08"], "world": world}
    dates = sorted({pair[0] for pair in maps.pairs})
    pairs = tuple((date, other) for date in dates for other in others)
    return replace(maps, name="naip_nd, looking elsewhere", rasters={**maps.rasters, **others}, pairs=pairs)


def _tutors(run: Run) -> tuple[tuple[Raster, Raster], ...]:
    rasters = run.north_dakota.rasters
    return tuple((rasters[a], rasters[b]) for a, b in run.north_dakota.pairs)


def _entry(run: Run) -> EntryCourse:
    """The middle of a square of the procedural world as a map in summer; autumn all around it."""
    side_m, rim_m = (6_400.0 if run.quick else 10_000.0), OUTSIDE_M + 200.0
    map_area = (rim_m, rim_m, side_m - rim_m, side_m - rim_m)
    summer = read_raster(world_map(WORLD_SEED, "summer", map_area))
    autumn = read_raster(world_map(WORLD_SEED, "autumn", (0.0, 0.0, side_m, side_m)))
    place = Place(f"world{WORLD_SEED}", {"summer": summer, "autumn": autumn}, (("summer", "autumn"),))
    return EntryCourse(place, 160.0, map_area=summer.bounds)
