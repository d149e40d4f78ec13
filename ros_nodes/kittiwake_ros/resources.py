"""Where the package's own files are, and how Fast DDS is told of its profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def share() -> Path:
    """The folder that holds ``config/`` and ``launch/``: the source tree, or where `pip` or `colcon` put it."""
    for place in (Path(__file__).resolve().parents[1], Path(sys.prefix, "share", "kittiwake_ros")):
        if (place / "config").is_dir():
            return place
    from ament_index_python.packages import get_package_share_directory

    return Path(get_package_share_directory("kittiwake_ros"))


def config(name: str) -> Path:
    """A file of ``config/``."""
    return share() / "config" / name


def profile_variable() -> str:
    """What Fast DDS calls its profile in the environment: 3.0, which came with Kilted, took another name."""
    old = os.environ.get("ROS_DISTRO", "") in ("humble", "iron", "jazzy")
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
