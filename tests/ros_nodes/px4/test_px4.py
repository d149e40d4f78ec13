"""The bridge against a vehicle that is known: what it subscribes to, hands on, sends, and says when it is not heard.

`px4_msgs` can't be built from wheels, so its stand-ins don't go over DDS; this node records in place of rclpy's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from scipy.spatial.transform import Rotation

from kittiwake_ros.px4 import Px4Bridge, Px4Config
from kittiwake_ros.px4_messages import Px4Error

NOW_S = 1_750_000_000.0


@dataclass
class Vehicle:
    """A node whose other side is a vehicle: hands messages in, and keeps what was published."""

    now_s: float = NOW_S
    listeners: int = 1
    topics: list[str] = field(default_factory=list)
    subscribed: dict[str, Callable[[Any], None]] = field(default_factory=dict)
    published: list[Any] = field(default_factory=list)
    destroyed: int = 0

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=round(1e9 * self.now_s)))

    def create_subscription(self, kind: Any, topic: str, callback: Callable[[Any], None], qos: Any) -> str:
        assert qos.reliability.name == "BEST_EFFORT"  # a reliable one hears nothing from PX4
        self.subscribed[topic] = callback
        return topic

    def create_publisher(self, kind: Any, topic: str, qos: Any) -> Any:
        self.topic = topic
        return SimpleNamespace(publish=self.published.append, get_subscription_count=lambda: self.listeners)

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [(topic, []) for topic in self.topics]

    def destroy_subscription(self, subscription: Any) -> None:
        self.destroyed += 1

    destroy_publisher = destroy_subscription

    def say(self, name: str, message: Any) -> None:
        (callback,) = [call for topic, call in self.subscribed.items() if topic.partition("_v1")[0].endswith(name)]
        callback(message)


@dataclass
class Heard:
    """What the node's sensors were given."""

    attitudes: list[Any] = field(default_factory=list)
    odometry: list[Any] = field(default_factory=list)
    rates: list[Any] = field(default_factory=list)
    heights: list[Any] = field(default_factory=list)
    gimbals: list[Any] = field(default_factory=list)
    attitude: Any = field(default_factory=lambda: SimpleNamespace(newest=None))

    def add_attitude(self, time_s: float, q: Any) -> str:
        self.attitude.newest = q
        self.attitudes.append((time_s, q))
        return ""

    def add_odometry(self, *sample: float) -> str:
        self.odometry.append(sample)
        return ""

    def add_rates(self, *sample: Any) -> str:
        self.rates.append(sample)
        return ""

    def add_height(self, *sample: float) -> str:
        self.heights.append(sample)
        return ""

    def add_gimbal(self, *sample: Any) -> str:
        self.gimbals.append(sample)
        return ""


def bridged(**config: Any) -> tuple[Px4Bridge, Vehicle, Heard]:
    vehicle, heard = Vehicle(), Heard()
    return Px4Bridge(vehicle, Px4Config(**config), heard), vehicle, heard  # type: ignore[arg-type]


def attitude(messages: ModuleType, time_us: int, yaw: float = 0.0) -> Any:
    message = messages.VehicleAttitude()
    message.timestamp = message.timestamp_sample = time_us
    message.q = [math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)]
    return message


def position(messages: ModuleType, time_us: int, **values: Any) -> Any:
    message = messages.VehicleLocalPosition()
    message.timestamp = message.timestamp_sample = time_us
    message.v_xy_valid = True
    for name, value in values.items():
        setattr(message, name, value)
    return message


def pose(stamp_s: float) -> Any:
    return SimpleNamespace(
        stamp_s=stamp_s, lat_deg=60.0, lon_deg=17.5, altitude_m=math.nan, eph_m=12.0, reset_counter=4
    )


def us(time_s: float) -> int:
    return round(1e6 * time_s)


def test_it_speaks_on_the_topics_of_the_installed_messages(px4_msgs: ModuleType, generation: str) -> None:
    _, vehicle, _ = bridged(namespace="/px4_1/")
    assert vehicle.topic == "/px4_1/fmu/in/aux_global_position" + ("" if generation == "1.16" else "_v1")
    assert "/px4_1/fmu/out/vehicle_attitude" in vehicle.subscribed
    assert len(vehicle.subscribed) == 6


