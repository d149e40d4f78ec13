"""Writes the tables of parameters in docs/ros.md from the nodes' own declarations: python tools/make_ros_tables.py.

A test fails while the page is not what this would write, so that it can't go stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "ros.md"
BLOCK = re.compile(r"(<!-- parameters of (\w+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def written(text: str) -> str:
    """The page with every table between ``<!-- parameters of NODE -->`` and ``<!-- end -->`` made anew."""
    sys.path.insert(0, str(ROOT / "ros_nodes"))
    from kittiwake_ros.parameters import table
    from kittiwake_ros.settings import Settings
    from kittiwake_ros.simulator_settings import FlightSettings

    kinds = {"uav_localization": Settings, "flight_simulator": FlightSettings}
    return BLOCK.sub(lambda found: f"{found[1]}{table(kinds[found[2]])}{found[3]}", text)


def main() -> int:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
