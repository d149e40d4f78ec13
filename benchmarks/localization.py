"""Measures localization: `python benchmarks/localization.py`, or `make bench-localization`.

Each row of `ROWS` is one function that returns figures; what it has flown and what it found is kept in
`benchmarks/.cache`, so a run that was stopped goes on where it was, and only what changed is measured again
(`--again` takes no row's figures from there). The figures go to `benchmarks/results/localization.json` and `.md`, row
by row. `QUICK=1` flies a few flights over small grounds in minutes and writes `localization.quick.*` instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from by_rows import Row, is_quick, measure_rows, parser_of
from results import RESULTS_DIR, Figure, figure_of, usable_cores, write_atomically
from rows import drone, growth, north_dakota, recall, seasons, speed, trust
from rows.run import SEED, Run
from runs import CACHE, HERE, code_hash, key_of, product_code

DOCS = HERE.parent / "docs"


ROWS: dict[str, Row[Run]] = {
    "nd160": Row(north_dakota.measure_nd160, "North Dakota, 160 m footprint, years at least 5 apart; product and NCC"),
    "nd320": Row(north_dakota.measure_nd320, "the same at 320 m"),
    "nd100": Row(north_dakota.measure_nd100, "the same at 100 m"),
    "rough": Row(north_dakota.measure_rough, "at 160 m, scale, tilt and height a little wrong"),
    "height": Row(north_dakota.measure_unknown, "at 160 m, height above take-off only"),
    "tuned": Row(north_dakota.measure_tuned, "a fine-tuned model in the half that it has not seen (--tuned-bundle)"),
    "baviaans": Row(seasons.measure_baviaans, "aerial over Sentinel-2, 108.5 km2"),
    "snow": Row(seasons.measure_snow, "snow over a summer map, procedural, 100 km2"),
    "realsnow": Row(recall.measure_realsnow, "real snow against summer, one frame"),
    "pairs": Row(recall.measure_pairs, "pictures of other places and seasons, one frame"),
    "drone": Row(drone.measure_drone, "thirty real drone photos"),
    "kidnap": Row(trust.measure_kidnap, "moved away once converged"),
    "offmap": Row(trust.measure_offmap, "over another place; from outside into the map"),
    "world": Row(seasons.measure_world, "how hard the procedural world is"),
    "index": Row(speed.measure_index, "index of 100 km2: build, size, open"),
    "speed": Row(speed.measure_speed, "seconds an update on 100 km2, beside a plain product and NCC"),
    "speed1000": Row(speed.measure_thousand, "seconds an update and memory on 1,000 km2"),
    "growth": Row(growth.measure_growth, "against map area and footprint; writes docs/localization-growth.md"),
}
ALL = "all"
"""The last row: false convergences over all the others, as far as they were measured."""


def main() -> int:
    """Measure the rows that were asked for; 1 if one of them could not be."""
    options = parse_options()
    run = Run(is_quick(), options.flights, options.processes, options.bundle, options.tuned_bundle)

    def measure(name: str) -> list[Figure]:
        return _all(run) if name == ALL else _figures(run, name, options.again)

    status = measure_rows(options, measure, benchmark=run.name, seed=SEED)
    if "growth" in options.rows and not options.merge:
        _write_growth(run, options.output / f"{run.name}.json")
    return status


def parse_options() -> argparse.Namespace:
    """The command line."""
    about = {name: row.about for name, row in ROWS.items()}
    about[ALL] = "false convergences over all rows that were measured"
    more = "\nenvironment: KITTIWAKE_DATA (real data), KITTIWAKE_MODELS (bundles), QUICK=1"
    parser = parser_of(__doc__, about, list(about), more)
    parser.add_argument("--again", action="store_true", help="measure rows again that have their figures")
    parser.add_argument("--flights", type=int, metavar="N", help="of the product in each row (its own number)")
    parser.add_argument("--processes", type=int, default=usable_cores(), metavar="N", help="one core each (every core)")
    parser.add_argument("--bundle", metavar="PATH", help="bundle's folder or name (the one installed)")
    parser.add_argument("--tuned-bundle", metavar="PATH", help="for row tuned: trained on the western half of the map")
    return parser.parse_args()


def _figures(run: Run, name: str, again: bool) -> list[Figure]:
    """A row's figures: from the cache, or measured and put there."""
    file = _cache_file(run, name)
    if again or not file.exists():
        figures = ROWS[name].measure(run)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps([asdict(figure) for figure in figures]))
        return figures
    return _read(file)


def _all(run: Run) -> list[Figure]:
    """The last row, from the figures that this code has measured."""
    files = {name: _cache_file(run, name) for name in ROWS}
    measured = [figure for file in files.values() if file.exists() for figure in _read(file)]
    return trust.measure_all(measured, [name for name, file in files.items() if not file.exists()])


def _cache_file(run: Run, name: str) -> Path:
    """Where a row's figures lie, for this state of the code and of what was asked for."""
    ours = sorted(path for path in HERE.rglob("*.py"))
    return CACHE / "rows" / f"{name}-{key_of(code_hash(ours), code_hash(product_code()), run.key)}.json"


def _read(file: Path) -> list[Figure]:
    return [figure_of(fields) for fields in json.loads(file.read_text(encoding="utf-8"))]


def _write_growth(run: Run, results: Path) -> None:
    """The page of the growth, from the results; a quick run's lies beside its figures."""
    if run.quick:
        growth.write_page(results, RESULTS_DIR / "growth.quick.md", RESULTS_DIR / "growth.quick.png")
    else:
        growth.write_page(results, DOCS / "localization-growth.md", DOCS / "images" / "localization-growth.png")


if __name__ == "__main__":
    sys.exit(main())
