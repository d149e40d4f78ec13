"""Where the package's own files are, and how Fast DDS is told of its profile."""

from __future__ import annotations

import os
from pathlib import Path

def share() -> Path:
    """The folder that holds ``config/`` and ``launch/``: the source tree, else what `colcon` installed."""
    source = Path(__file__).resolve().parents[1]
    if (source / "config").is_dir():
        return source
    from ament_index_python.packages import get_package_share_directory

<<<<<<< HEAD
    return Path(get_package_share_directory("kittiwake_ros"))
=======
    try:
        return Path(get_package_share_directory("kittiwake_ros"))
    except (PackageNotFoundError, OSError):  # an OSError where no ROS workspace is sourced
        return Path(__file__).resolve().parents[1]
>>>>>>> ros


def config(name: str) -> Path:
    """A file of ``config/``."""
    return share() / "config" / name


def profile_variable() -> str:
    """The environment's name of Fast DDS's profile: 3.0, which came with Kilted, took another and warns of the old one."""
    old = os.environ.get("ROS_DISTRO", "") in ("humble", "iron", "jazzy")
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"
