"""Measures export and engines: `python benchmarks/engines.py`, or `make bench-engines`.

Each row is one function that returns figures; they go to `benchmarks/results/engines.json` and `.md`, row by row, and
rows that were not measured stay as they are. The row `gpu` is for a machine with an NVIDIA GPU, where nothing has to
be installed:

    PYTHONPATH=runtime:models:training:export python benchmarks/engines.py --rows gpu --output out/gpu

and `--merge out/gpu/engines.json`, on the machine where the results are kept, adds its figures to them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from by_rows import Row, measure_rows, parser_of
from results import Figure

NAME, SEED = "engines", 0
_Measure = Callable[[argparse.Namespace], list[Figure]]


def _row(module: str, function: str, *options: str) -> _Measure:
    """A row whose module is imported when it is measured: a machine need not have what the others need."""

    def measure(arguments: argparse.Namespace) -> list[Figure]:
        work: Any = getattr(import_module(f"engine_rows.{module}"), function)
        figures: list[Figure] = work(*(getattr(arguments, option) for option in options))
        return figures

    return measure


ROWS: dict[str, Row[argparse.Namespace]] = {
    "overhead": Row(
        _row("cpu", "measure_overhead"), "Engine.infer over plain ONNX Runtime, three networks, one thread"
    ),
    "open": Row(_row("cpu", "measure_open"), "a fresh process: import, first result, memory"),
    "rtx": Row(_row("rtx", "measure_rtx"), "every committed bundle with TensorRT-RTX ahead of time"),
    "int8": Row(_row("cpu", "measure_int8", "places"), "the descriptor's int8: speed-up, and recall in pairs"),
    "gpu": Row(_row("gpu", "measure_gpu"), "an NVIDIA GPU: against torch's CUDA graph, overlap, zero copies"),
}
ON_A_CPU = [name for name in ROWS if name != "gpu"]


def main() -> int:
    """Measure what was asked for, or merge; 1 if a row could not be measured."""
    options = _parse()
    return measure_rows(options, lambda name: ROWS[name].measure(options), benchmark=NAME, seed=SEED)


def _parse() -> argparse.Namespace:
    parser = parser_of(__doc__, {name: row.about for name, row in ROWS.items()}, ON_A_CPU)
    parser.add_argument("--places", type=Path, metavar="FOLDER", help="prepared places, for int8 where the shipped "
                        "bundle has none: kittiwake train localization --prepare RAW --data FOLDER")  # fmt: skip
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
