"""A pruned descriptor against the dense one: seconds and recall of both in int8, and updates in flight."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray
from results import Figure
from runs import CACHE, key_of
from scoring import Track, by_pair, mean_updates

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.base import Engine
from kittiwake_runtime.engines.select import open_engine
from kittiwake_training.localization.task import DescriptorTask
from kittiwake_training.pruning.rounds import CONFIG, POINTS
from kittiwake_training.pruning.tradeoff import Point, draw_curves
from rows.courses import Course, fly_product
from rows.run import SEED, Run, of_bundle

QUERIES = 144
"""Of each held-out place at each of two distances of samples: 10,656 over 37 places."""
TURNS = 30
VIEWS = 36
RESAMPLES = 2000
FLIGHTS = 120
FIGURE = "recall_3_cells"


@dataclass(frozen=True)
class Hits:
    """What single queries gave: values (N,) of 0 or 100, groups (N,) places."""

    values: NDArray[np.float64]
    groups: NDArray[np.int64]


def compare(
    prefix: str, dense: Path, pruned: Sequence[Path], data: Path, bars: tuple[str, str], quick: bool
) -> list[Figure]:
    """Speed-up and loss of recall; each pruned bundle is of another seed.

    Args:
        prefix: of the ids.
        dense: a bundle with an int8 variant.
        pruned: bundles with one, of at least three seeds for an interval over these.
        data: prepared places.
        bars: of speed-up and drop.
        quick: a few queries only.
    """
    before, after = Bundle.open(dense), [Bundle.open(path) for path in pruned]
    ratios = [_speedup(before, bundle, 3 if quick else TURNS) for bundle in after]
    queries = 2 if quick else QUERIES
    reference = hits(before, data, queries)
    found = [hits(bundle, data, queries) for bundle in after]
    drops = [float((reference.values - each.values).mean()) for each in found]
    names = f"{of_bundle(before)} against {', '.join(of_bundle(bundle) for bundle in after)}"
    seeds = f"{len(after)} seed{'s' * (len(after) > 1)}"
    recalls = ", ".join(f"{each.values.mean():.2f}" for each in found)
    return [
        Figure(f"{prefix}.speedup_int8", median(ratios), "x", len(ratios), (min(ratios), max(ratios)), bars[0],
               data=names, note=f"{VIEWS} views, 1 thread, both int8, median of {TURNS} turns; {seeds}, whose range "
               "the interval is"),
        Figure(f"{prefix}.recall_drop", float(np.mean(drops)), "%", len(reference.values), _interval(reference, found),
               bars[1], float(reference.values.mean()), names,
               f"points of {FIGURE}, paired queries, both int8; recall {recalls} %; {seeds}; the interval draws "
               "places and seeds anew; baseline: the dense one's recall"),
    ]  # fmt: skip


def measure_curve(runs: Sequence[Path], picture: Path) -> list[Figure]:
    """The trade-off of several pruning runs, by importance measure: figures, and a picture."""
    figures: list[Figure] = []
    curves: dict[str, list[tuple[float, float]]] = {}
    total = 0
    for folder in runs:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        points = [Point(**entry) for entry in json.loads((folder / POINTS).read_text(encoding="utf-8"))]
        backend = next((name for name in points[0].latency_s if config["backend"] in name), "")
        name = config["importance"]
        label = name if name not in curves else f"{name} ({folder.name})"
        curves[label] = []
        total += len(points)
        for number, point in enumerate(points):
            cost = 1e3 * point.latency_s[backend] if backend else point.flops / 1e9
            curves[label].append((cost, point.value(FIGURE)))
            n = next((m["n"] for m in point.metrics if m["name"] == FIGURE), None)
            figures.append(
                Figure(f"descriptor.curve.{label}.{number}", point.value(FIGURE), "%", n, data=folder.name,
                       note=f"{FIGURE} in float32; {cost:.3g} {'ms predicted, ' + backend if backend else 'GFLOP'}; "
                       f"{point.parameters:,.0f} parameters; {point.label}")
            )  # fmt: skip
    cost = "predicted latency, ms" if any(curves.values()) and backend else "GFLOP"
    draw_curves(curves, cost, f"{FIGURE}, %", picture)
    fewest = min((len(points) for points in curves.values()), default=0)
    summary = Figure("descriptor.curve", fewest, "", total, None, ">= 5",
                     note=f"points of each importance measure: {', '.join(curves)}; {picture.name}")  # fmt: skip
    return [summary, *figures]


def measure_flight(dense: Path, pruned: Path, quick: bool, processes: int) -> list[Figure]:
    """Updates up to convergence over North Dakota, with the pruned over with the dense descriptor."""
    count = 4 if quick else FLIGHTS
    tracks = []
    for path in (dense, pruned):
        run = Run(quick, bundle_path=str(path), processes=processes)
        tracks.append((run, fly_product(run, Course(run.north_dakota, 160.0), count, f"flights, {path.name}")))
    (before, slow), (after, fast) = tracks
    ratio = mean_updates(fast) / mean_updates(slow)
    note = f"{mean_updates(fast):.2f} updates against {mean_updates(slow):.2f} on the same flights; the interval draws "
    return [
        Figure("flight.updates_ratio", ratio, "x", count, _ratio_interval(slow, fast), "<= 1.05", 1.0,
               f"{of_bundle(after.bundle)} against {of_bundle(before.bundle)}", note + "pairs of dates anew")
    ]  # fmt: skip


def hits(bundle: Bundle, data: Path, queries: int) -> Hits:
    """What a bundle's int8 network finds on this machine's CPU; kept by bundle, data and number."""
    places = sorted((path.name, path.stat().st_size) for path in data.glob("*.npz"))
    file = CACHE / "recall" / f"{key_of(bundle.sha256, places, queries, 'int8')}.npz"
    if not file.exists():
        with open_engine(bundle, device="cpu", precision="int8", policy="require", threads=1) as engine:
            trial = DescriptorTask(bundle.inputs, queries).trial(engine.infer, data)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with partial.open("wb") as stream:
            np.savez_compressed(stream, values=trial.values, groups=trial.groups)
        partial.replace(file)
    with np.load(file) as saved:
        return Hits(saved["values"], saved["groups"])


def _speedup(dense: Bundle, pruned: Bundle, turns: int) -> float:
    """Median time of the dense over that of the pruned, in turns."""
    views = {"view": np.random.default_rng(0).random((VIEWS, 2, 33, 33), np.float32)}
    with (
        open_engine(dense, device="cpu", precision="int8", policy="require", threads=1) as slow,
        open_engine(pruned, device="cpu", precision="int8", policy="require", threads=1) as fast,
    ):
        pairs = [(_seconds(slow, views), _seconds(fast, views)) for _ in range(turns + 2)][2:]
    return median(a for a, _ in pairs) / median(b for _, b in pairs)


def _seconds(engine: Engine, views: dict[str, NDArray[np.float32]]) -> float:
    started = time.perf_counter()
    engine.infer(views)
    return time.perf_counter() - started


def _interval(reference: Hits, found: Sequence[Hits]) -> tuple[float, float]:
    """95 % of the mean drop: places are drawn anew with all their queries, and seeds."""
    _, index = np.unique(reference.groups, return_inverse=True)
    counts = np.bincount(index)
    sums = np.array([np.bincount(index, reference.values - each.values) for each in found])
    rng = np.random.default_rng(SEED)
    draws = []
    for _ in range(RESAMPLES):
        places, seeds = rng.integers(len(counts), size=len(counts)), rng.integers(len(found), size=len(found))
        draws.append(sums[seeds][:, places].sum() / (counts[places].sum() * len(seeds)))
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _ratio_interval(slow: Sequence[Track], fast: Sequence[Track]) -> tuple[float, float] | None:
    groups = list(zip(by_pair(slow), by_pair(fast), strict=True))
    if len(groups) < 2:
        return None
    rng, ratios = np.random.default_rng(SEED), []
    for _ in range(RESAMPLES):
        chosen = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        before, after = ([track for pair in chosen for track in pair[side]] for side in (0, 1))
        ratios.append(mean_updates(after) / mean_updates(before))
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)
