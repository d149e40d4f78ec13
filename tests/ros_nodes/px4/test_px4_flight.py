"""A flight with PX4 on both sides of the real node: what its estimator would be given, from a prior to a silent link.

Node, localizer, gate and bridge are the real ones, in this process. Only what `px4_msgs` would carry is handed over
directly, since its stand-ins don't go over DDS, and the clock is the flight's.
"""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from rclpy.clock import ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.time import Time
from scipy.spatial.transform import Rotation
from std_msgs.msg import Header

from kittiwake_ros.images import to_message
from kittiwake_ros.messages import stamp_of
from kittiwake_ros.painted_ground import PaintedGround
from kittiwake_ros.simulated_flight import SimulatedFlight
from kittiwake_ros.uav_localization import UavLocalization
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Motion, Sensors, photograph
from kittiwake_runtime.localization.world import CRS, ORIGIN_EASTING_M, ORIGIN_NORTHING_M

pytestmark = pytest.mark.slow

BEGAN_S = 1_750_000_000.0
BOOTED_S = BEGAN_S - 321.0
IMAGE_S, POSE_S, SAMPLE_S, LINK_S = 2.0, 0.1, 0.02, 0.015
PRIOR_M = 120.0


class Vehicle:
    """Flies, says what PX4 says, and keeps what it is told. Its stamps count from its start, or are synchronized."""

    def __init__(self, messages: ModuleType, synchronized: bool) -> None:
        area = (0.0, 0.0, 1600.0, 1600.0)
        self.flight = SimulatedFlight(area, Motion(), Sensors(), 5, start=(800.0, 800.0), border_m=350.0)
        self.messages, self.zero_s = messages, 0.0 if synchronized else BOOTED_S
        self.told: list[tuple[float, Any]] = []
        self.listening: dict[str, Callable[[Any], None]] = {}

    @property
    def now_s(self) -> float:
        """The companion's clock."""
        return BEGAN_S + self.flight.time_s + LINK_S

    def us(self) -> int:
        """PX4's stamp of what it says now."""
        return round(1e6 * (BEGAN_S + self.flight.time_s - self.zero_s))

    def say(self) -> None:
        measured = self.flight.measure()
        roll, pitch, yaw = measured.attitude_rad
        x, y, z, w = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_quat()
        attitude = self.messages.VehicleAttitude()
        attitude.timestamp = attitude.timestamp_sample = self.us()
        attitude.q = [w, x, y, z]
        position = self.messages.VehicleLocalPosition()
        position.timestamp = position.timestamp_sample = self.us()
        position.heading, position.v_xy_valid = yaw, True
        position.vx, position.vy = measured.speed_m_s * math.cos(yaw), measured.speed_m_s * math.sin(yaw)
        position.dist_bottom, position.dist_bottom_valid = measured.truth.height_agl_m, True
        for topic, message in (("vehicle_attitude", attitude), ("vehicle_local_position", position)):
            (hear,) = [call for name, call in self.listening.items() if topic in name]
            hear(message)

    def error_m(self, message: Any) -> float:
        """How far what it was told is from where it was at that time, along its path of 20 m/s."""
        east, north = Grid.from_crs(CRS).from_wgs84(float(message.lat), float(message.lon))
        age_s = 1e-6 * (self.us() - message.timestamp_sample)
        truth = self.flight.truth
        x = truth.x_m - 20 * age_s * math.cos(truth.heading_rad)
        y = truth.y_m - 20 * age_s * math.sin(truth.heading_rad)
        return math.hypot(east - ORIGIN_EASTING_M - x, north - ORIGIN_NORTHING_M - y)


class Px4Node(UavLocalization):
    """The node, with the vehicle where `px4_msgs` would be, and its clock."""

    def __init__(self, vehicle: Vehicle, **options: Any) -> None:
        self.vehicle = vehicle
        super().__init__(**options)

    def create_subscription(self, kind: Any, topic: str, callback: Any, *others: Any, **more: Any) -> Any:
        if topic.startswith("/fmu/"):
            self.vehicle.listening[topic] = callback
            return None
        return super().create_subscription(kind, topic, callback, *others, **more)

    def create_publisher(self, kind: Any, topic: str, *others: Any, **more: Any) -> Any:
        if topic.startswith("/fmu/"):
            told = self.vehicle.told
            publish = lambda message: told.append((self.vehicle.error_m(message), message))  # noqa: E731
            return SimpleNamespace(publish=publish, get_subscription_count=lambda: 1)
        return super().create_publisher(kind, topic, *others, **more)

    def destroy_subscription(self, subscription: Any) -> bool:
        return subscription is None or super().destroy_subscription(subscription)

    def destroy_publisher(self, publisher: Any) -> bool:
        return isinstance(publisher, SimpleNamespace) or super().destroy_publisher(publisher)

    def get_clock(self) -> Any:
        now_ns = round(1e9 * self.vehicle.now_s)
        return SimpleNamespace(now=lambda: Time(nanoseconds=now_ns, clock_type=ClockType.ROS_TIME))


