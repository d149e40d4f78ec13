"""`colcon build` takes the folder as it is, and what it installs is complete and starts."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")


OPTIONAL = {"px4_msgs"}  # only with `autopilot: px4`


def imported() -> set[str]:
    """Packages of ROS that the nodes and launch files import, in functions too."""
    found = set()
    for file in [*(ROOT / "ros_nodes").glob("kittiwake_ros/*.py"), *(ROOT / "ros_nodes").glob("launch/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0] for name in names}
    ours = {"kittiwake_ros", "kittiwake_runtime", "numpy", "cv2"}
    return found - set(sys.stdlib_module_names) - ours - OPTIONAL


def test_the_manifest_names_what_is_imported() -> None:
    root = ElementTree.parse(ROOT / "ros_nodes" / "package.xml").getroot()
    declared = {str(entry.text) for entry in root.findall("exec_depend")}
    assert imported() == declared


def run(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    command = ["bash", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_colcon_builds_it_and_its_nodes_start(tmp_path: Path) -> None:
    ignore = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "ros_nodes", tmp_path / "src" / "kittiwake_ros", ignore=ignore)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    # As a venv made with --system-site-packages sees ROS and the runtime, this one sees those of the tests.
    (packages / "here.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    install = f"{venv}/bin/python -m pip install -q --disable-pip-version-check colcon-common-extensions"
    build = f"{venv}/bin/python -m colcon build --packages-select kittiwake_ros"
    done = run(f"{install} && {build}", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 package finished" in done.stdout + done.stderr

    installed = tmp_path / "install" / "kittiwake_ros"
    for folder in ("launch", "config", "rviz", "foxglove"):
        source = {path.name for path in (ROOT / "ros_nodes" / folder).iterdir() if path.is_file()}
        assert {path.name for path in (installed / "share" / "kittiwake_ros" / folder).iterdir()} == source
    modules = {path.name for path in (ROOT / "ros_nodes" / "kittiwake_ros").glob("*.py")}
    assert {path.name for path in installed.glob("lib/python*/site-packages/kittiwake_ros/*.py")} == modules

    where = "import kittiwake_ros.resources as r; print(r.__file__); print(r.share())"
    done = run(f'. install/setup.bash && "{venv}/bin/python" -c "{where}"', tmp_path)
    module, share = done.stdout.split()
    assert Path(module).is_relative_to(installed), done.stderr
    assert Path(share) == installed / "share" / "kittiwake_ros"
    # A value that can't be is told of by the node itself, before it would spin.
    node = installed / "lib" / "kittiwake_ros" / "flight_simulator"
    done = run(f". install/setup.bash && {node} --ros-args -p season:=spring", tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "parameter season is 'spring'" in done.stderr
    assert "summer, autumn, winter" in done.stderr
