"""Flies the planned flights with one method or another, on several cores, and remembers what was flown.

A method is a callable from a `FlightPlan` to a `Track`: `Product` drives the runtime's localizer, `Ncc` the
baseline. `fly_all` spreads the plans over processes of one core each and keeps finished batches in a cache
folder under a key of everything that decides them, so that an interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from functools import lru_cache
from multiprocessing import get_context
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, cast

import numpy as np
from baselines.ncc import NccLocalizer, NccMap, ScoreLikelihood, calibrate
from flights import UPDATES, FlightPlan, Place, fly, year_pairs
from scoring import Track
from tqdm import tqdm

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.map_build import build_index
from kittiwake_runtime.localization.map_index import MapIndex

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
RUNTIME = HERE.parent / "runtime" / "kittiwake_runtime"
BATCH = 20
STEP_S = 5.0
Method = Callable[[FlightPlan], Track]


class Product:
    """The runtime's localizer, on one index for each date of the map.

    Args:
        place: rasters to look at.
        indexes: the ``.kwmap`` of each date.
        bundle_root: folder of the bundle that made them.
    """

    def __init__(self, place: Place, indexes: dict[str, Path], bundle_root: Path) -> None:
        self._place, self._indexes, self._bundle_root = place, indexes, bundle_root

    def __call__(self, plan: FlightPlan) -> Track:
        """Fly one plan."""
        index = _open_index(self._indexes[plan.map_date])
        localizer = Localizer(index, _open_model(self._bundle_root))
        errors, states, radii, sigmas, seconds = [], [], [], [], []
        for number, observation in enumerate(fly(plan, self._place.rasters[plan.query_date])):
            step = None if observation.step is None else OdometryStep(**asdict(observation.step))
            started = time.perf_counter()
            fix = localizer.update(step, observation.patch, time_s=number * STEP_S)
            seconds.append(time.perf_counter() - started)
            errors.append(math.dist((fix.easting_m, fix.northing_m), observation.pose[:2]))
            states.append(fix.state == "converged")
            radii.append(fix.radius95_m)
            sigmas.append(math.sqrt(float(np.trace(fix.covariance))))
        return _track(plan, errors, states, radii, sigmas, seconds)


class Ncc:
    """The baseline of `baselines/ncc.py`.

    Args:
        place: rasters of the maps and to look at.
        likelihoods: by the two dates of a pair, in either order.
        fold: which orientation feature.
    """

    def __init__(self, place: Place, likelihoods: dict[frozenset[str], ScoreLikelihood], fold: int) -> None:
        self._place, self._likelihoods, self._fold = place, likelihoods, fold
        self._maps: dict[tuple[str, float], NccMap] = {}

    def __call__(self, plan: FlightPlan) -> Track:
        """Fly one plan."""
        key = plan.map_date, plan.footprint_m
        if key not in self._maps:
            self._maps[key] = NccMap(self._place.rasters[plan.map_date], plan.footprint_m, self._fold)
        likelihood = self._likelihoods[frozenset((plan.map_date, plan.query_date))]
        localizer = NccLocalizer(self._maps[key], likelihood)
        errors, states, sigmas, seconds = [], [], [], []
        for observation in fly(plan, self._place.rasters[plan.query_date]):
            started = time.perf_counter()
            fix = localizer.update(observation.step, observation.patch)
            seconds.append(time.perf_counter() - started)
            errors.append(math.dist((fix.easting_m, fix.northing_m), observation.pose[:2]))
            states.append(fix.converged)
            sigmas.append(fix.position_std_m)
        return _track(plan, errors, states, [math.nan] * UPDATES, sigmas, seconds)


def fly_all(method: Method, plans: Sequence[FlightPlan], *, key: str, processes: int, title: str) -> list[Track]:
    """The tracks of all plans, in their order; finished batches come from the cache.

    Args:
        method: picklable; it is sent to each process once.
        key: of everything besides the plans' numbers that decides the tracks (`key_of`).
        processes: how many, each on one core and one thread.
        title: of the progress bar.
    """
    tracks: list[Track] = []
    with ExitStack() as stack, tqdm(total=len(plans), desc=title, unit="flight", disable=None) as bar:
        pool: Executor | None = None
        for first in range(0, len(plans), BATCH):
            batch = plans[first : first + BATCH]
            file = CACHE / "tracks" / f"{key}-{batch[0].index:04d}-{batch[-1].index:04d}.npz"
            if not file.exists():
                pool = pool or stack.enter_context(one_core_pool(processes, _be, method))
                done = []
                for track in pool.map(_fly_one, batch):
                    done.append(track)
                    bar.update()
                _save(file, done)
            else:
                bar.update(len(batch))
            tracks += _load(file)
    return tracks


def one_core_pool(processes: int, prepare: Callable[..., None] | None = None, *args: Any) -> ProcessPoolExecutor:
    """Fresh processes, each held to a core of its own where the system allows, so that one means one thread."""
    context = get_context("spawn")
    cores: Queue[int] = context.Queue()
    for number in range(processes):
        cores.put(number)
    return ProcessPoolExecutor(processes, context, initializer=_settle, initargs=(cores, prepare, args))


def calibrations(
    place: Place, plans: Iterable[FlightPlan], *, fold: int, seed: int, processes: int
) -> dict[frozenset[str], ScoreLikelihood]:
    """The baseline's likelihood for each two dates that are flown, learned on the other dates; cached."""
    found: dict[frozenset[str], ScoreLikelihood] = {}
    wanted = {frozenset((plan.map_date, plan.query_date)): plan.footprint_m for plan in plans}
    jobs = []
    for dates, footprint_m in wanted.items():
        key = key_of(code_hash(baseline_code()), place.sha256, sorted(dates), footprint_m, fold, seed)
        file = CACHE / "likelihoods" / f"{key}.npy"
        jobs.append((place, dates, footprint_m, fold, seed, file))
    missing = [job for job in jobs if not job[-1].exists()]
    if missing:
        with one_core_pool(processes) as pool:
            list(tqdm(pool.map(_calibrate_one, missing), total=len(missing), desc="ncc likelihoods", disable=None))
    for _, dates, *_, file in jobs:
        found[dates] = ScoreLikelihood(np.load(file))
    return found


