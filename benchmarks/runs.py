"""Flies the planned flights with one method or another, on several cores, and remembers what was flown.

`fly_all` spreads the plans over processes of one core each and keeps finished batches in a cache folder under a
key of everything that decides them, so that an interrupted benchmark goes on where it was. The baseline's are kept
with the project, in `baselines/flown`: they change with its code and the data alone, and take an hour to fly.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context, parent_process
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, cast

import numpy as np
from baselines.ncc import ScoreLikelihood, calibrate
from flights import FlightPlan
from places import Place, Raster
from scoring import Track
from tqdm import tqdm

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.localization.map_build import build_index

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".cache"
RUNTIME = HERE.parent / "runtime" / "kittiwake_runtime"
FLOWN = HERE / "baselines" / "flown"
BATCH = 20
Fly = Callable[[FlightPlan], Track]


def fly_all(
    make: Callable[[], Fly],
    plans: Sequence[FlightPlan],
    *,
    key: str,
    processes: int,
    title: str,
    folder: Path | None = None,
) -> list[Track]:
    """The tracks of all plans, in their order; finished batches come from the cache.

    Args:
        make: gives the journey, once there is something to fly; it is picklable and is sent to each process once.
        key: of everything besides the plans' numbers that decides the tracks (`key_of`).
        processes: how many, each on one core and one thread.
        title: of the progress bar.
        folder: of the finished batches; in the cache when None.
    """
    folder = folder or CACHE / "tracks"
    batches = [plans[first : first + BATCH] for first in range(0, len(plans), BATCH)]
    files = [folder / f"{key}-{batch[0].index:04d}-{batch[-1].index:04d}.npz" for batch in batches]
    tracks: list[Track] = []
    with ExitStack() as stack, tqdm(total=len(plans), desc=title, unit="flight", disable=None) as bar:
        flying: dict[Path, list[Future[Track]]] = {}
        todo = [(file, batch) for file, batch in zip(files, batches, strict=True) if not file.exists()]
        if todo:
            pool = stack.enter_context(one_core_pool(processes, _be, make()))
            flying = {file: [pool.submit(_fly_one, plan) for plan in batch] for file, batch in todo}
            stack.callback(lambda: [future.cancel() for batch in flying.values() for future in batch])
        for file, batch in zip(files, batches, strict=True):
            if file in flying:
                done = []
                for future in flying[file]:
                    done.append(future.result())
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


Dates = frozenset[str]
Examples = Sequence[tuple[Raster, Raster]]


def calibrations(
    examples: dict[Dates, Examples], footprint_m: float, *, fold: int, seed: int, processes: int
) -> dict[Dates, ScoreLikelihood]:
    """The baseline's likelihood for each two dates that are flown, learned on other ground or dates; cached.

    Args:
        examples: for each two dates, the (map, seen) rasters to learn on.
    """
    jobs: dict[Dates, tuple[Examples, list[int], float, int, Path]] = {}
    for dates, pairs in examples.items():
        hashes = [(a.sha256, b.sha256) for a, b in pairs]
        key = key_of(code_hash(baseline_code()), hashes, sorted(dates), footprint_m, fold, seed)
        entropy = [seed, int(key[:8], 16)]
        jobs[dates] = (pairs, entropy, footprint_m, fold, CACHE / "likelihoods" / f"{key}.npy")
    missing = [job for job in jobs.values() if not job[-1].exists()]
    if missing:
        with one_core_pool(processes) as pool:
            list(tqdm(pool.map(_calibrate_one, missing), total=len(missing), desc="ncc likelihoods", disable=None))
    return {dates: ScoreLikelihood(np.load(job[-1])) for dates, job in jobs.items()}


def build_indexes(place: Place, dates: Iterable[str], footprint_m: float, bundle: Bundle) -> dict[str, Path]:
    """An index of each of these dates; cached by the runtime's code, the bundle and the raster."""
    paths = {}
    for date in sorted(set(dates)):
        raster = place.rasters[date]
        key = key_of(code_hash(product_code()), bundle.sha256, raster.sha256, footprint_m, place.georef_sigma_m)
        paths[date] = CACHE / "indexes" / f"{place.name}-{date}-{key}.kwmap"
        if not paths[date].exists():
            paths[date].parent.mkdir(parents=True, exist_ok=True)
            build_index(
                [raster.path],
                paths[date],
                footprint_m=footprint_m,
                bundle=bundle,
                grid_crs=raster.crs,
                imagery_date=day_of(date),
                source=f"{place.name}, {date}",
                georef_sigma_m=place.georef_sigma_m,
            ).close()
    return paths


def day_of(date: str) -> str | None:
    """A place's date as a day; None when it is the season of a made-up world."""
    return date if date[:1].isdigit() else None


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
    return [*_protocol_code(), HERE / "baselines" / "ncc.py", HERE / "baselines" / "pilot.py"]


def product_code() -> list[Path]:
    """What decides the product's indexes and tracks: the protocol, the engines and the localizer."""
    inside = [path for path in RUNTIME.rglob("*") if path.suffix in (".py", ".onnx")]
    parts = {"bundle.py", "engines", "localization"}
    ours = sorted(path for path in inside if path.relative_to(RUNTIME).parts[0] in parts)
    return [*_protocol_code(), HERE / "pilots.py", *ours]


def _protocol_code() -> list[Path]:
    return [HERE / name for name in ("places.py", "flights.py", "observation.py", "journeys.py")]


_method: Fly | None = None


def _settle(cores: Queue[int], prepare: Callable[..., None] | None, args: tuple[Any, ...]) -> None:
    """Hold this process to one core and to its parent's life, then prepare it for its work."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    number = cores.get()
    if hasattr(os, "sched_setaffinity"):
        usable = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {usable[number % len(usable)]})
    if prepare is not None:
        prepare(*args)


def _end_with_parent() -> None:
    """A parent that is killed leaves its processes waiting for work, and all that they hold in memory."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _be(method: Fly) -> None:
    global _method
    _method = method


def _fly_one(plan: FlightPlan) -> Track:
    assert _method is not None
    return _method(plan)


def _calibrate_one(job: tuple[Examples, list[int], float, int, Path]) -> None:
    pairs, entropy, footprint_m, fold, file = job
    likelihood = calibrate(pairs, footprint_m, np.random.default_rng(entropy), fold)
    _replace(file, lambda path: np.save(path, likelihood.table))


def _save(file: Path, tracks: Sequence[Track]) -> None:
    columns: dict[str, Any] = {name: np.stack([getattr(track, name) for track in tracks]) for name in _COLUMNS}
    pairs = np.array([track.pair for track in tracks])
    _replace(file, lambda path: np.savez_compressed(path, pair=pairs, **columns))


def _load(file: Path) -> list[Track]:
    with np.load(file) as saved:
        arrays = {name: saved[name] for name in ("pair", *_COLUMNS)}
    return [
        Track(cast("tuple[str, str]", tuple(str(date) for date in pair)), *(arrays[name][i] for name in _COLUMNS))
        for i, pair in enumerate(arrays["pair"])
    ]


_COLUMNS = ("off_m", "converged", "radius95_m", "sigma_m", "seconds", "event")


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write a cache file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"partial-{os.getpid()}-{file.name}")
    write(partial)
    os.replace(partial, file)
