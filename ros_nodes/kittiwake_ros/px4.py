"""The bridge to PX4 over uXRCE-DDS: what its estimator says goes to the node's sensors, and poses go to it.

It is imported only where the parameter ``autopilot`` is ``px4``, since `px4_msgs` is then needed. What a message
holds is in `px4_messages`, clock and resets are in `px4_motion`, and whether a pose may be sent is decided before it
comes here, in `autopilot`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from . import px4_messages
from .geometry import yaw_of
from .px4_messages import Endpoint, MotionSample, Px4Error
from .px4_motion import DeadReckoning, Px4Clock

if TYPE_CHECKING:
    from .autopilot import AutopilotPose
    from .synchronize import Sensors

SILENT_S = 1.0
"""Without a message for so long, what PX4 last said is no longer what is."""

PX4_QOS = QoSProfile(
    reliability=ReliabilityPolicy.BEST_EFFORT,
    durability=DurabilityPolicy.VOLATILE,
    history=HistoryPolicy.KEEP_LAST,
    depth=10,
)
"""What PX4's agent offers and takes; a reliable subscriber would hear nothing."""


@dataclass(frozen=True)
class Px4Config:
    """How to speak to one vehicle.

    Attributes:
        namespace: before ``/fmu``, as ``/px4_1`` with several vehicles.
        source_id: the vehicle's ``EKF2_AGPn_ID``, 1 to 255.
        odometry: which message odometry is taken from: ``local_position`` says how far a reset moved the heading;
            ``odometry`` comes at twice the rate.
        use_height: whether PX4's height over ground is taken; only with a rangefinder on the vehicle.
    """

    namespace: str = ""
    source_id: int = 1
    odometry: str = "local_position"
    use_height: bool = False


