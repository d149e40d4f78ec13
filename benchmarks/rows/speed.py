"""Seconds and megabytes: making an index, opening it, an update on it; on 100 km² and on ten times as much."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import median

import numpy as np
from places import read_raster
from results import Figure
from runs import CACHE, code_hash, key_of, product_code
from timing import (
    Costs,
    bounds_of,
    build_seconds,
    ncc_seconds,
    open_seconds,
    part_of,
    update_costs,
    world_map,
)

from kittiwake_runtime.localization.world import VERSION
from rows.figures import known
from rows.run import SEED, WORLD_SEED, Run, bundle_root, of_bundle

OPENINGS = 5
NOTE = "2 threads, 36 headings, first five updates of five flights from a uniform belief; the interval is the range"
TRACK_NOTE = "once converged, refinement included; the interval is the range"


def measure_index(run: Run) -> list[Figure]:
    """An index of 100 km² from a 5 m GeoTIFF: seconds to build, size, seconds to open."""
    area_km2 = round(run.world_side_m**2 / 1e6)
    out = index_path(run, area_km2)
    built_s = build_seconds(_map_of(area_km2), out, 160.0, bundle_root(run.bundle))
    opened = [open_seconds(out) for _ in range(OPENINGS)]
    data = of_world(run, area_km2)
    return [
        Figure("index.build_100km2_s", built_s, "s", 1, None, "<= 60", data=data, note="2 cores"),
        Figure("index.size_100km2_mb", out.stat().st_size / 1e6, "MB", 1, None, "<= 70", data=data),
        ranged("index.open_s", opened, "s", "<= 0.2", data, "fresh processes; the interval is the range"),
    ]


def measure_speed(run: Run) -> list[Figure]:
    """An update on 100 km²: from a uniform belief, once converged, beside a plain product and beside NCC."""
    area_km2 = round(run.world_side_m**2 / 1e6)
    costs, data = costs_of(run, area_km2), of_world(run, area_km2)
    update_s, product_s = median(costs.first_s), median(costs.product_s)
    summer, autumn = (read_raster(path) for path in (_map_of(area_km2), _seen_of(area_km2)))
    ncc_s = ncc_seconds(summer, autumn, SEED)
    over = [seconds / product_s for seconds in costs.first_s]
    times = [seconds / update_s for seconds in ncc_s]
    product = f"1M x 64 by 64 x 36 in float32, in the same process: {product_s:.3f} s; the interval is the range"
    return [
        ranged("speed.update_100km2_s", costs.first_s, "s", "<= 0.15", data, NOTE, median(ncc_s)),
        ranged("speed.vs_matmul", over, "x", "<= 3.5", data, product),
        ranged("speed.vs_ncc", times, "x", ">= 15", data, "NCC's time over the product's, both on 2 threads"),
        ranged("speed.track_s", costs.tracked_s, "s", "<= 0.05", data, TRACK_NOTE),
    ]


def measure_thousand(run: Run) -> list[Figure]:
    """An update and the memory of a process on 1,000 km²."""
    area_km2 = 30 if run.quick else 1000
    costs, data = costs_of(run, area_km2), of_world(run, area_km2)
    note = "peak of a fresh process, imports and touched map pages included"
    return [
        ranged("speed.update_1000km2_s", costs.first_s, "s", "<= 1.5", data, NOTE),
        Figure("speed.rss_1000km2_mb", known(costs.peak_mb), "MB", 1, None, "<= 1500", data=data, note=note),
    ]


@lru_cache(maxsize=8)
def costs_of(run: Run, area_km2: int) -> Costs:
    """Costs on a square of the procedural world of about so many km², measured once an invocation."""
    index, source = index_path(run, area_km2), _map_of(area_km2)
    if not index.exists():
        build_seconds(source, index, 160.0, bundle_root(run.bundle))
    seen = read_raster(_seen_of(area_km2))
    return update_costs(index, bundle_root(run.bundle), seen, part_of(bounds_of(source), seen), SEED)


def index_path(run: Run, area_km2: int) -> Path:
    """Where the index of a square lies, for this state of the code and this bundle."""
    key = key_of(code_hash(product_code()), run.bundle.sha256)
    path = CACHE / "indexes" / f"world-{area_km2}km2-{key}.kwmap"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def of_world(run: Run, area_km2: int) -> str:
    """Which data."""
    return f"procedural world {WORLD_SEED}, version {VERSION}, {area_km2} km2 at 5 m; {of_bundle(run.bundle)}"


def ranged(
    id_: str, values: Sequence[float], unit: str, bar: str | None, data: str, note: str, baseline: float | None = None
) -> Figure:
    """A median with its range; not measured where there are no values."""
    if not values:
        return Figure(id_, None, unit, 0, None, bar, baseline, data, "no update came so far")
    bounds = (min(values), max(values))
    return Figure(id_, known(median(values)), unit, len(values), bounds, bar, baseline, data, note)


def _square(area_km2: float) -> tuple[float, float, float, float]:
    """A square from the world's origin, its side a whole number of 5 m pixels."""
    side_m = 5.0 * round(float(np.sqrt(area_km2)) * 200)
    return 0.0, 0.0, side_m, side_m


def _map_of(area_km2: int) -> Path:
    return world_map(WORLD_SEED, "summer", _square(area_km2))


def _seen_of(area_km2: int) -> Path:
    """Another season; of the largest maps, the part that is flown over."""
    return world_map(WORLD_SEED, "autumn", _square(min(area_km2, 100)))
