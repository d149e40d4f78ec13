"""The node with computing that takes longer than it does, and an autopilot that writes down what it is sent.

`KITTIWAKE_SLOW_S` seconds are slept in every update, and `KITTIWAKE_SENT` is the file that samples go to: a line for
each, its stamp and the time that it was sent.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from kittiwake_ros import uav_localization
from kittiwake_ros.autopilot import AutopilotPose
from kittiwake_ros.lifecycle import run
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.outputs import Fix


class Recorder:
    """Stands where the bridge to an autopilot does."""

    def __init__(self, node: uav_localization.UavLocalization, path: Path) -> None:
        self._node, self._file = node, path.open("a")

    def send(self, pose: AutopilotPose) -> str:
        """Write a sample down."""
        print(f"{pose.stamp_s:.6f} {self._node.now_s():.6f} {pose.reset_counter}", file=self._file, flush=True)
        return ""

    def problems(self) -> list[str]:
        """None."""
        return []

    def facts(self) -> dict[str, str]:
        """None."""
        return {}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class SlowNode(uav_localization.UavLocalization):
    """The localization node with the recorder."""

    def _open_bridge(self) -> Recorder:
        return Recorder(self, Path(os.environ["KITTIWAKE_SENT"]))


def main() -> int:
    """Run it."""
    slow_s, update = float(os.environ["KITTIWAKE_SLOW_S"]), Localizer.update

    def slowly(self: Localizer, *given: object, **named: object) -> Fix:
        time.sleep(slow_s)
        return update(self, *given, **named)

    Localizer.update = slowly
    return run(SlowNode)


if __name__ == "__main__":
    sys.exit(main())
