"""The service's main process: what systemd hears of it, on a real socket, with real ROS 2 where that is installed."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "jetson" / "supervise.py"


@pytest.fixture(scope="module")
def supervise() -> Any:
    spec = importlib.util.spec_from_file_location("supervise", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Systemd:
    """Its end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[str] = []

    def hear(self, word: str, seconds: float) -> bool:
        """Whether something with a word comes in time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                self.heard.append(self.socket.recv(4096).decode())
            except TimeoutError:
                return False
            if word in self.heard[-1]:
                return True
        return False


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    address = f"@kittiwake-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    made = Systemd(address)
    yield made
    made.socket.close()


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("uav_localization", True),
        ("/uav_localization", True),
        ("uav1/uav_localization", True),
        ("uav1/uav_localization: camera", True),
        ("my_uav_localization", False),
        ("uav_localization/px4", False),
        ("px4: uav_localization", False),
        ("", False),
    ],
)
def test_whose_status_it_is(name: str, own: bool, supervise: Any) -> None:
    assert supervise.is_of("uav_localization", name) is own


def test_ready_once_then_the_watchdog(systemd: Systemd, supervise: Any) -> None:
    heartbeat = supervise.Heartbeat("uav_localization")
    heartbeat.hear([("px4", "ok")])
    assert not systemd.hear("", 0.05)
    heartbeat.hear([("px4", "ok"), ("uav_localization", "no map\nyet")])
    heartbeat.hear([("uav_localization", "active")])
    assert systemd.hear("active", 1)
    assert systemd.heard == ["READY=1\nWATCHDOG=1\nSTATUS=no map yet", "WATCHDOG=1\nSTATUS=active"]


def test_without_systemd_nothing_is_told(supervise: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    supervise.notify("READY=1")


SUPERVISED = """
import runpy, sys, time
names = runpy.run_path({script!r})
sys.exit(names["supervise"](sys.argv[1:], lambda: time.sleep(0.05)))
"""


def supervised(*command: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", SUPERVISED.format(script=str(SCRIPT)), *command]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -KILL $$", 137)])
def test_it_ends_as_the_launch_ends(script: str, status: int) -> None:
    process = supervised("sh", "-c", script)
    process.communicate(timeout=20)
    assert process.returncode == status


# A launch with a node: it ends when it is asked to, and the node a moment after it. The node waits for the signal with
# no handler: one that runs while "node runs" is being flushed can't print, and one before the sleep doesn't end it.
LAUNCH_NODE = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
print("node runs", flush=True)
signal.sigwait({signal.SIGINT})
time.sleep(0.4)
print("node ended", flush=True)
"""
LAUNCH = """
import subprocess, sys
process = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
try:
    process.wait()
except KeyboardInterrupt:
    print("launch asked", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_ends_the_launch_and_waits_for_its_nodes(number: int, systemd: Systemd) -> None:
    process = supervised(sys.executable, "-c", LAUNCH, LAUNCH_NODE)
    assert process.stdout is not None
    assert process.stdout.readline() == "node runs\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert out == "launch asked\nnode ended\n"
    assert systemd.hear("STOPPING=1", 1)


def test_what_does_not_end_is_killed(supervise: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(supervise, "LAUNCH_ENDS_S", 0.3)
    process = subprocess.Popen(
        ["bash", "-c", f"trap '' INT; touch '{tmp_path}/up'; sleep 60 & wait; wait"], start_new_session=True
    )
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    supervise._end(process)
    assert process.poll() == -signal.SIGKILL


# A node that says that it lives, ten times a second, and after a while only hangs.
NODE = """
import signal, sys, time
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
rclpy.init()
node = rclpy.create_node("publisher")
publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
try:
    while publisher.get_subscription_count() == 0:
        time.sleep(0.05)
    for _ in range(10):
        publisher.publish(DiagnosticArray(status=[DiagnosticStatus(name="uav1/uav_localization", message="active")]))
        time.sleep(0.1)
    time.sleep(60)
except KeyboardInterrupt:
    print("ended", flush=True)
"""


@pytest.mark.slow
def test_a_node_that_goes_silent_is_a_watchdog_that_starves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rclpy", reason="ROS 2 is not installed")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("ROS_DOMAIN_ID", str(100 + os.getpid() % 100))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    systemd = Systemd(str(tmp_path / "notify"))
    (tmp_path / "node.py").write_text(NODE)
    words = [sys.executable, str(SCRIPT), "uav_localization", "--", sys.executable, str(tmp_path / "node.py")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert systemd.hear("READY=1", 30), process.stderr
        assert systemd.hear("WATCHDOG=1\nSTATUS=active", 5)
        while systemd.hear("WATCHDOG=1", 3):
            pass  # it is fed, and then no more
        assert len(systemd.heard) <= 10
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)  # what systemd does then
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert out == "ended\n"
    assert systemd.hear("STOPPING=1", 1)
    systemd.socket.close()
