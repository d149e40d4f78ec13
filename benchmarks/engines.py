"""Measures export and engines: `python benchmarks/engines.py`, or `make bench-engines`.

Each row is one function that returns figures; they go to `benchmarks/results/engines.json` and `.md`, row by row, and
rows that were not measured stay as they are. The row `gpu` is for a machine with an NVIDIA GPU, where nothing has to
be installed:

    PYTHONPATH=runtime:models:training:export python benchmarks/engines.py --rows gpu --output out/gpu

and `--merge out/gpu/engines.json`, on the machine where the results are kept, adds its figures to them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from results import RESULTS_DIR, Figure, command_line, write_results

from kittiwake_runtime.errors import KittiwakeError

NAME, SEED = "engines", 0
_Measure = Callable[[argparse.Namespace], list[Figure]]


def _row(module: str, function: str, *options: str) -> _Measure:
    """A row whose module is imported when it is measured: a machine need not have what the others need."""

    def measure(arguments: argparse.Namespace) -> list[Figure]:
        work: Any = getattr(import_module(f"engine_rows.{module}"), function)
        figures: list[Figure] = work(*(getattr(arguments, option) for option in options))
        return figures

    return measure


ROWS: dict[str, tuple[_Measure, str]] = {
    "overhead": (_row("cpu", "measure_overhead"), "Engine.infer over plain ONNX Runtime, three networks, one thread"),
    "open": (_row("cpu", "measure_open"), "a fresh process: import, first result, memory"),
    "rtx": (_row("rtx", "measure_rtx"), "every committed bundle with TensorRT-RTX ahead of time"),
    "int8": (_row("cpu", "measure_int8", "places"), "the descriptor's int8: speed-up, and recall in pairs"),
    "gpu": (_row("gpu", "measure_gpu"), "an NVIDIA GPU: against torch's CUDA graph, overlap, zero copies"),
}
ON_A_CPU = [name for name in ROWS if name != "gpu"]


def main() -> int:
    """Measure what was asked for, or merge; 1 if a row could not be measured."""
    arguments = _parse()
    if arguments.merge:
        figures = read_figures(arguments.merge)
        _write(figures, arguments.output)
        _print(figures)
        return 0
    measured: list[Figure] = []
    failed = 0
    for name in arguments.rows:
        began = time.monotonic()
        try:
            figures = ROWS[name][0](arguments)
        except (KittiwakeError, ImportError) as error:
            hint = getattr(error, "hint", "")
            print(f"{name}: {error}" + (f" ({hint})" if hint else ""), file=sys.stderr)
            failed += 1
            continue
        _write(figures, arguments.output)
        measured += figures
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    _print(measured)
    return 1 if failed else 0


def read_figures(path: Path) -> list[Figure]:
    """The figures of a file that was written elsewhere."""
    rows = json.loads(path.read_text(encoding="utf-8"))["figures"]
    return [Figure(**{**row, "interval": row["interval"] and tuple(row["interval"])}) for row in rows]


def _parse() -> argparse.Namespace:
    about = "\n".join(f"  {name:9} {text}" for name, (_, text) in ROWS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"rows:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=_rows, default=ON_A_CPU, metavar="A,B", help="rows to measure (all but gpu)")
    parser.add_argument("--places", type=Path, metavar="FOLDER", help="prepared places, for int8 where the shipped "
                        "bundle has none: kittiwake train localization --prepare RAW --data FOLDER")  # fmt: skip
    parser.add_argument("--output", type=Path, default=RESULTS_DIR, metavar="FOLDER", help="of the results")
    parser.add_argument("--merge", type=Path, metavar="FILE", help="add another machine's figures, and measure nothing")
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"no row {unknown[0]}; rows are {', '.join(ROWS)}")
    return names


def _write(figures: list[Figure], folder: Path) -> None:
    write_results(NAME, figures, command=command_line(), seed=SEED, directory=folder)


def _print(figures: list[Figure]) -> None:
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.4g}"
        low_high = "" if figure.interval is None else f"({figure.interval[0]:.4g} – {figure.interval[1]:.4g})"
        print(f"{figure.id:24} {value:>10} {figure.unit:7} {low_high:20} bar {figure.bar}")


if __name__ == "__main__":
    sys.exit(main())