def test_a_pose_is_sent_in_px4s_clock(px4_msgs: ModuleType, generation: str) -> None:
    bridge, vehicle, _ = bridged(source_id=7)
    assert "clock is not known" in bridge.send(pose(NOW_S - 0.05))
    assert vehicle.published == []
    vehicle.say("vehicle_attitude", attitude(px4_msgs, 90_000_000))  # 90 s after boot
    assert bridge.send(pose(NOW_S - 0.05)) == ""
    (sent,) = vehicle.published
    assert (sent.timestamp, sent.timestamp_sample) == (90_000_000, 89_950_000)
    assert (sent.lat, sent.lon, sent.eph, sent.lat_lon_reset_counter) == (60.0, 17.5, 12.0, 4)
    if generation != "1.16":
        assert sent.id == 7


def test_a_synchronized_vehicle_is_told_our_time(px4_msgs: ModuleType) -> None:
    bridge, vehicle, _ = bridged()
    vehicle.say("vehicle_attitude", attitude(px4_msgs, us(NOW_S - 0.02)))
    assert bridge.send(pose(NOW_S - 0.05)) == ""
    assert vehicle.published[0].timestamp_sample == us(NOW_S - 0.05)
    assert bridge.facts()["px4 clock"] == "ours"


def test_what_can_not_be_sent_says_why(px4_msgs: ModuleType) -> None:
    bridge, vehicle, _ = bridged()
    vehicle.say("vehicle_attitude", attitude(px4_msgs, us(NOW_S)))
    bad = pose(NOW_S)
    bad.eph_m = math.inf
    assert "eph" in bridge.send(bad)
    assert vehicle.published == []


def test_odometry_is_velocity_and_never_the_position(px4_msgs: ModuleType) -> None:
    bridge, vehicle, heard = bridged()
    for i in range(101):  # 20 m/s to the north for 2 s; after one second the estimator moves itself by 300 m
        jumped = {"x": 300.0, "xy_reset_counter": 1} if i > 50 else {}
        vehicle.now_s = NOW_S + 0.02 * i
        vehicle.say("vehicle_local_position", position(px4_msgs, us(vehicle.now_s), vx=20.0, **jumped))
    time_s, x, y, yaw = heard.odometry[-1]
    assert time_s == pytest.approx(NOW_S + 2.0, abs=1e-6)
    np.testing.assert_allclose([x, y, yaw], [0.0, 40.0, math.pi / 2], atol=1e-4)
    assert bridge.problems() == ["no vehicle_attitude from PX4"]
    assert bridge.facts()["px4 odometry"] == "without resets"
    turned = position(px4_msgs, us(NOW_S + 2.02), vx=20.0, heading=0.1, delta_heading=0.1, heading_reset_counter=1)
    vehicle.say("vehicle_local_position", turned)
    assert heard.odometry[-1][3] == pytest.approx(math.pi / 2, abs=1e-6)
    assert bridge.facts()["px4 odometry"] == "PX4's heading was reset by -5.7°"


@pytest.mark.parametrize("use_height", [True, False])
def test_height_is_taken_only_when_asked_for(px4_msgs: ModuleType, use_height: bool) -> None:
    _, vehicle, heard = bridged(use_height=use_height)
    vehicle.say("vehicle_local_position", position(px4_msgs, us(NOW_S), dist_bottom=80.0, dist_bottom_valid=True))
    assert [height for _, height in heard.heights] == ([80.0] if use_height else [])


def test_the_other_message_gives_odometry_when_it_is_chosen(px4_msgs: ModuleType) -> None:
    _, vehicle, heard = bridged(odometry="odometry")
    for i in range(51):
        message = px4_msgs.VehicleOdometry()
        message.timestamp = message.timestamp_sample = us(NOW_S + 0.02 * i)
        message.pose_frame = message.velocity_frame = message.POSE_FRAME_NED
        message.q, message.velocity = [1, 0, 0, 0], [0, 10, 0]  # faces north, drifts east
        message.angular_velocity = [0.1, 0.2, 0.3]
        vehicle.now_s = NOW_S + 0.02 * i
        vehicle.say("vehicle_odometry", message)
        vehicle.say("vehicle_local_position", position(px4_msgs, us(vehicle.now_s), vx=99.0))
    np.testing.assert_allclose(heard.odometry[-1][1:], [10.0, 0.0, math.pi / 2], atol=1e-4)
    np.testing.assert_allclose(heard.rates[-1][1], [0.1, -0.2, -0.3], atol=1e-7)


