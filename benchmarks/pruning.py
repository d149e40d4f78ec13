"""Measures pruning: `python benchmarks/pruning.py`, or `make bench-pruning`.

What needs pruned networks is given by option: bundles that `kittiwake export` made of `kittiwake prune`'s checkpoints,
with int8, and the folders of pruning runs. Rows without theirs are skipped with the reason, and what was measured
earlier stays. The figures go to `benchmarks/results/pruning.json` and `.md`, row by row. `QUICK=1` measures little, and
writes `pruning.quick.*` instead.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from results import RESULTS_DIR, Figure, command_line, usable_cores, write_results
from rows.run import SEED, Skipped

from kittiwake_runtime.errors import KittiwakeError

PICTURE = RESULTS_DIR.parent.parent / "docs" / "images" / "pruning.png"
DESCRIPTOR_BARS = (">= 2", "<= 1")
LITE0_BARS = (">= 3", "<= 1")


def main() -> int:
    """Measure the rows that were asked for; 1 if one of them could not be."""
    options = parse_options()
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    name, failed, path = "pruning.quick" if quick else "pruning", 0, None
    for row in options.rows:
        started = time.monotonic()
        try:
            figures = ROWS[row](options, quick)
        except Skipped as reason:
            print(f"{row}: skipped: {reason}", file=sys.stderr)
            continue
        except (KittiwakeError, FileNotFoundError) as error:
            print(f"{row}: {error}" + (f" ({hint})" if (hint := getattr(error, "hint", "")) else ""), file=sys.stderr)
            failed += 1
            continue
        path = write_results(name, figures, command=command_line(), seed=SEED, directory=RESULTS_DIR)
        for figure in figures:
            value = "-" if figure.value is None else f"{figure.value:.5g}"
            print(f"{figure.id:40} {value:>10} {figure.unit}")
        print(f"{row}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if path is not None:
        print(f"wrote {path} and {path.with_suffix('.md').name}")
    return 1 if failed else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:14} {row.__doc__}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"rows:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=_rows, default=list(ROWS), metavar="A,B", help="rows to measure (every one)")
    parser.add_argument("--dense", type=Path, metavar="BUNDLE", help="the dense descriptor, with int8")
    parser.add_argument("--pruned", type=Path, nargs="+", default=[], metavar="BUNDLE", help="pruned ones, one a seed")
    parser.add_argument("--lite0-dense", type=Path, metavar="BUNDLE", help="the dense EfficientNet-Lite0 descriptor")
    parser.add_argument("--lite0-pruned", type=Path, nargs="+", default=[], metavar="BUNDLE", help="one a seed")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="prepared places, for recall")
    parser.add_argument("--runs", type=Path, nargs="+", default=[], metavar="CKPT",
                        help="folders that kittiwake prune wrote, one an importance measure")  # fmt: skip
    parser.add_argument("--processes", type=int, default=usable_cores(), metavar="N", help="to fly in")
    return parser.parse_args()


def equivalence(_options: argparse.Namespace, quick: bool) -> list[Figure]:
    """dead channels removed, proven equal; torch-simplify beside it"""
    from rows.removal import measure_removal

    return measure_removal(quick)


def latency_model(_options: argparse.Namespace, quick: bool) -> list[Figure]:
    """latency predicted from layer times against measured; let nothing else run"""
    from rows.layer_times import measure_latency_model

    return measure_latency_model(quick)


def descriptor(options: argparse.Namespace, quick: bool) -> list[Figure]:
    """the pruned descriptor against the dense one (--dense, --pruned, --data)"""
    return _compared("descriptor", options.dense, options.pruned, options.data, DESCRIPTOR_BARS, quick)


def curve(options: argparse.Namespace, quick: bool) -> list[Figure]:
    """recall against latency over the rounds, by importance (--runs)"""
    from rows.pruned import measure_curve

    if not options.runs:
        raise Skipped("give the folders of pruning runs with --runs")
    return measure_curve(options.runs, RESULTS_DIR / "pruning.quick.png" if quick else PICTURE)


def lite0(options: argparse.Namespace, quick: bool) -> list[Figure]:
    """the same for the descriptor on EfficientNet-Lite0 (--lite0-dense, --lite0-pruned, --data)"""
    return _compared("lite0", options.lite0_dense, options.lite0_pruned, options.data, LITE0_BARS, quick)


def flight(options: argparse.Namespace, quick: bool) -> list[Figure]:
    """updates up to convergence over North Dakota, pruned over dense (--dense, --pruned)"""
    from rows.pruned import measure_flight

    if not (options.dense and options.pruned):
        raise Skipped("give bundles with --dense and --pruned; the first pruned one flies")
    return measure_flight(options.dense, options.pruned[0], quick, options.processes)


def sparsity24(_options: argparse.Namespace, quick: bool) -> list[Figure]:
    """two zeros in every four weights, on a GPU"""
    from rows.sparse import measure_sparsity24

    return measure_sparsity24(quick)


ROWS: dict[str, Callable[[argparse.Namespace, bool], list[Figure]]] = {
    "equivalence": equivalence,
    "latency_model": latency_model,
    "descriptor": descriptor,
    "curve": curve,
    "lite0": lite0,
    "flight": flight,
    "sparsity24": sparsity24,
}


def _compared(
    prefix: str, dense: Path | None, pruned: list[Path], data: Path | None, bars: tuple[str, str], quick: bool
) -> list[Figure]:
    from rows.pruned import compare

    if not (dense and pruned and data):
        raise Skipped("give bundles of the dense and the pruned network, and --data with prepared places")
    return compare(prefix, dense, pruned, data, bars, quick)


def _rows(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
