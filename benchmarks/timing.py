"""What the product costs: building, opening and using an index; each in a fresh process that may use two cores."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import scipy.fft
from baselines.ncc import SCORE_BINS, NccLocalizer, NccMap, ScoreLikelihood
from flights import Observation, fly, plan_flight
from places import Area, Raster
from runs import CACHE, RUNTIME, code_hash, key_of

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.map_build import build_index
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.world import Season, World, write_geotiff

MAP_GSD_M = 5.0
CORES = 2
FIRST_UPDATES = 5
FLIGHTS = 5
STEP_S = 5.0
PRODUCT_SHAPE = (1_000_000, 64, 36)
ROUNDS = 5

T = TypeVar("T")


@dataclass(frozen=True)
class Costs:
    """What a flight costs on an index.

    Attributes:
        first_s: each of the first five updates from a uniform belief of five flights, from patch in memory to fix.
        tracked_s: each update of the first flight once it had converged and was refined.
        peak_mb: largest resident memory of the process, imports and touched pages of the map included; NaN where
            the system does not say.
        product_s: the plain float32 product of `PRODUCT_SHAPE`, in the same process; each of some rounds.
    """

    first_s: list[float]
    tracked_s: list[float]
    peak_mb: float
    product_s: list[float]


def world_map(seed: int, season: Season, bounds: Area) -> Path:
    """A GeoTIFF of the procedural world at 5 m, made once for each state of the world's code.

    Args:
        bounds: west, south, east, north in the world's own metres.
    """
    code = code_hash(sorted((RUNTIME / "localization").glob("world*.py")))
    file = CACHE / "world" / f"{season}-{key_of(code, seed, bounds)}.tif"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(World(seed), file, bounds, MAP_GSD_M, season)
    return file


def build_seconds(
    source: Path, out: Path, footprint_m: float, bundle_root: Path, imagery_date: str | None = None
) -> float:
    """From GeoTIFF to index, the model's loading included, imports not."""
    return in_fresh_process(_build, source, out, footprint_m, bundle_root, imagery_date)


def open_seconds(index: Path) -> float:
    """From path to an open index, imports not included."""
    return in_fresh_process(_open, index)


def update_costs(index: Path, bundle_root: Path, seen: Raster, area: Area, seed: int) -> Costs:
    """Fly over a part of a map.

    Args:
        seen: what the camera looks at.
        area: west, south, east, north of the part, shown by both.
    """
    pair = (("map", "seen"),)
    plans = [plan_flight(pair, index=i, footprint_m=160.0, area=area, seed=seed) for i in range(FLIGHTS)]
    first, *others = plans
    flights = [list(fly(first, seen)), *(list(islice(fly(plan, seen), FIRST_UPDATES)) for plan in others)]
    return in_fresh_process(_update, index, bundle_root, flights)


def ncc_seconds(map_raster: Raster, seen: Raster, seed: int) -> list[float]:
    """Each of three updates of the baseline from a uniform belief, on two threads as well."""
    return in_fresh_process(_update_ncc, map_raster, seen, seed)


def in_fresh_process(work: Callable[..., T], *args: Any) -> T:
    """What `work` returns in a new interpreter that may use `CORES` cores."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_two_cores) as pool:
        return pool.submit(work, *args).result()


def peak_memory_mb() -> float:
    """Largest resident memory so far; not getrusage's, which remembers the process that this one was forked from."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmHWM"))


def _two_cores() -> None:
    cv2.setNumThreads(CORES)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _build(source: Path, out: Path, footprint_m: float, bundle_root: Path, imagery_date: str | None) -> float:
    started = time.perf_counter()
    build_index(
        [source],
        out,
        footprint_m=footprint_m,
        bundle=Bundle.open(bundle_root),
        imagery_date=imagery_date,
        georef_sigma_m=0.0,
        source="procedural world",
    ).close()
    return time.perf_counter() - started


def _open(index: Path) -> float:
    started = time.perf_counter()
    MapIndex.open(index).close()
    return time.perf_counter() - started


def _update(index: Path, bundle_root: Path, flights: Sequence[Sequence[Observation]]) -> Costs:
    first_s, tracked_s = [], []
    with (
        MapIndex.open(index) as opened,
        open_engine(Bundle.open(bundle_root), device="cpu", threads=CORES) as engine,
    ):
        localizer = Localizer(opened, engine)
        for observations in flights:
            localizer.reset()
            for number, observation in enumerate(observations):
                step = None if observation.step is None else OdometryStep(**asdict(observation.step))
                tracking = localizer.state == "converged" and localizer.filter.is_tracking
                started = time.perf_counter()
                localizer.update(step, observation.view.rgb, time_s=number * STEP_S)
                seconds = time.perf_counter() - started
                if number < FIRST_UPDATES:
                    first_s.append(seconds)
                elif tracking:
                    tracked_s.append(seconds)
    peak_mb = peak_memory_mb()  # before the product, which is not the localizer's
    return Costs(first_s, tracked_s, peak_mb, [_product_seconds() for _ in range(ROUNDS)])


def _product_seconds() -> float:
    rng = np.random.default_rng(0)
    rows, inner, cols = PRODUCT_SHAPE
    left, right = rng.random((rows, inner), np.float32), rng.random((inner, cols), np.float32)
    result = np.zeros((rows, cols), np.float32)
    started = time.perf_counter()
    np.matmul(left, right, out=result)
    return time.perf_counter() - started


def _update_ncc(map_raster: Raster, seen: Raster, seed: int) -> list[float]:
    plan = plan_flight((("map", "seen"),), index=0, footprint_m=160.0, area=map_raster.bounds, seed=seed)
    likelihood = ScoreLikelihood(np.linspace(0.5, 2.0, SCORE_BINS).astype(np.float32))
    localizer = NccLocalizer(NccMap(map_raster, 160.0), likelihood)
    seconds = []
    with scipy.fft.set_workers(CORES):
        for observation in islice(fly(plan, seen), 3):
            started = time.perf_counter()
            localizer.update(observation.step, observation.view.patch)
            seconds.append(time.perf_counter() - started)
    return seconds


def part_of(map_raster_bounds: Area, seen: Raster) -> Area:
    """The ground that a map and what is seen share."""
    both = np.array([map_raster_bounds, seen.bounds])
    west, south = both[:, :2].max(axis=0)
    east, north = both[:, 2:].min(axis=0)
    return float(west), float(south), float(east), float(north)


def bounds_of(path: Path) -> Area:
    """West, south, east, north of a GeoTIFF."""
    import rasterio

    with rasterio.open(path) as file:
        bounds = file.bounds
    return bounds.left, bounds.bottom, bounds.right, bounds.top
