"""Measures pruning: `python benchmarks/pruning.py`, or `make bench-pruning`.

What needs pruned networks is given by option: bundles that `kittiwake export` made of `kittiwake prune`'s checkpoints,
with int8, and the folders of pruning runs. Rows without theirs are skipped with the reason, and what was measured
earlier stays. The figures go to `benchmarks/results/pruning.json` and `.md`, row by row. `QUICK=1` measures little, and
writes `pruning.quick.*` instead.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from by_rows import Row, Skipped, is_quick, measure_rows, parser_of
from results import RESULTS_DIR, Figure, usable_cores
from rows.run import SEED

PICTURE = RESULTS_DIR.parent.parent / "docs" / "images" / "pruning.png"
DESCRIPTOR_BARS = (">= 2", "<= 1")
LITE0_BARS = (">= 3", "<= 1")


def main() -> int:
    """Measure the rows that were asked for; 1 if one of them could not be."""
    options = parse_options()
    benchmark = "pruning.quick" if options.quick else "pruning"
    return measure_rows(options, lambda name: ROWS[name].measure(options), benchmark=benchmark, seed=SEED)


def parse_options() -> argparse.Namespace:
    """The command line, and whether it is to be quick."""
    parser = parser_of(__doc__, {name: row.about for name, row in ROWS.items()}, list(ROWS))
    parser.set_defaults(quick=is_quick())
    parser.add_argument("--dense", type=Path, metavar="BUNDLE", help="the dense descriptor, with int8")
    parser.add_argument("--pruned", type=Path, nargs="+", default=[], metavar="BUNDLE", help="pruned ones, one a seed")
    parser.add_argument("--lite0-dense", type=Path, metavar="BUNDLE", help="the dense EfficientNet-Lite0 descriptor")
    parser.add_argument("--lite0-pruned", type=Path, nargs="+", default=[], metavar="BUNDLE", help="one a seed")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="prepared places, for recall")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], metavar="CKPT",
                        help="folders that kittiwake prune wrote, one an importance measure")  # fmt: skip
    parser.add_argument("--processes", type=int, default=usable_cores(), metavar="N", help="to fly in")
    return parser.parse_args()


def equivalence(options: argparse.Namespace) -> list[Figure]:
    """Dead channels removed."""
    from rows.removal import measure_removal

    return measure_removal(options.quick)


def latency_model(options: argparse.Namespace) -> list[Figure]:
    """Predicted latency."""
    from rows.layer_times import measure_latency_model

    return measure_latency_model(options.quick)


def descriptor(options: argparse.Namespace) -> list[Figure]:
    """The pruned descriptor."""
    return _compared("descriptor", options, options.dense, options.pruned, DESCRIPTOR_BARS)


def lite0(options: argparse.Namespace) -> list[Figure]:
    """Its larger sibling."""
    return _compared("lite0", options, options.lite0_dense, options.lite0_pruned, LITE0_BARS)


def curve(options: argparse.Namespace) -> list[Figure]:
    """The trade-off."""
    from rows.pruned import measure_curve

    if not options.runs:
        raise Skipped("give the folders of pruning runs with --runs")
    return measure_curve(options.runs, RESULTS_DIR / "pruning.quick.png" if options.quick else PICTURE)


def flight(options: argparse.Namespace) -> list[Figure]:
    """What it means in the air."""
    from rows.pruned import measure_flight

    if not (options.dense and options.pruned):
        raise Skipped("give bundles with --dense and --pruned; the first pruned one flies")
    return measure_flight(options.dense, options.pruned[0], options.quick, options.processes)


def sparsity24(options: argparse.Namespace) -> list[Figure]:
    """Two zeros in every four weights."""
    from rows.sparse import measure_sparsity24

    return measure_sparsity24(options.quick)


ROWS: dict[str, Row[argparse.Namespace]] = {
    "equivalence": Row(equivalence, "dead channels removed, proven equal; torch-simplify beside it"),
    "latency_model": Row(latency_model, "latency predicted from layer times against measured; let nothing else run"),
    "descriptor": Row(descriptor, "the pruned descriptor against the dense one (--dense, --pruned, --data)"),
    "curve": Row(curve, "recall against latency over the rounds, by importance (--runs)"),
    "lite0": Row(lite0, "the same for EfficientNet-Lite0 (--lite0-dense, --lite0-pruned, --data)"),
    "flight": Row(flight, "updates up to convergence over North Dakota, pruned over dense (--dense, --pruned)"),
    "sparsity24": Row(sparsity24, "two zeros in every four weights, on a GPU"),
}


def _compared(
    prefix: str, options: argparse.Namespace, dense: Path | None, pruned: list[Path], bars: tuple[str, str]
) -> list[Figure]:
    from rows.pruned import compare

    if not (dense and pruned and options.data):
        raise Skipped("give bundles of the dense and the pruned network, and --data with prepared places")
    return compare(prefix, dense, pruned, options.data, bars, options.quick)


if __name__ == "__main__":
    sys.exit(main())
