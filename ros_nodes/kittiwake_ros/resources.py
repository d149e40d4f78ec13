"""Where the package's own files are: launch files, configurations, and the transport profile."""

from __future__ import annotations

from pathlib import Path

PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Fast DDS reads the first up to Jazzy and the second from there on."""


def share() -> Path:
    """The folder that holds ``config/`` and ``launch/``: as `colcon` installed it, else the source tree."""
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory("kittiwake_ros"))
    except (PackageNotFoundError, OSError):  # an OSError where no ROS workspace is sourced
        return Path(__file__).resolve().parents[1]


def config(name: str) -> Path:
    """A file of ``config/``."""
    return share() / "config" / name


def transport_environment() -> dict[str, str]:
    """What both ends of a camera's topic need in their environment, so that large images get through."""
    return dict.fromkeys(PROFILE_VARIABLES, str(config("fastdds_shm.xml")))
