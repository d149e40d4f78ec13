"""The flight simulator as a process, over DDS: its lifecycle, what its messages say of each other, its faults."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import itertools
import math
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, Range

from kittiwake_ros import images
from kittiwake_ros.geometry import attitude_rad
from kittiwake_ros.resources import config, profile_variable
from kittiwake_ros.simulated_flight import STEP_S
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA
from kittiwake_runtime.localization.world import CRS

pytestmark = pytest.mark.slow

TOPICS = {
    "camera/image": Image,
    "camera/image/compressed": CompressedImage,
    "camera/camera_info": CameraInfo,
    "imu": Imu,
    "odometry": Odometry,
    "range": Range,
    "truth": Odometry,
    "truth_navsat": NavSatFix,
    "/clock": Clock,
}
DEADLINE_S = 30.0
HEARING = QoSProfile(reliability=ReliabilityPolicy.BEST_EFFORT, history=HistoryPolicy.KEEP_LAST, depth=200)


class Simulator:
    """The process, and a node that hears all that it says."""

    def __init__(self, process: subprocess.Popen[str], node: Any, executor: Any) -> None:
        self.process, self.node, self._executor = process, node, executor
        self.heard: dict[str, list[Any]] = defaultdict(list)
        for topic, kind in TOPICS.items():
            node.create_subscription(kind, topic, self.heard[topic].append, HEARING)

    def until(self, what: str, is_so: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        end = time.monotonic() + deadline_s
        while not is_so():
            assert time.monotonic() < end, (
                f"after {deadline_s} s: {what}; heard { {k: len(v) for k, v in self.heard.items()} }"
            )
            self._executor.spin_once(timeout_sec=0.05)

    def call(self, kind: Any, name: str, request: Any) -> Any:
        """The answer of a service that may be asked again: on a busy machine answers get lost."""
        client = self.node.create_client(kind, name)
        self.until(f"{name} is served", client.service_is_ready)
        futures: list[Any] = []

        def answered() -> bool:
            if not futures or time.monotonic() > asked_s + 5 * len(futures):
                futures.append(client.call_async(request))
            return any(future.done() for future in futures)

        asked_s = time.monotonic()
        self.until(f"{name} answers", answered)
        self.node.destroy_client(client)
        return next(future for future in futures if future.done()).result()

    def change(self, transition: int, goal: int) -> bool:
        """Ask for a transition; whether it led where it should (a second request may be refused: it is there)."""
        request = ChangeState.Request(transition=Transition(id=transition))
        self.call(ChangeState, "flight_simulator/change_state", request)
        return self.state() == goal

    def state(self) -> int:
        return int(self.call(GetState, "flight_simulator/get_state", GetState.Request()).current_state.id)

    def set(self, name: str, value: bool | float) -> Any:
        kind = ParameterType.PARAMETER_BOOL if isinstance(value, bool) else ParameterType.PARAMETER_DOUBLE
        held = (
            ParameterValue(type=kind, bool_value=value)
            if isinstance(value, bool)
            else ParameterValue(type=kind, double_value=value)
        )
        request = SetParameters.Request(parameters=[Parameter(name=name, value=held)])
        (result,) = self.call(SetParameters, "flight_simulator/set_parameters", request).results
        return result

    def more(self, topic: str, count: int = 1) -> list[Any]:
        """The next messages of a topic."""
        start = len(self.heard[topic])
        self.until(f"{count} more on {topic}", lambda: len(self.heard[topic]) >= start + count)
        return self.heard[topic][start:]

    def all_heard(self) -> None:
        """Every topic is matched: what comes from now on is heard."""
        topics = [topic for topic in TOPICS if topic != "/clock"]
        self.until("all topics have a publisher", lambda: all(self.node.count_publishers(topic) for topic in topics))


@pytest.fixture
def fly(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Simulator]]:
    """``fly(parameter=value)`` starts a simulator; it has to end by itself on SIGINT."""
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv(profile_variable(), str(config("fastdds_shm.xml")))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("listener", context=context)
    executor = rclpy.executors.SingleThreadedExecutor(context=context)
    executor.add_node(node)
    started: list[Simulator] = []

    def start(**parameters: Any) -> Simulator:
        values = {"camera_rate_hz": 2.0, "side_m": 2000.0, **parameters}
        words = [word for name, value in values.items() for word in ("-p", f"{name}:={value}")]
        command = [sys.executable, "-m", "kittiwake_ros.flight_simulator", "--ros-args", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        started.append(Simulator(process, node, executor))
        return started[-1]

    yield start
    for simulator in started:
        if simulator.process.poll() is None:
            simulator.process.send_signal(signal.SIGINT)
        try:
            said, _ = simulator.process.communicate(timeout=DEADLINE_S)
        finally:
            simulator.process.kill()
        assert simulator.process.returncode == 0, said
        assert "Traceback" not in said
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def seconds(stamp: Any) -> float:
    return stamp.sec + 1e-9 * stamp.nanosec


def test_it_flies_only_while_it_is_active(fly: Callable[..., Simulator]) -> None:
    simulator = fly()
    assert simulator.state() == State.PRIMARY_STATE_UNCONFIGURED
    assert simulator.change(Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE)
    assert simulator.change(Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE)
    simulator.all_heard()
    simulator.more("camera/image")
    assert simulator.change(Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE)
    before = len(simulator.heard["imu"])
    assert simulator.state() == State.PRIMARY_STATE_INACTIVE  # takes longer than two periods of the gyro
    assert len(simulator.heard["imu"]) - before <= 1  # what was on its way
    assert simulator.change(Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE)
    simulator.more("camera/image")
    simulator.process.send_signal(signal.SIGTERM)
    assert simulator.process.wait(timeout=DEADLINE_S) == 0


def test_its_messages_are_of_one_flight(fly: Callable[..., Simulator]) -> None:
    simulator = fly(autostart="true", time_factor="2.0", clock="'sim'")
    simulator.all_heard()
    simulator.more("imu", 60)
    simulator.more("camera/image", 3)
    heard = simulator.heard
    image, info = heard["camera/image"][-1], heard["camera/camera_info"][-1]
    assert (image.encoding, image.step, len(image.data)) == ("rgb8", 3 * image.width, 3 * image.width * image.height)
    simulator.more("camera/image/compressed")
    raw = {(m.header.stamp.sec, m.header.stamp.nanosec): m for m in heard["camera/image"]}
    jpeg = next(m for m in heard["camera/image/compressed"] if (m.header.stamp.sec, m.header.stamp.nanosec) in raw)
    same = images.to_array(raw[jpeg.header.stamp.sec, jpeg.header.stamp.nanosec]).astype(float)
    assert np.abs(images.decode(jpeg) - same).mean() < 12, "the same picture, its noise smoothed"
    assert (info.width, info.height) == (image.width, image.height) == (DEFAULT_CAMERA.width, DEFAULT_CAMERA.height)
    assert (info.k[0], info.k[2]) == (DEFAULT_CAMERA.fx, DEFAULT_CAMERA.cx)
    stamps = [seconds(message.header.stamp) for message in heard["imu"]]
    assert stamps[0] >= 1_750_000_000.0
    np.testing.assert_allclose(np.diff(stamps), 0.02, atol=1e-6)
    assert min(abs(seconds(image.header.stamp) - stamp) for stamp in stamps) < 0.0101  # whole steps of the flight
    assert seconds(heard["/clock"][-1].clock) >= stamps[-1] - 0.05

    grid = Grid.from_crs(CRS)
    for imu, fix, pose in zip(heard["imu"][-20:], heard["truth_navsat"][-20:], heard["truth"][-20:], strict=True):
        q = imu.orientation
        roll, pitch, yaw = attitude_rad((q.w, q.x, q.y, q.z))
        assert max(abs(roll), abs(pitch)) < math.radians(40)
        z, w = pose.pose.pose.orientation.z, pose.pose.pose.orientation.w
        yaw_of_truth = math.pi / 2 - 2 * math.atan2(z, w)  # the map's north is true north within 0.03 degrees here
        assert abs(math.degrees(math.remainder(yaw - yaw_of_truth, math.tau))) < 2.5
        assert all(math.isfinite(value) for value in grid.from_wgs84(fix.latitude, fix.longitude))
    fixes, poses = ({seconds(m.header.stamp): m for m in heard[name]} for name in ("truth_navsat", "truth"))
    both = sorted(fixes.keys() & poses.keys())  # one topic may be a message ahead of the other
    first, last = fixes[both[0]], fixes[both[-1]]
    moved = np.subtract(
        grid.from_wgs84(last.latitude, last.longitude), grid.from_wgs84(first.latitude, first.longitude)
    )
    p, q = poses[both[-1]].pose.pose.position, poses[both[0]].pose.pose.position
    assert math.hypot(*moved) == pytest.approx(math.hypot(p.x - q.x, p.y - q.y), rel=2e-3)
    assert np.median([message.range for message in heard["range"]]) == pytest.approx(120, rel=0.15)


def test_faults_are_switched_while_it_flies(fly: Callable[..., Simulator]) -> None:
    simulator = fly(autostart="true")
    simulator.all_heard()
    simulator.more("camera/image")

    def largest_step_m(topic: str) -> float:
        places = [(m.pose.pose.position.x, m.pose.pose.position.y) for m in simulator.heard[topic]]
        return max((math.dist(a, b) for a, b in itertools.pairwise(places)), default=0.0)

    refused = simulator.set("fault_camera_offset_s", 5.0)
    assert not refused.successful
    assert "fault_camera_offset_s" in refused.reason

    def off_the_flights_steps_s() -> float:
        """Sensors are stamped at whole steps of the flight, and so are images of a camera whose clock is right."""
        image_s = seconds(simulator.more("camera/image", 4)[-1].header.stamp)
        return math.remainder(image_s - seconds(simulator.heard["imu"][-1].header.stamp), STEP_S)

    assert off_the_flights_steps_s() == pytest.approx(0.0, abs=1e-4)
    assert simulator.set("fault_camera_offset_s", 0.153).successful
    assert off_the_flights_steps_s() == pytest.approx(0.003, abs=1e-4)

    # A queue that overflowed leaves a step of some seconds' flight, at 20 m/s: far less than what is asked for.
    assert max(largest_step_m("truth"), largest_step_m("odometry")) < 200
    assert simulator.set("fault_kidnap_m", 800.0).successful
    simulator.until("it is elsewhere", lambda: largest_step_m("truth") > 500)
    assert largest_step_m("odometry") < 200  # which no sensor notices
    assert simulator.set("fault_odometry_jump_m", 700.0).successful
    simulator.until("odometry has jumped", lambda: largest_step_m("odometry") > 500)

    assert simulator.set("fault_camera_stops", True).successful
    simulator.more("imu", 25)  # what was being painted is out by then
    count = len(simulator.heard["camera/image"])
    simulator.more("imu", 75)
    assert len(simulator.heard["camera/image"]) == count
    assert simulator.set("fault_camera_stops", False).successful
    simulator.more("camera/image")


def test_a_wrong_parameter_is_a_failed_transition(fly: Callable[..., Simulator]) -> None:
    simulator = fly(camera="/nowhere/camera.yaml")
    assert not simulator.change(Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE)
    assert simulator.state() == State.PRIMARY_STATE_UNCONFIGURED
