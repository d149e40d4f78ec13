"""Measures localization: `python benchmarks/localization.py`, or `make bench-localization`.

Each row of `ROWS` is one function that returns figures; what it has flown is kept in `benchmarks/.cache`, so
a run that was stopped goes on where it was, and only what changed is measured again. The figures go to
`benchmarks/results/localization.json` and `.md`, row by row. `QUICK=1` flies a few flights in minutes and
writes `localization.quick.*` instead.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
from baselines.ncc import NccMap, single_frame_recall
from flights import Place, data_dir, load_north_dakota, plan_flight, read_grey
from registration import register
from results import RESULTS_DIR, Figure, command_line, write_results
from runs import (
    CACHE,
    Ncc,
    Product,
    baseline_code,
    build_indexes,
    calibrations,
    code_hash,
    fly_all,
    key_of,
    product_code,
)
from scoring import (
    Track,
    bootstrap,
    converged_pct,
    false_count,
    false_interval,
    inside95_pct,
    mean_updates,
    median_error_m,
    right_pct,
    sigma_ratio,
    worst_pair_inside95_pct,
)
from timing import build_seconds, open_seconds, update_seconds, world_map
from tqdm import tqdm

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.errors import KittiwakeError
from kittiwake_runtime.localization.map_build import find_bundle

SEED = 20261123
NCC_FLIGHTS = 60
ND_GEOREF_SIGMA_M = 1.0
WORLD_SEED = 7
WORLD_SIDE_M = (4670.0, 3615.0)
"""As large as the North Dakota maps, so that single-frame recall has as many wrong places."""
OPENINGS = 5


@dataclass(frozen=True)
class Run:
    """One invocation: how much to fly, with what.

    Attributes:
        quick: a few flights of each kind, written to files of their own.
        flights: of the product, a row; None for the row's own number.
        processes: to fly in.
        bundle_path: of the model under test; None takes the installed one.
    """

    quick: bool
    flights: int | None
    processes: int
    bundle_path: str | None

    @property
    def name(self) -> str:
        """Stem of the result files."""
        return "localization.quick" if self.quick else "localization"

    def count(self, full: int, quick: int) -> int:
        """How many flights of the product a row flies."""
        return self.flights or (quick if self.quick else full)

    @cached_property
    def bundle(self) -> Bundle:
        """The model under test."""
        return find_bundle(self.bundle_path)

    @cached_property
    def north_dakota(self) -> Place:
        """The place of the nd rows."""
        return load_north_dakota(data_dir())


@dataclass(frozen=True)
class Row:
    """What is measured under one prefix of ids, and what it is about, for --help."""

    measure: Callable[[Run], list[Figure]]
    about: str


@dataclass(frozen=True)
class Statistic:
    """A figure of a set of tracks."""

    of: Callable[[Sequence[Track]], float]
    unit: str
    bar: str | None = None
    note: str = ""
    of_baseline: bool = True


ND160 = {
    "converged": Statistic(converged_pct, "%", ">= 99.5"),
    "right": Statistic(right_pct, "%", note="declared, and less than 90 m off when declared"),
    "updates": Statistic(mean_updates, "", "<= 6", "up to the declaration; never counts as 50"),
    "false": Statistic(false_count, "flights", "0", "converged and more than 90 m off at any update"),
    "error_m": Statistic(median_error_m, "m", "<= 4", "median, all updates from the declaration on"),
    "inside95": Statistic(
        worst_pair_inside95_pct, "%", "90 - 98", "the pair of dates farthest from 95 %", of_baseline=False
    ),
    "sigma_ratio": Statistic(sigma_ratio, "x", "<= 2", "median published sigma over median error", of_baseline=False),
}


def measure_nd160(run: Run) -> list[Figure]:
    """North Dakota at 160 m: the product, the baseline on the first of the same flights, the registration."""
    place = run.north_dakota
    rivals = {fold: fly_ncc(run, place, 160.0, fold) for fold in (1, 2)}
    ours = fly_product(run, place, 160.0, run.count(400, 20))
    figures = flight_figures("nd160", ND160, ours, place, f"bundle {run.bundle.sha256[:16]}", rivals[1])
    for fold, suffix in ((1, ".ncc"), (2, ".ncc_fold2")):
        key = f"key {ncc_key(place, 160.0, fold)}"
        figures += flight_figures("nd160", ND160, rivals[fold], place, key, suffix=suffix)
    figures.append(
        Figure("nd160.inside95_all", inside95_pct(ours), "%", len(ours), data=f"{place.name} {place.sha256[:16]}")
    )
    return [*figures, *update_times("nd160", ours, rivals[1]), registration_figure("nd160", place)]


def measure_index(run: Run) -> list[Figure]:
    """An index of 100 km² from a 5 m GeoTIFF: seconds to build, size, seconds to open."""
    source, out = world_map(WORLD_SEED, "summer"), hundred_km2(run)
    built_s = build_seconds(source, out, 160.0, run.bundle.root)
    opened = [open_seconds(out) for _ in range(OPENINGS)]
    data = f"procedural world, seed {WORLD_SEED}, 10 x 10 km at 5 m; bundle {run.bundle.sha256[:16]}"
    return [
        Figure("index.build_100km2_s", built_s, "s", 1, bar="<= 60", data=data, note="2 cores"),
        Figure("index.size_100km2_mb", out.stat().st_size / 1e6, "MB", 1, bar="<= 70", data=data),
        Figure(
            "index.open_s",
            median(opened),
            "s",
            OPENINGS,
            (min(opened), max(opened)),
            "<= 0.2",
            data=data,
            note="fresh processes; the interval is the range",
        ),
    ]


def measure_speed(run: Run) -> list[Figure]:
    """The first updates from a uniform belief on 100 km², from a patch in memory to the fix."""
    index = hundred_km2(run)
    if not index.exists():
        build_seconds(world_map(WORLD_SEED, "summer"), index, 160.0, run.bundle.root)
    seconds = update_seconds(index, run.bundle.root, world_map(WORLD_SEED, "autumn"), SEED)
    return [
        Figure(
            "speed.update_100km2_s",
            median(seconds),
            "s",
            len(seconds),
            (min(seconds), max(seconds)),
            "<= 0.2",
            data=f"procedural world, seed {WORLD_SEED}; bundle {run.bundle.sha256[:16]}",
            note="2 threads, 36 headings, first five updates of five flights; the interval is the range, "
            "its high end the first touch of the file",
        )
    ]


def measure_world(run: Run) -> list[Figure]:
    """Is the procedural world as hard as the real one? Grey correlation across seasons, and NCC's recall."""
    summer, winter = (read_grey(world_map(WORLD_SEED, season, WORLD_SIDE_M)) for season in ("summer", "winter"))
    correlation = float(np.corrcoef(summer.grey.ravel(), winter.grey.ravel())[0, 1])
    views = run.count(200, 40)
    made = Place("world", {"summer": summer, "winter": winter}, (("summer", "winter"),))
    world_recall, real_recall = (recall(place, views) for place in (made, run.north_dakota))
    data = f"procedural world, seed {WORLD_SEED}, {summer.sha256[:16]}, 16.9 km2 at 5 m"
    return [
        Figure("world.grey_correlation_snow", correlation, "", bar="0.05 - 0.45", data=data),
        Figure(
            "world.ncc_recall160",
            world_recall,
            "%",
            views,
            bar="<= 15",
            baseline=real_recall,
            data=data,
            note="summer map, snow view, within 60 m; the baseline is the same on North Dakota's pairs",
        ),
    ]