class Sortie:
    """A node and its vehicle, stepped together."""

    def __init__(self, node: Px4Node, ground: PaintedGround, executor: Any) -> None:
        self.node, self.vehicle = node, node.vehicle
        self._ground, self._executor, self._steps = ground, executor, 0

    def fly(self, seconds: float, *, talks: bool = True, sees: bool = True) -> None:
        """Go on for so long; PX4 may fall silent, the camera may stop."""
        for _ in range(round(seconds / SAMPLE_S)):
            self._steps += 1
            self.vehicle.flight.fly_to(self._steps * SAMPLE_S)
            if talks:
                self.vehicle.say()
            if sees and self._steps % round(IMAGE_S / SAMPLE_S) == 10:
                self._photograph()
            self._executor.spin_once(timeout_sec=0)
            if self._steps % round(POSE_S / SAMPLE_S) == 0:
                self.node._publish_pose()
            while self.node.tracker is not None and self.node.tracker.busy:
                self._executor.spin_once(timeout_sec=0.01)

    def _photograph(self) -> None:
        image = photograph(self._ground, DEFAULT_CAMERA, self.vehicle.flight.truth, "autumn", 1, threads=1)
        header = Header(stamp=stamp_of(BEGAN_S + self.vehicle.flight.time_s), frame_id="camera")
        self.node._on_image(to_message(image, "rgb8", header))


@pytest.fixture
def sortie(scene: Any, domain: int, px4_msgs: ModuleType, generation: str) -> Iterator[Callable[[str], Sortie]]:
    """``sortie(mode)``: an active node with a soft prior; one generation of PX4 keeps its own clock."""
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    executor = SingleThreadedExecutor(context=context)
    nodes: list[Px4Node] = []
    ground = PaintedGround(3)  # the scene's world

    def start(mode: str) -> Sortie:
        given = {
            "map": scene.map,
            "camera": scene.camera,
            "autopilot": "px4",
            "height_source": "autopilot",
            "mode": mode,
        }
        overrides = [Parameter(name, value=str(value)) for name, value in given.items()]
        vehicle = Vehicle(px4_msgs, synchronized=generation == "1.16")
        node = Px4Node(vehicle, context=context, parameter_overrides=overrides)
        nodes.append(node)
        executor.add_node(node)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        lat, lon = vehicle.flight.grid.to_wgs84(*vehicle.flight.place())
        node.localizer.set_prior(float(lat), float(lon), PRIOR_M)
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        return Sortie(node, ground, executor)

    yield start
    for node in nodes:
        node.close()
        node.destroy_node()
    executor.shutdown()
    ground.close()
    rclpy.shutdown(context=context)


def test_the_estimator_gets_fresh_positions_and_none_that_it_should_not(sortie: Callable[[str], Sortie]) -> None:
    flown = sortie("active")
    vehicle = flown.vehicle
    flown.fly(0.1)
    assert vehicle.told == []  # nothing was found yet
    flown.fly(24.0)
    count = len(vehicle.told)
    assert count > 50
    errors = np.array([error for error, _ in vehicle.told])
    sigmas = np.array([message.eph for _, message in vehicle.told])
    assert np.isfinite(sigmas).all()
    assert np.median(errors) < 15
    assert (errors < 3 * sigmas).mean() > 0.97
    sent = np.array([(message.timestamp, message.timestamp_sample) for _, message in vehicle.told], np.int64)
    assert np.diff(sent[:, 1]).min() > 0
    assert np.diff(sent[:, 1]).max() <= 1_000_000
    assert (sent[:, 0] - sent[:, 1]).max() <= 150_000
    assert {int(message.lat_lon_reset_counter) for _, message in vehicle.told} == {1}

    flown.fly(3.0, talks=False, sees=False)  # the link to PX4 drops
    assert len(vehicle.told) <= count + 1
    flown.fly(1.0, sees=False)
    assert len(vehicle.told) <= count + 1  # it is back, and the map was not matched again
    assert "waits for the next match" in flown.node.gate.reason


def test_in_the_shadow_nothing_is_sent(sortie: Callable[[str], Sortie]) -> None:
    flown = sortie("shadow")
    flown.fly(14.0)
    current = flown.node._current()
    assert current is not None
    assert current.is_believed
    assert flown.vehicle.told == []
