"""Measures the ROS node: `python benchmarks/ros.py`, or `make bench-ros`.

Nodes are processes and messages go over DDS with the shipped transport profile. The figures go to
`benchmarks/results/ros.json` and `.md`, row by row; `QUICK=1` takes seconds instead of minutes for each row and writes
`ros.quick.*`. The soak is measured when it is asked for: `--rows soak --soak-minutes 30`.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from by_rows import Row, is_quick, measure_rows, parser_of
from ros_rows.scene import SEED, Plan


def main() -> int:
    """Measure the rows that were asked for; 1 if one of them could not be."""
    options, quick = parse_options(), is_quick()
    plan = Plan(quick=quick, soak_minutes=options.soak_minutes, processes=options.processes)
    benchmark = "ros.quick" if quick else "ros"
    return measure_rows(options, lambda name: ROWS[name].measure(plan), benchmark=benchmark, seed=SEED)


def parse_options() -> argparse.Namespace:
    """The command line."""
    usual = [name for name in ROWS if name not in ON_DEMAND]
    parser = parser_of(__doc__, {name: row.about for name, row in ROWS.items()}, usual)
    parser.add_argument("--soak-minutes", type=float, default=2.0, metavar="N", help="of flight (%(default)s)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="for the 100 flights (%(default)s)")
    return parser.parse_args()


def row_of(module: str, measure: str, about: str) -> Row[Plan]:
    """A row of `ros_rows`; what it needs (ROS, most of them) is imported when it is measured."""
    return Row(lambda plan: getattr(import_module(f"ros_rows.{module}"), measure)(plan), about)


ROWS: dict[str, Row[Plan]] = {
    "camera": row_of("live", "measure_camera", "VGA at 30 Hz: images lost, transport, the node's own time"),
    "parity": row_of("parity", "measure_parity", "a flight through ROS and the same one called directly"),
    "configure": row_of("live", "measure_configure", "seconds to active with an index of 100 km2"),
    "late": row_of("live", "measure_late", "0.2, 0.5 and 2 s of computing injected at 20 m/s"),
    "consistency": row_of("consistency", "measure_consistency", "published covariance against the truth, 100 flights"),
    "soak": row_of("live", "measure_soak", "memory of the node over minutes of flight"),
}
ON_DEMAND = ("soak",)


if __name__ == "__main__":
    sys.exit(main())
