"""The shipped transport profile: images larger than Fast DDS's own shared memory, best effort, all arrive."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from kittiwake_ros import qos
from kittiwake_ros.messages import seconds
from kittiwake_ros.resources import config, profile_variable
from kittiwake_runtime.localization.camera import Camera, save_camera

RATE_HZ = 5.0
IMAGES = 30


@pytest.mark.slow
def test_large_best_effort_images_arrive(domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv(profile_variable(), str(config("fastdds_shm.xml")))
    save_camera(Camera.from_fov(640, 480, 70.0), tmp_path / "camera.yaml")  # 921,600 bytes; the default is 524,288
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("listener", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    stamps: list[float] = []
    sizes: set[int] = set()

    def hear(message: Image) -> None:
        stamps.append(seconds(message.header.stamp))
        sizes.add(len(message.data))

    node.create_subscription(Image, "camera/image", hear, qos.sensor(2 * IMAGES))  # a busy machine is no lost image
    # Simulated time waits for the camera: the stamps are even, so that a lost image is a gap.
    given = {"clock": "'sim'", "camera_rate_hz": RATE_HZ, "time_factor": 50.0, "sensor_rate_hz": 10.0}
    given |= {"camera": tmp_path / "camera.yaml", "side_m": 2000.0, "autostart": "true"}
    words = [word for name, value in given.items() for word in ("-p", f"{name}:={value}")]
    process = subprocess.Popen([sys.executable, "-m", "kittiwake_ros.flight_simulator", "--ros-args", *words])
    end_s = time.monotonic() + 60
    while len(stamps) < IMAGES and time.monotonic() < end_s:
        executor.spin_once(timeout_sec=0.1)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)
    assert len(stamps) >= IMAGES
    assert sizes == {921_600}
    np.testing.assert_allclose(np.diff(stamps), 1 / RATE_HZ, atol=1e-3)
