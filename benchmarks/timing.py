"""What the product costs on 100 km²: building, opening and using an index; each in a fresh process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from flights import FlightPlan, Raster, fly, plan_flight, read_grey
from runs import CACHE, RUNTIME, STEP_S, code_hash, key_of

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.map_build import build_index
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.world import Season, World, write_geotiff

SIDE_M = 10_000.0
MAP_GSD_M = 5.0
CORES = 2
FIRST_UPDATES = 5
FLIGHTS = 5

T = TypeVar("T")


def world_map(seed: int, season: Season, side_m: tuple[float, float] = (SIDE_M, SIDE_M)) -> Path:
    """A GeoTIFF of the procedural world at 5 m, made once for each state of the world's code."""
    code = code_hash(sorted((RUNTIME / "localization").glob("world*.py")))
    file = CACHE / "world" / f"{season}-{key_of(code, seed, side_m)}.tif"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(World(seed), file, (0.0, 0.0, *side_m), MAP_GSD_M, season)
    return file


def build_seconds(source: Path, out: Path, footprint_m: float, bundle_root: Path) -> float:
    """From GeoTIFF to index, the model's loading included, imports not."""
    return in_fresh_process(_build, source, out, footprint_m, bundle_root)


def open_seconds(index: Path) -> float:
    """From path to an open index, imports not included."""
    return in_fresh_process(_open, index)


def update_seconds(index: Path, bundle_root: Path, seen: Path, seed: int) -> list[float]:
    """Each of the first five updates from a uniform belief of five flights, from patch in memory to fix."""
    raster = read_grey(seen)
    pair = (("map", "seen"),)
    plans = [plan_flight(pair, index=i, footprint_m=160.0, area=raster.bounds, seed=seed) for i in range(FLIGHTS)]
    return in_fresh_process(_update, index, bundle_root, raster, plans)


def in_fresh_process(work: Callable[..., T], *args: Any) -> T:
    """What `work` returns in a new interpreter that may use `CORES` cores."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_two_cores) as pool:
        return pool.submit(work, *args).result()


def _two_cores() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])


def _build(source: Path, out: Path, footprint_m: float, bundle_root: Path) -> float:
    started = time.perf_counter()
    build_index(
        [source],
        out,
        footprint_m=footprint_m,
        bundle=Bundle.open(bundle_root),
        georef_sigma_m=0.0,
        source="procedural world",
    ).close()
    return time.perf_counter() - started


def _open(index: Path) -> float:
    started = time.perf_counter()
    MapIndex.open(index).close()
    return time.perf_counter() - started


def _update(index: Path, bundle_root: Path, seen: Raster, plans: list[FlightPlan]) -> list[float]:
    seconds = []
    with (
        MapIndex.open(index) as opened,
        open_engine(Bundle.open(bundle_root), device="cpu", threads=CORES) as engine,
    ):
        for plan in plans:
            localizer = Localizer(opened, engine)
            for number, observation in enumerate(islice(fly(plan, seen), FIRST_UPDATES)):
                step = None if observation.step is None else OdometryStep(**asdict(observation.step))
                started = time.perf_counter()
                localizer.update(step, observation.patch, time_s=number * STEP_S)
                seconds.append(time.perf_counter() - started)
    return seconds