def test_a_gimbals_yaw_against_the_vehicle_is_brought_to_the_earth(px4_msgs: ModuleType) -> None:
    _, vehicle, heard = bridged()
    message = px4_msgs.GimbalDeviceAttitudeStatus()
    message.timestamp = us(NOW_S)
    down_left = Rotation.from_euler("ZYX", [-0.5, -1.3, 0.0])  # FRD: half a radian to the left of the nose
    x, y, z, w = down_left.as_quat()
    message.q, message.device_flags = [w, x, y, z], 32  # YAW_IN_VEHICLE_FRAME
    vehicle.say("gimbal_device_attitude_status", message)
    assert heard.gimbals == []  # against which heading?
    vehicle.say("vehicle_attitude", attitude(px4_msgs, us(NOW_S), yaw=1.0))
    vehicle.say("gimbal_device_attitude_status", message)
    q = heard.gimbals[0][1]
    axis = Rotation.from_quat([q[1], q[2], q[3], q[0]]).apply([1, 0, 0])
    north, east, down = (Rotation.from_euler("Z", 1.0) * down_left).apply([1, 0, 0])
    np.testing.assert_allclose(axis, [east, north, -down], atol=1e-6)


def test_it_says_when_nobody_listens_and_when_versions_differ(px4_msgs: ModuleType, generation: str) -> None:
    bridge, vehicle, _ = bridged()
    vehicle.listeners = 0
    other = "/fmu/in/aux_global_position" + ("_v1" if generation == "1.16" else "")
    vehicle.topics = [vehicle.topic, other, "/fmu/in/aux_global_position_extra"]
    first = bridge.problems()[0]
    assert first.startswith(f"nobody listens on {vehicle.topic}")
    assert f"there is {other}, so px4_msgs is of another release" in first


def test_it_says_when_px4_falls_silent_or_does_not_fuse(px4_msgs: ModuleType) -> None:
    bridge, vehicle, _ = bridged()
    assert bridge.problems() == ["no vehicle_attitude from PX4", "no vehicle_local_position from PX4"]

    def speak(**flags: bool) -> None:
        vehicle.say("vehicle_attitude", attitude(px4_msgs, us(vehicle.now_s)))
        vehicle.say("vehicle_local_position", position(px4_msgs, us(vehicle.now_s)))
        message = px4_msgs.EstimatorStatusFlags()
        message.timestamp = us(vehicle.now_s)
        for name, value in flags.items():
            setattr(message, name, value)
        vehicle.say("estimator_status_flags", message)

    speak(cs_yaw_align=True)
    assert bridge.problems() == []  # nothing was sent: nothing to fuse
    bridge.send(pose(vehicle.now_s))
    assert "EKF2_AGP0_CTRL" in bridge.problems()[0]
    assert bridge.facts()["px4 fuses"] == "no"
    speak(cs_yaw_align=True, cs_aux_gpos=True)
    assert bridge.problems() == []
    assert bridge.facts()["px4 fuses"] == "yes"
    aid = px4_msgs.EstimatorAidSource2d()
    aid.timestamp, aid.innovation_rejected = us(vehicle.now_s), True
    aid.innovation, aid.test_ratio = [80.0, 0.0], [9.0, 0.0]
    vehicle.say("estimator_aid_src_aux_global_position", aid)
    assert bridge.problems() == ["PX4 rejects our position: 80 m from its own, test ratio 9.0"]
    vehicle.now_s += 4.0
    assert bridge.problems()[0] == "no vehicle_attitude from PX4 for 4 s"
    assert bridge.facts()["px4 fuses"] == "PX4 does not say"


def test_flags_that_know_nothing_of_positions_claim_nothing(px4_msgs: ModuleType) -> None:
    bridge, vehicle, _ = bridged()
    flags = type("EstimatorStatusFlags", (), {"timestamp": us(NOW_S), "cs_yaw_align": True})()  # PX4 1.14
    vehicle.say("estimator_status_flags", flags)
    assert bridge.facts()["px4 fuses"] == "PX4 does not say"


def test_a_message_that_is_needed_is_missed_at_the_start(px4_msgs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(px4_msgs, "VehicleLocalPosition")
    with pytest.raises(Px4Error, match="no VehicleLocalPosition"):
        bridged()


def test_optional_messages_may_be_absent(px4_msgs: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GimbalDeviceAttitudeStatus", "EstimatorStatusFlags", "EstimatorAidSource2d"):
        monkeypatch.delattr(px4_msgs, name)
    bridge, vehicle, _ = bridged()
    assert len(vehicle.subscribed) == 3
    bridge.close()
    assert vehicle.destroyed == 4
