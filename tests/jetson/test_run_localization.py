"""What the service starts: with which environment and arguments, and what it says when something is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "jetson" / "run_localization.sh"


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An installation whose Python prints its arguments, and a ROS whose setup files leave their marks."""
    files = {
        "opt/bin/run_localization": SCRIPT.read_text(),
        "opt/bin/supervise.py": "",
        "opt/venv/bin/python": '#!/bin/sh\necho "$ROS $WORKSPACE"; printf "%s\\n" "$@"\n',
        "opt/ros/local_setup.bash": "export WORKSPACE=kittiwake_ros\n",
        "ros/jazzy/setup.bash": 'export ROS="jazzy$UNSET"\n',
        "area.kwmap": "",
        "camera.yaml": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("opt/bin/run_localization", "opt/venv/bin/python"):
        (tmp_path / name).chmod(0o755)
    return tmp_path


def start(prefix: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    given = {
        "PATH": os.environ["PATH"],
        "KITTIWAKE_ROS_ROOT": str(prefix / "ros"),
        "KITTIWAKE_MAP": str(prefix / "area.kwmap"),
        "KITTIWAKE_CAMERA": str(prefix / "camera.yaml"),
        **settings,
    }
    return subprocess.run([str(prefix / "opt/bin/run_localization")], env=given, capture_output=True, text=True)


def test_the_launch_is_started_in_its_environment(prefix: Path) -> None:
    done = start(prefix, KITTIWAKE_LAUNCH_ARGUMENTS="image:=/camera/image use_sim_time:=true")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "jazzy kittiwake_ros",
        f"{prefix}/opt/bin/supervise.py",
        "uav_localization",
        "--",
        "ros2",
        "launch",
        "kittiwake_ros",
        "uav_localization.launch.py",
        f"map:={prefix}/area.kwmap",
        f"camera:={prefix}/camera.yaml",
        "image:=/camera/image",
        "use_sim_time:=true",
    ]


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("area.kwmap", "error: KITTIWAKE_MAP is "),
        ("camera.yaml", "error: KITTIWAKE_CAMERA is "),
        ("ros", "error: ROS 2 or the package kittiwake_ros is not installed"),
        ("opt/ros", "error: ROS 2 or the package kittiwake_ros is not installed"),
    ],
)
def test_what_is_missing_is_said(missing: str, message: str, prefix: Path) -> None:
    path = prefix / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    done = start(prefix)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "\nhint: " in done.stderr
