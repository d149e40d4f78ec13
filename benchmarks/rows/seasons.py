"""Other maps than the camera's own kind: an aerial view over a satellite's picture, snow over summer."""

from __future__ import annotations

from typing import Any

import numpy as np
from baselines.ncc import NccMap, single_frame_hits
from flights import plan_flight
from places import Place, year_pairs
from registration import Registration, tile_shifts, translation
from results import Figure
from scoring import bootstrap, median_error_m
from tqdm import tqdm

from kittiwake_runtime.localization.world import VERSION
from rows.courses import Course, fly_ncc, fly_product, ncc_key
from rows.figures import flight_figures, judged, known, measure_course, ncc_figures
from rows.run import NCC_FLIGHTS_LARGE, SEED, WORLD_SEED, Run, of_bundle, of_data, world_place

FLIGHTS = 200
RECALL_SIDE_M = 4000.0
"""Of the procedural square whose single-frame recall is compared: as large as North Dakota's ground."""

BAVIAANS = judged(converged=">= 99", updates="<= 5", false="0", error_m="<= 4", inside95=None)
SNOW = judged(converged=">= 99", updates="<= 12", false="0", error_m="<= 5", inside95=None, sigma_ratio=None)


def measure_baviaans(run: Run) -> list[Figure]:
    """Baviaanskloof, 108.5 km², an aerial view at 5 m over Sentinel-2 at 10 m; less one constant translation."""
    place, other = run.baviaans, run.north_dakota.rasters
    tutors = tuple((other[a], other[b]) for a, b in year_pairs(tuple(other)))
    course = Course(place, 320.0, tutors=tutors)
    found = kept_translation(place)
    shift = (-found.east_m, -found.north_m)
    raw = fly_product(run, course, run.count(FLIGHTS), "baviaans")
    raw_ncc = fly_ncc(run, course, run.ncc_count(NCC_FLIGHTS_LARGE), "baviaans")
    ours, rival = ([track.moved(shift) for track in tracks] for tracks in (raw, raw_ncc))
    data = of_data(place, of_bundle(run.bundle))
    off = Figure(
        "baviaans.registration_m",
        known(found.residual_m),
        "m",
        found.tiles,
        data=place.name,
        note=f"{found.east_m:.1f} m east, {found.north_m:.1f} m north: the mosaic against the satellite's picture, on "
        "its northern and southern ends, over which no flight looks; taken off baviaans.error_m",
    )
    uncorrected = Figure(
        "baviaans.error_raw_m",
        known(median_error_m(raw)),
        "m",
        len(raw),
        bootstrap(raw, median_error_m, seed=SEED),
        baseline=known(median_error_m(raw_ncc)) if raw_ncc else None,
        data=data,
        note="without taking the translation off",
    )
    beside = of_data(place, f"key {ncc_key(course)}")
    return [
        *flight_figures("baviaans", BAVIAANS, ours, data, rival),
        *ncc_figures("baviaans", BAVIAANS, rival, beside),
        uncorrected,
        off,
    ]


def measure_snow(run: Run) -> list[Figure]:
    """The procedural world, 100 km²: a summer map, snow below."""
    other = world_place(WORLD_SEED + 1, "summer", "winter", RECALL_SIDE_M)
    tutors = ((other.rasters["summer"], other.rasters["winter"]),)
    course = Course(run.world("summer", "winter"), 160.0, tutors=tutors)
    side_km = run.world_side_m / 1000
    note = f"procedural world {WORLD_SEED}, version {VERSION}, {side_km:g} x {side_km:g} km at 5 m; truth exact"
    return measure_course(run, "snow", SNOW, course, FLIGHTS, ncc_flights=NCC_FLIGHTS_LARGE, note=note)


def measure_world(run: Run) -> list[Figure]:
    """Is the procedural world as hard as the real one? Grey correlation across seasons, and NCC's recall."""
    made = world_place(WORLD_SEED, "summer", "winter", RECALL_SIDE_M)
    summer, winter = (made.rasters[season].grey.ravel() for season in ("summer", "winter"))
    views = run.count(200, 20)
    world_hits, real_hits = (recall(place, views) for place in (made, run.north_dakota))
    data = f"procedural world {WORLD_SEED}, version {VERSION}, {made.sha256[:16]}, 16 km2 at 5 m"
    return [
        Figure(
            "world.grey_correlation_snow", float(np.corrcoef(summer, winter)[0, 1]), "", bar="0.05 - 0.45", data=data
        ),
        Figure(
            "world.ncc_recall160",
            world_hits,
            "%",
            views,
            binomial_pct(world_hits, views),
            "<= 15",
            real_hits,
            data,
            "summer map, snow view, within 60 m; the baseline is the same on North Dakota's pairs",
        ),
    ]


def kept_translation(place: Place) -> Registration:
    """How far the flown date lies off the map's, on the ground of the place beyond `Place.flown`."""
    (map_date, seen_date), assert_flown = place.pairs[0], place.flown
    assert assert_flown is not None, "every tile is flown over"
    return translation(np.concatenate([_shifts(place, map_date, seen_date, end) for end in _ends(place, assert_flown)]))


def binomial_pct(share_pct: float, n: int) -> tuple[float, float]:
    """95 % interval of a share of n trials (Wilson 1927), per cent."""
    p, z = share_pct / 100, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return 100 * float(max(middle - half, 0.0)), 100 * float(min(middle + half, 1.0))


def recall(place: Place, views: int) -> float:
    """NCC's single-frame recall at 160 m, per cent, the views spread over the place's pairs."""
    rng = np.random.default_rng(SEED)
    shares = []
    for pair in tqdm(place.pairs, desc=f"recall, {place.name}", disable=None):
        ncc_map, seen = NccMap(place.rasters[pair[0]], 160.0), place.rasters[pair[1]]
        plans = [
            plan_flight((pair,), index=i, footprint_m=160.0, area=place.area, seed=SEED)
            for i in range(max(1, views // len(place.pairs)))
        ]
        poses = np.array([plan.poses[0] for plan in plans])
        shares.append(100 * np.mean(single_frame_hits(ncc_map, seen, poses, rng)))
    return float(np.mean(shares))


def _ends(place: Place, flown: tuple[float, float, float, float]) -> list[tuple[float, float, float, float]]:
    """The ground that both dates show north and south of what is flown over."""
    west, south, east, north = place.common_area
    return [(west, flown[3], east, north), (west, south, east, flown[1])]


def _shifts(place: Place, map_date: str, seen_date: str, end: tuple[float, float, float, float]) -> Any:
    return tile_shifts(place.rasters[map_date].cropped(end), place.rasters[seen_date].cropped(end))