ROWS: dict[str, Row] = {
    "nd160": Row(measure_nd160, "North Dakota, 160 m footprint, years at least 5 apart; product and NCC"),
    "index": Row(measure_index, "index of 100 km2: build, size, open"),
    "speed": Row(measure_speed, "seconds an update on 100 km2 from a uniform belief"),
    "world": Row(measure_world, "how hard the procedural world is"),
}


def fly_product(run: Run, place: Place, footprint_m: float, flights: int) -> list[Track]:
    """The product on the first `flights` flights over a place."""
    indexes = build_indexes(place, footprint_m, run.bundle, georef_sigma_m=ND_GEOREF_SIGMA_M)
    plans = [
        plan_flight(place.pairs, index=i, footprint_m=footprint_m, area=place.common_area, seed=SEED)
        for i in range(flights)
    ]
    key = key_of(code_hash(product_code()), run.bundle.sha256, place.sha256, footprint_m, SEED)
    method = Product(place, indexes, run.bundle.root)
    return fly_all(method, plans, key=key, processes=run.processes, title=f"{place.name} {footprint_m:g} m")


def fly_ncc(run: Run, place: Place, footprint_m: float, fold: int) -> list[Track]:
    """The baseline on the first of the same flights."""
    plans = [
        plan_flight(place.pairs, index=i, footprint_m=footprint_m, area=place.common_area, seed=SEED)
        for i in range(4 if run.quick else NCC_FLIGHTS)
    ]
    likelihoods = calibrations(place, plans, fold=fold, seed=SEED, processes=run.processes)
    return fly_all(
        Ncc(place, likelihoods, fold),
        plans,
        key=ncc_key(place, footprint_m, fold),
        processes=run.processes,
        title=f"{place.name} {footprint_m:g} m, ncc fold {fold}",
    )


def ncc_key(place: Place, footprint_m: float, fold: int) -> str:
    """Hash of the baseline's code, data and seed: its tracks are flown once for each."""
    return key_of(code_hash(baseline_code()), place.sha256, footprint_m, fold, SEED)


