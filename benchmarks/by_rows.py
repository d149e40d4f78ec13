"""A benchmark that is measured row by row: what a row finds is said and kept as soon as it is there."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from results import RESULTS_DIR, Figure, command_line, merge_results, write_results

from kittiwake_runtime.errors import KittiwakeError

Asked = TypeVar("Asked")


@dataclass(frozen=True)
class Row(Generic[Asked]):
    """What is measured under one prefix of ids, from what the invocation asked for; and what it is about."""

    measure: Callable[[Asked], list[Figure]]
    about: str


class Skipped(Exception):
    """A row that this invocation can't measure, and why; what was measured earlier stays as it is."""


def is_quick() -> bool:
    """Whether QUICK=1 asks for little of everything."""
    return os.environ.get("QUICK", "0") not in ("", "0")


def parser_of(
    about: str | None, rows: Mapping[str, str], default: Sequence[str], more: str = ""
) -> argparse.ArgumentParser:
    """A parser with --rows, and what each row is about in its help; --output and --merge for other machines' figures.

    Args:
        about: the benchmark's own words.
        rows: what each row is about, by name.
        default: the rows that are measured when none is named.
        more: ends the help.
    """
    listed = "\n".join(f"  {name:14} {text}" for name, text in rows.items())
    parser = argparse.ArgumentParser(
        description=about, epilog=f"rows:\n{listed}\n{more}", formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def names(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := [name for name in asked if name not in rows]:
            raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(rows)}")
        return asked

    left = [name for name in rows if name not in default]
    usual = f"all but {', '.join(left)}" if left else "every one"
    parser.add_argument("--rows", type=names, default=list(default), metavar="A,B", help=f"rows to measure ({usual})")
    parser.add_argument("--output", type=Path, default=RESULTS_DIR, metavar="FOLDER", help="of the results")
    parser.add_argument("--merge", type=Path, metavar="FILE",
                        help="measure nothing: add the figures in another machine's results")  # fmt: skip
    return parser


def measure_rows(
    options: argparse.Namespace, measure: Callable[[str], list[Figure]], *, benchmark: str, seed: int
) -> int:
    """Measure row after row, each into the benchmark's results; the exit status: 1 if one of them could not be.

    Args:
        options: of :func:`parser_of`'s parser.
        measure: gives the figures of a row.
        benchmark: stem of the result files.
    """
    if options.merge:
        say(merge_results(options.merge, options.output / f"{benchmark}.json"))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # nodes and pools are ended on the way out
    failed, path = 0, None
    for name in options.rows:
        began = time.monotonic()
        try:
            figures = measure(name)
        except Skipped as reason:
            print(f"{name}: skipped: {reason}", file=sys.stderr)
            continue
        except (KittiwakeError, FileNotFoundError, ImportError, TimeoutError) as error:
            hint = getattr(error, "hint", "")
            print(f"{name}: {error}" + (f" ({hint})" if hint else ""), file=sys.stderr)
            failed += 1
            continue
        path = write_results(benchmark, figures, command=command_line(), seed=seed, directory=options.output)
        say(figures)
        print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr)
    if path is not None:
        print(f"wrote {path} and {path.with_suffix('.md').name}")
    return 1 if failed else 0


def say(figures: Sequence[Figure]) -> None:
    """A line for each figure."""
    for figure in figures:
        value = "-" if figure.value is None else f"{figure.value:.4g}"
        low_high = "" if figure.interval is None else f"({figure.interval[0]:.4g} – {figure.interval[1]:.4g})"
        bar = "" if figure.bar is None else f"bar {figure.bar}"
        print(f"{figure.id:32} {value:>10} {figure.unit:8} {low_high:22} {bar}".rstrip(), flush=True)
