"""The demo as a user starts it, and what it keeps of a flight against numbers that are known."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from kittiwake_ros import demo
from kittiwake_ros.demo_record import FlightRecord
from kittiwake_ros.geometry import MapFrame
from kittiwake_ros.messages import stamp_of
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.world import ORIGIN_EASTING_M, ORIGIN_NORTHING_M

SIDE_M = 2000.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("demo")
    demo.prepare(made, 1, SIDE_M)
    return made


@pytest.fixture
def index(folder: Path) -> Iterator[MapIndex]:
    with MapIndex.open(folder / "area.kwmap") as opened:
        yield opened


def header(time_s: float) -> Any:
    return SimpleNamespace(stamp=stamp_of(time_s))


def navsat(index: MapIndex, time_s: float, east_m: float, north_m: float, status: int = 0) -> Any:
    lat, lon = index.grid.to_wgs84(east_m, north_m)
    covariance = [9.0, 0, 0, 0, 16.0, 0, 0, 0, 1e6]
    return SimpleNamespace(
        header=header(time_s), latitude=float(lat), longitude=float(lon), position_covariance=covariance,
        status=SimpleNamespace(status=status),
    )  # fmt: skip


def state(**values: Any) -> Any:
    return SimpleNamespace(values=[SimpleNamespace(key=key, value=str(value)) for key, value in values.items()])


def belief(index: MapIndex, time_s: float, levels: np.ndarray, west_m: float, south_m: float, cell_m: float) -> Any:
    x, y = MapFrame.of(index).from_grid(west_m, south_m)
    origin = SimpleNamespace(position=SimpleNamespace(x=x, y=y))
    height, width = levels.shape
    info = SimpleNamespace(origin=origin, resolution=cell_m, height=height, width=width)
    return SimpleNamespace(header=header(time_s), info=info, data=levels.astype(np.int8).tobytes())


def test_a_believed_update_is_the_nodes_own_and_is_scored_against_the_interpolated_truth(index: MapIndex) -> None:
    record = FlightRecord(index)
    east, north = ORIGIN_EASTING_M + 900.0, ORIGIN_NORTHING_M + 1100.0
    for i in range(11):
        record.on_truth(navsat(index, 100.0 + 0.1 * i, east + 2 * i, north))
    record.on_navsat(navsat(index, 100.55, east + 14, north + 4))  # the truth is at 11 m
    record.on_state(state(state="converged", source="map_matched", age_s=0, distance_m=0, elsewhere=0, radius95_m=9))
    record.on_belief(belief(index, 100.55, np.full((4, 4), 100), east, north, 10.0))
    (update,) = record.updates
    assert update.error_m == pytest.approx(5.0, abs=0.01)
    np.testing.assert_allclose(update.fix.covariance, [[9, 0], [0, 16]])
    assert update.fix.is_believed
    assert record.radius95_m == 9
    assert update.belief is not None
    assert float(update.belief.sum()) == pytest.approx(1.0, abs=1e-5)


def test_while_it_searches_an_update_is_the_mean_of_the_belief(index: MapIndex) -> None:
    record = FlightRecord(index)
    west, south = ORIGIN_EASTING_M + 500.0, ORIGIN_NORTHING_M + 700.0
    levels = np.zeros((6, 8))
    levels[1, 2], levels[1, 6] = 100, 80  # the second is one decade below the first
    record.on_navsat(navsat(index, 5.0, west, south, status=-1))
    record.on_state(state(state="searching", reason="several places fit"))
    record.on_belief(belief(index, 5.0, levels, west, south, 50.0))
    fix = record.updates[0].fix
    x = (125 * 1.0 + 325 * 0.1) / 1.1
    assert fix.easting_m - west == pytest.approx(x, abs=0.1)
    assert fix.northing_m - south == pytest.approx(75.0, abs=0.1)
    spread = math.sqrt((1.0 * (125 - x) ** 2 + 0.1 * (325 - x) ** 2) / 1.1)
    assert fix.position_std_m == pytest.approx(math.sqrt(spread**2 + 2 * index.georef_sigma_m**2), rel=1e-3)
    assert not fix.is_believed
    assert "several places fit" in demo.live_line(3.0, record)
    assert record.summary()["found"] == "not yet"


def test_the_pose_now_is_compared_with_the_truth_now(index: MapIndex) -> None:
    record, frame = FlightRecord(index), MapFrame.of(index)
    east, north = ORIGIN_EASTING_M + 400.0, ORIGIN_NORTHING_M + 1600.0
    record.on_truth(navsat(index, 10.0, east, north))
    record.on_truth(navsat(index, 10.1, east, north))
    x, y = frame.from_grid(east, north)
    position = SimpleNamespace(x=x + 3.0, y=y - 4.0)
    record.on_pose(SimpleNamespace(header=header(10.05), pose=SimpleNamespace(pose=SimpleNamespace(position=position))))
    assert record.error_m == pytest.approx(5.0, abs=1e-3)
    record.on_state(state(state="lost"))
    assert math.isnan(record.error_m)


def test_a_map_of_the_same_area_is_used_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = (folder / "area.kwmap").stat().st_mtime_ns
    demo.prepare(folder, 1, SIDE_M)
    assert (folder / "area.kwmap").stat().st_mtime_ns == made
    assert "already" in capsys.readouterr().out


def test_nothing_flown_is_no_report(index: MapIndex, tmp_path: Path) -> None:
    assert FlightRecord(index).write(tmp_path, {}) is None


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended since
        if int(words[1]) == pid:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
def test_it_flies_until_ctrl_c_and_leaves_a_report_and_no_process(folder: Path, domain: int) -> None:
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-m", "kittiwake_ros.demo", "-o", str(folder), "--side-m", str(SIDE_M)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines: list[str] = []
    flown, end = False, time.monotonic() + 90
    for line in process.stdout:
        lines.append(line)
        told = re.search(r"(\d+) updates", line)  # once a second: on a busy machine two come between two lines
        if (flown := bool(told and int(told[1]) >= 3)) or time.monotonic() > end:
            break
    assert flown, "".join(lines)
    nodes = children(process.pid)
    assert len(nodes) == 2
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0, "".join(lines) + rest
    assert "report:" in rest
    assert "Traceback" not in rest
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "track.png").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in nodes)


@pytest.mark.slow
def test_a_node_that_can_not_configure_ends_the_demo(folder: Path, domain: int, tmp_path: Path) -> None:
    for name in ("area.kwmap", "area.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())  # and no camera.yaml
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    command = [sys.executable, "-m", "kittiwake_ros.demo", "-o", str(tmp_path), "--side-m", str(SIDE_M)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 2
    assert "uav_localization can't configure" in done.stderr
    assert "camera.yaml" in done.stderr  # the node itself said why
