"""What goes wrong in flight: a camera that stops, a camera whose clock is off, a bag in place of a vehicle."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from rclpy.serialization import serialize_message
from ros_peers import DEADLINE_S, INPUTS, NODE, NodeProcess, Peer, Sample, image_message, publish_sample
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from kittiwake_ros import messages
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA

pytestmark = pytest.mark.slow

StartNode = Callable[..., NodeProcess]
Scene = Any
T0 = 1_750_000_000.0


class Recorder:
    """A publisher that writes into a bag, by rosbags, without ROS."""

    def __init__(self, writer: Writer, topic: str) -> None:
        kind = INPUTS[topic]
        name = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
        self._writer = writer
        self._connection = writer.add_connection(topic, name, typestore=get_typestore(Stores.ROS2_HUMBLE))

    def publish(self, message: Any) -> None:
        stamp = message.header.stamp
        self._writer.write(self._connection, stamp.sec * 10**9 + stamp.nanosec, serialize_message(message))


@pytest.mark.parametrize("storage", [StoragePlugin.SQLITE3, StoragePlugin.MCAP])
def test_a_bag_is_found_as_the_flight_is(
    scene: Scene, start_node: StartNode, peer: Peer, tmp_path: Path, storage: StoragePlugin
) -> None:
    with Writer(tmp_path / "bag", version=9, storage_plugin=storage) as writer:
        stand_in: Any = type("Stand", (), {"publishers": {topic: Recorder(writer, topic) for topic in peer.publishers}})
        for i, frame in enumerate(scene.frames):
            publish_sample(stand_in, scene.sample(i))
            stand_in.publishers["/camera/image"].publish(image_message(frame.image, frame.time_s))
    start_node(scene.parameters)
    peer.activate()
    heard = peer.heard[f"{NODE}/navsat"]
    with Reader(tmp_path / "bag") as reader:
        for connection, time_ns, raw in reader.messages():
            peer.publishers[connection.topic].publish(raw)
            if connection.topic == "/camera/image":
                answered = lambda t=time_ns: any(round(messages.seconds(m.header.stamp) * 1e9) == t for m in heard)  # noqa: E731
                peer.until(answered, "an answer to the image")
    peer.until(lambda: peer.state().get("state") == "converged", "convergence")
    peer.until(lambda: peer.state()["images_used"] == str(len(scene.frames)), "every image used")


def test_a_camera_that_stops_is_told_and_the_state_goes_on(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters | {"max_radius_m": 30.0})
    peer.activate()
    scene.fly(peer)
    peer.until(lambda: peer.state().get("state") == "converged", "convergence")
    last = scene.sample(len(scene.frames) - 1)
    x, y, yaw = last.odometry
    for i in range(1, 400):  # 20 m/s, straight on, at 20 Hz: 400 m without an image, as fast as it is taken
        at = (x + i * math.cos(yaw), y + i * math.sin(yaw), yaw)
        publish_sample(peer, Sample(last.time_s + 0.05 * i, last.attitude_rad, last.height_m, at))
        peer.executor.spin_once(timeout_sec=0.002)
    state = peer.until(lambda: peer.state() if peer.state()["state"] == "lost" else None, "the state lost")
    assert state["level"] == "2"
    assert "no image for" in peer.until(
        lambda: peer.diagnostics()["message"] if "no image for" in peer.diagnostics()["message"] else "", "the reason"
    )
    states = len(peer.heard[f"{NODE}/state"])
    poses = len(peer.heard[f"{NODE}/pose"])
    peer.until(lambda: len(peer.heard[f"{NODE}/state"]) > states + 1, "states of a lost node")
    assert len(peer.heard[f"{NODE}/pose"]) == poses, "no pose is given out while lost"
    assert math.isnan(peer.heard[f"{NODE}/navsat"][-1].latitude)


@pytest.mark.parametrize(("late_s", "level"), [(0.15, "1"), (0.3, "2")])
def test_a_camera_clock_that_is_off_is_found(
    scene: Scene, start_node: StartNode, peer: Peer, late_s: float, level: str
) -> None:
    """A camera that looks down and yaws, its stamps late by a known time; the gyro's are right."""
    ground = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (900, 900), np.uint8), (0, 0), 4.0)

    def yaw(t: float) -> float:
        return 0.3 * math.sin(0.9 * t) + 0.1 * math.sin(2.3 * t + 1)

    def photograph(t: float) -> Any:
        # Clockwise seen from above, as yaw is, the camera's x turns to its y: both look down.
        c, s = math.cos(yaw(t)), math.sin(yaw(t))
        to_ground = np.array([[c, -s, 450 - c * 180 + s * 150], [s, c, 450 - s * 180 - c * 150]])
        return cv2.warpAffine(ground, to_ground, (360, 300), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    start_node(scene.parameters)
    peer.activate()
    assert (DEFAULT_CAMERA.width, DEFAULT_CAMERA.height) == (360, 300)
    off = f"the camera's stamps are {1e3 * late_s:.0f} ms later"
    near = [off.replace(f"{1e3 * late_s:.0f}", f"{1e3 * late_s + d:.0f}") for d in range(-8, 9)]
    steps, started_s = itertools.count(), time.monotonic()

    def told_in_flight() -> bool:
        """Fly another 20 ms, at most three times as fast as time passes: a busy node misses images, so it flies on."""
        i = next(steps)
        t = 0.02 * i
        rate = (yaw(t + 1e-3) - yaw(t - 1e-3)) / 2e-3
        gyro = (0.0, 0.0, -rate)  # FLU: up, so clockwise is negative
        publish_sample(peer, Sample(T0 + t, (0.0, 0.0, yaw(t)), 120.0, (20 * t, 0.0, 0.0), gyro))
        if i % 5 == 0:
            message = image_message(photograph(t), T0 + t + late_s, encoding="mono8")
            peer.publishers["/camera/image"].publish(message)
        peer.spin(max(0.0, started_s + t / 3 - time.monotonic()))
        return any(text in peer.diagnostics().get("message", "") for text in near)

    peer.until(told_in_flight, off, 3 * DEADLINE_S)
    assert peer.diagnostics()["level"] == level
    if level == "2":
        late = image_message(photograph(0.0), T0 + 0.02 * next(steps) + 0.5, encoding="mono8")
        peer.publishers["/camera/image"].publish(late)
        peer.until(lambda: "images_refused" in peer.diagnostics(), "an image that is refused")
