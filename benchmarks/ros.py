"""Measures the ROS node: `python benchmarks/ros.py`, or `make bench-ros`.

Nodes are processes and messages go over DDS with the shipped transport profile. The figures go to
`benchmarks/results/ros.json` and `.md`, row by row; `QUICK=1` takes seconds instead of minutes for each row and writes
`ros.quick.*`. The soak is measured when it is asked for: `--rows soak --soak-minutes 30`.
"""

from __future__ import annotations

import argparse
import sys

from by_rows import Row, is_quick, measure_rows, parser_of
from results import Figure
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


def camera(plan: Plan) -> list[Figure]:
    """Images of a camera."""
    from ros_rows.live import measure_camera

    return measure_camera(plan)


def parity(plan: Plan) -> list[Figure]:
    """ROS takes nothing away."""
    from ros_rows.parity import measure_parity

    return measure_parity(plan)


def configure(plan: Plan) -> list[Figure]:
    """The start."""
    from ros_rows.live import measure_configure

    return measure_configure(plan)


def late(plan: Plan) -> list[Figure]:
    """Computing that takes long."""
    from ros_rows.live import measure_late

    return measure_late(plan)


def consistency(plan: Plan) -> list[Figure]:
    """Covariance; the one row that needs no ROS."""
    from ros_rows.consistency import measure_consistency

    return measure_consistency(plan)


def soak(plan: Plan) -> list[Figure]:
    """Memory."""
    from ros_rows.live import measure_soak

    return measure_soak(plan)


ROWS: dict[str, Row[Plan]] = {
    "camera": Row(camera, "VGA at 30 Hz: images lost, transport, the node's own time"),
    "parity": Row(parity, "a flight through ROS and the same one called directly"),
    "configure": Row(configure, "seconds to active with an index of 100 km2"),
    "late": Row(late, "0.2, 0.5 and 2 s of computing injected at 20 m/s"),
    "consistency": Row(consistency, "published covariance against the truth, 100 flights"),
    "soak": Row(soak, "memory of the node over minutes of flight"),
}
ON_DEMAND = ("soak",)


if __name__ == "__main__":
    sys.exit(main())
