"""Measures the ROS node: `python benchmarks/ros.py`, or `make bench-ros`.

Nodes are processes and messages go over DDS with the shipped transport profile. The figures go to
`benchmarks/results/ros.json` and `.md`, row by row; `QUICK=1` takes seconds instead of minutes for each row and writes
`ros.quick.*`. The soak is measured when it is asked for: `--rows soak --soak-minutes 30`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from results import RESULTS_DIR, Figure, command_line, write_results
from ros_rows import flights, live
from ros_rows.scene import SEED, Plan

from kittiwake_runtime.errors import KittiwakeError


@dataclass(frozen=True)
class Row:
    """What is measured together, and what it is about, for --help."""

    measure: Callable[[Plan], list[Figure]]
    about: str


ROWS: dict[str, Row] = {
    "camera": Row(live.measure_camera, "VGA at 30 Hz: images lost, transport, the node's own time"),
    "parity": Row(flights.measure_parity, "a flight through ROS and the same one called directly"),
    "configure": Row(live.measure_configure, "seconds to active with an index of 100 km2"),
    "late": Row(live.measure_late, "0.2, 0.5 and 2 s of computing injected at 20 m/s"),
    "consistency": Row(flights.measure_consistency, "published covariance against the truth, 100 flights"),
    "soak": Row(live.measure_soak, "memory of the node over minutes of flight"),
}
ON_DEMAND = ("soak",)


def main() -> int:
    """Measure the rows that were asked for; 1 if one of them could not be."""
    options = parse_options()
    quick = os.environ.get("QUICK", "0") not in ("", "0")
    plan = Plan(quick=quick, soak_minutes=options.soak_minutes, processes=options.processes)
    failed, path = 0, None
    for name in options.rows:
        started = time.monotonic()
        try:
            figures = ROWS[name].measure(plan)
        except (KittiwakeError, TimeoutError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed += 1
            continue
        stem = "ros.quick" if quick else "ros"
        path = write_results(stem, figures, command=command_line(), seed=SEED, directory=RESULTS_DIR)
        for figure in figures:
            print(f"{figure.id:24} {'-' if figure.value is None else f'{figure.value:.4g}':>10} {figure.unit}")
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    if path is not None:
        print(f"wrote {path} and {path.with_suffix('.md').name}")
    return 1 if failed else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:12} {row.about}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"rows:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = [name for name in ROWS if name not in ON_DEMAND]
    parser.add_argument("--rows", type=_rows, default=default, metavar="A,B", help="rows (all but the soak)")
    parser.add_argument("--soak-minutes", type=float, default=2.0, metavar="N", help="of flight (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="for the 100 flights (%(default)s)")
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
