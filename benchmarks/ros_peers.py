"""The other end of a node, for benchmarks and tests: processes, a peer on the same DDS domain, and flights to publish.

Nothing here is a stand-in: nodes are processes, and messages go over DDS. Whoever waits, waits for a condition with a
deadline.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import CameraInfo, Image, Imu, NavSatFix, Range
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from kittiwake_ros import images, messages, qos
from kittiwake_ros.geometry import from_attitude, from_yaw
from kittiwake_ros.resources import config, profile_variable
from kittiwake_runtime.localization.camera import Camera

DEADLINE_S = 20.0
NODE = "/uav_localization"
LOCAL = {profile_variable(): str(config("fastdds_shm.xml")), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
OUTPUTS: dict[str, tuple[Any, Any]] = {
    f"{NODE}/fix": (PoseWithCovarianceStamped, qos.output(100)),
    f"{NODE}/navsat": (NavSatFix, qos.output(100)),
    f"{NODE}/pose": (Odometry, qos.output(100)),
    f"{NODE}/state": (DiagnosticStatus, qos.output(100)),
    "/diagnostics": (DiagnosticArray, qos.output(100)),
}
INPUTS: dict[str, Any] = {
    "/camera/image": Image,
    "/camera/camera_info": CameraInfo,
    "/imu": Imu,
    "/odometry": Odometry,
    "/range": Range,
}


class NodeProcess:
    """A node as a process of its own; a context manager that terminates it.

    Args:
        domain: ROS_DOMAIN_ID.
        parameters: of the node.
        module: that is run.
        arguments: further ones after ``--ros-args``, such as ``--params-file``.
        log: file that its output goes to.
        environment: beside this process's own.
    """

    def __init__(
        self, domain: int, parameters: Mapping[str, Any], log: Path, *, module: str = "kittiwake_ros.uav_localization",
        arguments: Sequence[str] = (), environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        words = [word for name, value in parameters.items() for word in ("-p", f"{name}:={_yaml(value)}")]
        self.log = log
        given = ["--ros-args", *words, *arguments] if words or arguments else []
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *given],
                stdout=file, stderr=subprocess.STDOUT,
                env=os.environ | LOCAL | {"ROS_DOMAIN_ID": str(domain)} | (environment or {}),
            )  # fmt: skip

    def end(self, how: int = signal.SIGINT, seconds: float = DEADLINE_S) -> int:
        """Send a signal and wait; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(seconds)

    def output(self) -> str:
        """All that it printed so far."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end(signal.SIGINT, 5.0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5.0)


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"'{value}'" if isinstance(value, (str, Path)) else str(list(value) if isinstance(value, tuple) else value)


ASKED = 3
"""Times that a service is asked before it counts as silent."""
LEADS_TO = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}


class Peer:
    """Publishes what a vehicle says and hears what the node says, on its own context.

    Attributes:
        heard: messages by topic, in the order that they came.
    """

    def __init__(self, domain: int, *, camera: Camera | None = None, name: str = "peer") -> None:
        os.environ.update(LOCAL)
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain, signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self.node = rclpy.create_node(name, context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.publishers: dict[str, Any] = {}
        self.camera = camera

    def publish_to(self, topics: Iterable[str], profile: Any = None) -> None:
        """Make publishers for inputs of the node."""
        for topic in topics:
            self.publishers[topic] = self.node.create_publisher(INPUTS[topic], topic, profile or qos.output(50))

    def listen_to(self, *topics: str) -> None:
        """Hear outputs of the node."""
        for topic in topics:
            kind, profile = OUTPUTS[topic]
            self.hear(kind, topic, profile)

    def hear(self, kind: Any, topic: str, profile: Any) -> None:
        """Hear any topic."""
        self.node.create_subscription(kind, topic, self.heard[topic].append, profile)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = DEADLINE_S) -> Any:
        """Spin until a condition holds; returns its value.

        Raises:
            TimeoutError: it did not within the time; `what` was waited for.
        """
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not within {seconds:g} s")
            self.executor.spin_once(timeout_sec=0.02)
        return value

    def matched(self) -> None:
        """Wait until the node hears every publisher, and every subscription hears the node."""
        for topic, publisher in self.publishers.items():
            self.until(lambda p=publisher: p.get_subscription_count() > 0, f"a subscriber of {topic}")
        for topic in self.heard:
            if topic != "/diagnostics":
                self.until(lambda t=topic: self.node.count_publishers(t) > 0, f"a publisher of {topic}")

    def spin(self, seconds: float) -> None:
        """Spin for a while: only where passing time is what is tested."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def call(self, kind: Any, name: str, request: Any, seconds: float = DEADLINE_S) -> Any:
        """Call a service; ask again when no answer comes.

        A server may answer before it has discovered the client's end, on a busy machine, and the answer is then lost.
        """
        return self._ask(kind, name, request, seconds)[0]

    def _ask(self, kind: Any, name: str, request: Any, seconds: float) -> tuple[Any, int]:
        """A service's answer, and how often it had to be asked."""
        client, futures = self.node.create_client(kind, name), []
        self.until(client.service_is_ready, f"the service {name}", seconds)
        for _ in range(ASKED):
            futures.append(client.call_async(request))
            with suppress(TimeoutError):
                self.until(lambda: any(future.done() for future in futures), f"an answer of {name}", seconds)
                break
        else:
            raise TimeoutError(f"an answer of {name}: not within {ASKED} times {seconds:g} s")
        self.node.destroy_client(client)
        return next(future.result() for future in futures if future.done()), len(futures)

    def transition(self, name: str, node: str = NODE) -> bool:
        """Ask for a transition of the life cycle, as ``configure``; returns whether it was made."""
        number = getattr(Transition, f"TRANSITION_{name.upper()}")
        request = ChangeState.Request(transition=Transition(id=number))
        answer, asked = self._ask(ChangeState, f"{node}/change_state", request, DEADLINE_S)
        # Asked again, a node that has made the transition refuses it.
        return bool(answer.success) or (asked > 1 and self.lifecycle(node) == LEADS_TO.get(name))

    def lifecycle(self, node: str = NODE) -> str:
        """Its state, as ``active``."""
        return str(self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label)

    def activate(self) -> None:
        """Configure and activate the node, and wait until all topics are matched."""
        for name in ("configure", "activate"):
            if not self.transition(name):
                raise RuntimeError(f"{name} failed")
        self.matched()

    def trigger(self, service: str) -> Any:
        """Call one of the node's Trigger services."""
        return self.call(Trigger, f"{NODE}/{service}", Trigger.Request())

    def state(self) -> dict[str, str]:
        """The newest ``~/state`` as a mapping, its message under ``message``; empty before the first."""
        heard = self.heard[f"{NODE}/state"]
        return values_of(heard[-1]) if heard else {}

    def diagnostics(self) -> dict[str, str]:
        """The newest status on ``/diagnostics``; empty before the first."""
        heard = self.heard["/diagnostics"]
        return values_of(heard[-1].status[0]) if heard else {}

    def close(self) -> None:
        """Leave."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def values_of(status: Any) -> dict[str, str]:
    """A DiagnosticStatus as a mapping; ``message`` and ``level`` (0 to 3) among its keys."""
    level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
    return {pair.key: pair.value for pair in status.values} | {"message": status.message, "level": str(level)}


@dataclass(frozen=True)
class Sample:
    """What the vehicle says of itself at one time.

    Attributes:
        attitude_rad: roll, pitch, yaw of the body FRD in NED.
        height_m: above ground. odometry: x, y (metres) and yaw (radians) in a local frame.
        gyro_rad_s: in FLU.
    """

    time_s: float
    attitude_rad: tuple[float, float, float]
    height_m: float
    odometry: tuple[float, float, float]
    gyro_rad_s: tuple[float, float, float] = (0.0, 0.0, 0.0)


def image_message(pixels: Any, time_s: float, frame_id: str = "camera", encoding: str = "rgb8") -> Any:
    """An image with its stamp."""
    header = Header(stamp=messages.stamp_of(time_s), frame_id=frame_id)
    return images.to_message(pixels, encoding, header)


def publish_sample(peer: Peer, sample: Sample, only: Sequence[str] = ("/imu", "/odometry", "/range")) -> None:
    """Attitude and gyro, odometry, and the range along the body's down axis."""
    stamp = messages.stamp_of(sample.time_s)
    if "/imu" in only:
        imu = Imu(header=Header(stamp=stamp, frame_id="base_link"))
        imu.orientation = messages.quaternion_message(from_attitude(sample.attitude_rad))
        imu.angular_velocity.x, imu.angular_velocity.y, imu.angular_velocity.z = map(float, sample.gyro_rad_s)
        peer.publishers["/imu"].publish(imu)
    if "/odometry" in only:
        x, y, yaw = sample.odometry
        odometry = Odometry(header=Header(stamp=stamp, frame_id="odom"), child_frame_id="base_link")
        odometry.pose.pose.position.x, odometry.pose.pose.position.y = float(x), float(y)
        odometry.pose.pose.orientation = messages.quaternion_message(from_yaw(yaw))
        peer.publishers["/odometry"].publish(odometry)
    if "/range" in only:
        slant = sample.height_m / float(np.cos(sample.attitude_rad[0]) * np.cos(sample.attitude_rad[1]))
        header = Header(stamp=stamp, frame_id="base_link")
        peer.publishers["/range"].publish(Range(header=header, min_range=1.0, max_range=1000.0, range=slant))


def info_message(camera: Camera, time_s: float, frame_id: str = "camera") -> Any:
    """The CameraInfo of a camera."""
    info = CameraInfo(header=Header(stamp=messages.stamp_of(time_s), frame_id=frame_id))
    info.width, info.height, info.distortion_model = camera.width, camera.height, "plumb_bob"
    info.d, info.k = list(camera.distortion), camera.matrix.ravel()
    return info