def build_indexes(place: Place, footprint_m: float, bundle: Bundle, *, georef_sigma_m: float) -> dict[str, Path]:
    """An index of each date that serves as a map; cached by the runtime's code, the bundle and the raster."""
    paths = {}
    for date in sorted({pair[0] for pair in place.pairs}):
        raster = place.rasters[date]
        key = key_of(code_hash(product_code()), bundle.sha256, raster.sha256, footprint_m, georef_sigma_m)
        paths[date] = CACHE / "indexes" / f"{place.name}-{date}-{key}.kwmap"
        if not paths[date].exists():
            paths[date].parent.mkdir(parents=True, exist_ok=True)
            build_index(
                [raster.path],
                paths[date],
                footprint_m=footprint_m,
                bundle=bundle,
                grid_crs=raster.crs,
                imagery_date=date,
                source="NAIP",
                georef_sigma_m=georef_sigma_m,
            ).close()
    return paths


def key_of(*parts: Any) -> str:
    """16 hex digits of the hash of the parts' repr."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def code_hash(files: Iterable[Path]) -> str:
    """One hash of the text of several files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def baseline_code() -> list[Path]:
    """What decides the baseline's tracks."""
    return [HERE / name for name in ("flights.py", "baselines/ncc.py")]


def product_code() -> list[Path]:
    """What decides the product's tracks: the protocol and the whole runtime."""
    return [HERE / "flights.py", *sorted(RUNTIME.rglob("*.py"))]


_method: Method | None = None


def _settle(cores: Queue[int], prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    """Hold this process to one core, then prepare it for its work."""
    number = cores.get()
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[number % len(usable)]})
    if prepare is not None:
        prepare(*args)


def _be(method: Method) -> None:
    global _method
    _method = method


def _fly_one(plan: FlightPlan) -> Track:
    assert _method is not None
    return _method(plan)


def _calibrate_one(job: tuple[Place, frozenset[str], float, int, int, Path]) -> None:
    place, dates, footprint_m, fold, seed, file = job
    others = tuple(date for date in place.rasters if date not in dates)
    pairs = [(place.rasters[a], place.rasters[b]) for a, b in year_pairs(others)]
    rng = np.random.default_rng([seed, *(int(date.replace("-", "")) for date in sorted(dates))])
    likelihood = calibrate(pairs, footprint_m, rng, fold)
    _replace(file, lambda path: np.save(path, likelihood.table))


@lru_cache(maxsize=16)
def _open_index(path: Path) -> MapIndex:
    return MapIndex.open(path)


@lru_cache(maxsize=1)
def _open_model(bundle_root: Path) -> Any:
    return open_engine(Bundle.open(bundle_root), device="cpu", threads=1)


def _track(plan: FlightPlan, *columns: Sequence[float]) -> Track:
    errors, states, radii, sigmas, seconds = (np.array(column) for column in columns)
    return Track((plan.map_date, plan.query_date), errors, states.astype(bool), radii, sigmas, seconds)


def _save(file: Path, tracks: Sequence[Track]) -> None:
    columns: dict[str, Any] = {name: np.stack([getattr(track, name) for track in tracks]) for name in _COLUMNS}
    pairs = np.array([track.pair for track in tracks])
    _replace(file, lambda path: np.savez(path, pair=pairs, **columns))


def _load(file: Path) -> list[Track]:
    with np.load(file) as saved:
        arrays = {name: saved[name] for name in ("pair", *_COLUMNS)}
    return [
        Track(cast("tuple[str, str]", tuple(str(date) for date in pair)), *(arrays[name][i] for name in _COLUMNS))
        for i, pair in enumerate(arrays["pair"])
    ]


_COLUMNS = ("error_m", "converged", "radius95_m", "sigma_m", "seconds")


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a cache file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"partial-{os.getpid()}-{file.name}")
    write(partial)
    os.replace(partial, file)