class Px4Bridge:
    """Speaks to PX4 for a node.

    Args:
        node: that publishes and subscribes.
        config: how.
        sensors: takes attitude, odometry, gyro, gimbal (in ENU) and height over ground, in the node's clock.

    Raises:
        Px4Error: `px4_msgs` is missing, or lacks a message that is needed.
    """

    def __init__(self, node: Node, config: Px4Config, sensors: Sensors) -> None:
        self.config, self.clock = config, Px4Clock()
        self._node, self._sensors = node, sensors
        self._namespace = config.namespace.rstrip("/")
        self._outputs: dict[str, Endpoint] = {}
        self._reckoning = DeadReckoning()
        self._heard_s: dict[str, float] = {}
        self._fusion = self._rejection = self._bridged = ""
        self._says_fusion = False
        self._sent_s = -math.inf
        messages = px4_messages.installed_messages()
        self._input = px4_messages.position_input(messages)
        self._subscriptions: list[Any] = []
        self._listen(messages, "vehicle_attitude", "VehicleAttitude", self._on_attitude)
        from_position = config.odometry == "local_position"
        on_position = self._on_motion(px4_messages.motion_of_local_position, is_odometry=from_position)
        on_odometry = self._on_motion(px4_messages.motion_of_odometry, is_odometry=not from_position)
        self._listen(messages, "vehicle_local_position", "VehicleLocalPosition", on_position)
        self._listen(messages, "vehicle_odometry", "VehicleOdometry", on_odometry)
        gimbal = "GimbalDeviceAttitudeStatus"
        self._listen(messages, "gimbal_device_attitude_status", gimbal, self._on_gimbal, needed=False)
        flags = "EstimatorStatusFlags"
        self._listen(messages, "estimator_status_flags", flags, self._on_flags, needed=False)
        aid = "EstimatorAidSource2d"
        self._listen(messages, "estimator_aid_src_aux_global_position", aid, self._on_aid, needed=False)
        self._publisher = node.create_publisher(self._input.type, self.topic, PX4_QOS)

    @property
    def topic(self) -> str:
        """Where positions are sent."""
        return self._namespace + self._input.topic

    def send(self, pose: AutopilotPose) -> str:
        """Send a pose that may be sent; returns why it could not be, or an empty text."""
        if math.isnan(self.clock.offset_s):
            return "nothing was heard from PX4 yet, so its clock is not known"
        now_s = self._now_s()
        try:
            message = px4_messages.position_message(
                self._input.type,
                time_us=self.clock.to_px4_us(now_s),
                sample_us=self.clock.to_px4_us(pose.stamp_s),
                lat_deg=pose.lat_deg,
                lon_deg=pose.lon_deg,
                alt_amsl_m=pose.altitude_m,
                eph_m=pose.eph_m,
                reset_counter=pose.reset_counter,
                source_id=self.config.source_id,
            )
        except Px4Error as error:
            return error.message
        self._publisher.publish(message)
        self._sent_s = now_s
        return ""

    def problems(self) -> list[str]:
        """What stands between our poses and PX4's estimator, most telling first; empty when all is well."""
        now_s = self._now_s()
        found = []
        if not self._publisher.get_subscription_count():
            found.append(
                f"nobody listens on {self.topic}: is MicroXRCEAgent running, and is the topic in the firmware's "
                "dds_topics.yaml?" + self._other_versions(self._input)
            )
        motion = "vehicle_local_position" if self.config.odometry == "local_position" else "vehicle_odometry"
        for name in ("vehicle_attitude", motion):
            silent_s = now_s - self._heard_s.get(name, -math.inf)
            if silent_s > SILENT_S:
                since = "" if math.isinf(silent_s) else f" for {silent_s:.0f} s"
                found.append(f"no {name} from PX4{since}" + self._other_versions(self._outputs[name]))
        if now_s - self._sent_s < 5 * SILENT_S:  # it can't fuse what it does not get
            if self._is_fresh("estimator_status_flags", now_s) and self._fusion:
                found.append(self._fusion)
            if self._is_fresh("estimator_aid_src_aux_global_position", now_s) and self._rejection:
                found.append(self._rejection)
        return found

    def facts(self) -> dict[str, str]:
        """For diagnostics: where to, of which type, in which clock, and whether PX4 says that it fuses."""
        offset_s = self.clock.offset_s
        clock = "unknown" if math.isnan(offset_s) else f"{offset_s:.3f} s behind ours"
        fuses = "PX4 does not say"
        if self._says_fusion and self._is_fresh("estimator_status_flags", self._now_s()):
            fuses = "no" if self._fusion else "yes"
        return {
            "px4 topic": self.topic,
            "px4 message": self._input.type.__name__,
            "px4 listeners": str(self._publisher.get_subscription_count()),
            "px4 clock": "ours" if self.clock.is_synchronized else clock,
            "px4 fuses": fuses,
            "px4 odometry": self._bridged or "without resets",
        }

    def close(self) -> None:
        """Stop listening and sending."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._node.destroy_publisher(self._publisher)

    def _listen(
        self, messages: Any, name: str, type_name: str, take: Callable[[Any], None], needed: bool = True
    ) -> None:
        found = px4_messages.endpoint(messages, "out", name, type_name)
        if found is None:
            if needed:
                raise Px4Error(f"px4_msgs has no {type_name}", "build px4_msgs from the branch of your firmware")
            return

        def heard(message: Any) -> None:
            now_s = self._now_s()
            self._heard_s[name] = now_s
            self.clock.hear(int(message.timestamp), now_s)
            take(message)

        self._outputs[name] = found
        topic = self._namespace + found.topic
        self._subscriptions.append(self._node.create_subscription(found.type, topic, heard, PX4_QOS))

    def _on_attitude(self, message: Any) -> None:
        sample = px4_messages.attitude_sample(message)
        if sample is not None:
            self._sensors.add_attitude(self.clock.to_node_s(sample.time_us), sample.orientation)

    def _on_motion(self, read: Callable[[Any], MotionSample], *, is_odometry: bool) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            sample = read(message)
            time_s = self.clock.to_node_s(sample.time_us)
            if sample.body_rates_rad_s is not None:
                self._sensors.add_rates(time_s, sample.body_rates_rad_s)
            if self.config.use_height and math.isfinite(sample.height_agl_m):
                self._sensors.add_height(time_s, sample.height_agl_m)
            if is_odometry and (pose := self._reckoning.update(sample)) is not None:
                self._sensors.add_odometry(time_s, pose.x_m, pose.y_m, pose.yaw_rad)
                self._bridged = pose.note or self._bridged

        return take

    def _on_gimbal(self, message: Any) -> None:
        sample = px4_messages.gimbal_sample(message)
        if sample is None:
            return
        orientation = sample.orientation
        if sample.yaw_frame == "vehicle":
            vehicle = self._sensors.attitude.newest
            if vehicle is None:
                return
            orientation = px4_messages.turned(orientation, yaw_of(vehicle))
        self._sensors.add_gimbal(self.clock.to_node_s(sample.time_us), orientation)

    def _on_flags(self, message: Any) -> None:
        self._fusion = px4_messages.fusion_problem(message)
        self._says_fusion = hasattr(message, "cs_aux_gpos")

    def _on_aid(self, message: Any) -> None:
        self._rejection = px4_messages.rejection(message)

    def _is_fresh(self, name: str, now_s: float) -> bool:
        return now_s - self._heard_s.get(name, -math.inf) <= 2 * SILENT_S

    def _other_versions(self, endpoint: Endpoint) -> str:
        """A topic of this name in another version: `px4_msgs` is then of another release than the firmware."""
        name = re.compile(re.escape(self._namespace + endpoint.name) + r"(_v\d+)?")
        topics = [topic for topic, _ in self._node.get_topic_names_and_types() if name.fullmatch(topic)]
        others = [topic for topic in topics if topic != self._namespace + endpoint.topic]
        if not others:
            return ""
        return f"; there is {others[0]}, so px4_msgs is of another release than the firmware"

    def _now_s(self) -> float:
        return 1e-9 * self._node.get_clock().now().nanoseconds