def flight_figures(
    prefix: str,
    statistics: dict[str, Statistic],
    tracks: list[Track],
    place: Place,
    made_by: str,
    baseline: list[Track] | None = None,
    suffix: str = "",
) -> list[Figure]:
    """A figure for each statistic, as ``<prefix>.<name><suffix>``; a baseline's own have no `baseline`, no bar."""
    figures = []
    for name, statistic in statistics.items():
        if baseline is None and not statistic.of_baseline:
            continue
        value, note = statistic.of(tracks), statistic.note
        interval = bootstrap(tracks, statistic.of, seed=SEED)
        if statistic.of is false_count:
            interval = false_interval(tracks, seed=SEED)
            note = f"{note}; {value:g} of {len(tracks)}, " + (
                f"95 % bound {300 / len(tracks):.2g} %" if value == 0 else f"{100 * value / len(tracks):.2g} %"
            )
        figures.append(
            Figure(
                f"{prefix}.{name}{suffix}",
                _known(value),
                statistic.unit,
                len(tracks),
                interval,
                statistic.bar if baseline is not None else None,
                _known(statistic.of(baseline)) if baseline and statistic.of_baseline else None,
                f"{place.name} {place.sha256[:16]}, {made_by}",
                note,
            )
        )
    return figures


def update_times(prefix: str, ours: list[Track], ncc: list[Track]) -> list[Figure]:
    """Median seconds an update of both methods while flying, one thread each."""
    ours_s, ncc_s = (float(np.median(np.concatenate([t.seconds for t in tracks]))) for tracks in (ours, ncc))
    note = "median, one thread, as many processes beside each other as cores"
    return [Figure(f"{prefix}.update_s", ours_s, "s", len(ours), baseline=ncc_s, note=note)]


def registration_figure(prefix: str, place: Place) -> Figure:
    """How far the dates of the flown pairs lie apart, by phase correlation."""
    flown = [pair for pair in combinations(sorted(place.rasters), 2) if pair in place.pairs]
    residuals = [register(place.rasters[a], place.rasters[b]).residual_m for a, b in flown]
    return Figure(
        f"{prefix}.registration_m",
        median(residuals),
        "m",
        len(residuals),
        (min(residuals), max(residuals)),
        data=f"{place.name} {place.sha256[:16]}",
        note="median over pairs of dates; the interval is the range",
    )


def recall(place: Place, views: int) -> float:
    """NCC's single-frame recall at 160 m, per cent, the views spread over the place's pairs."""
    rng = np.random.default_rng(SEED)
    shares = []
    for pair in tqdm(place.pairs, desc=f"recall, {place.name}", disable=None):
        ncc_map, seen = NccMap(place.rasters[pair[0]], 160.0), place.rasters[pair[1]]
        plans = [
            plan_flight((pair,), index=i, footprint_m=160.0, area=place.common_area, seed=SEED)
            for i in range(max(1, views // len(place.pairs)))
        ]
        poses = np.array([plan.poses[0] for plan in plans])
        shares.append(single_frame_recall(ncc_map, seen, poses, rng))
    return float(np.mean(shares))


def hundred_km2(run: Run) -> Path:
    """Where the index of 100 km² lies, for this state of the code and this bundle."""
    key = key_of(code_hash(product_code()), run.bundle.sha256)
    path = CACHE / "indexes" / f"world-100km2-{key}.kwmap"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def main() -> int:
    """Measure the rows that were asked for; 1 if one of them could not be."""
    options = parse_options()
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    run = Run(quick, options.flights, options.processes, options.bundle)
    failed = 0
    for name in options.rows:
        try:
            figures = ROWS[name].measure(run)
        except (KittiwakeError, FileNotFoundError) as error:
            hint = getattr(error, "hint", "")
            print(f"{name}: {error}" + (f" ({hint})" if hint else ""), file=sys.stderr)
            failed += 1
            continue
        path = write_results(run.name, figures, command=command_line(), seed=SEED, directory=RESULTS_DIR)
        for figure in figures:
            print(f"{figure.id:32} {figure.value if figure.value is not None else '-':>10.5} {figure.unit}")
    if failed < len(options.rows):
        print(f"wrote {path} and {path.with_suffix('.md').name}")
    return 1 if failed else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:8} {row.about}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"rows:\n{about}\n\nenvironment: KITTIWAKE_DATA (real data), KITTIWAKE_MODELS (bundles), QUICK=1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=_rows, default=list(ROWS), metavar="A,B", help="rows to measure (all)")
    parser.add_argument("--flights", type=int, metavar="N", help="of the product in each row (its own number)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="one core each (2)")
    parser.add_argument("--bundle", metavar="PATH", help="bundle's folder or name (the one installed)")
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return names


def _known(value: float) -> float | None:
    """JSON has no NaN: a figure that could not be measured is null."""
    return float(value) if np.isfinite(value) else None


if __name__ == "__main__":
    sys.exit(main())
