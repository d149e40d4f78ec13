"""What the localization node publishes; in which frame and with which stamp, docs/ros.md says."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from sensor_msgs.msg import Image, NavSatFix
from std_msgs.msg import Header

from kittiwake_runtime.localization.outputs import Fix

from . import images, messages, qos
from .belief_grid import BeliefGrid
from .diagnostics import Level
from .flight_tracker import Job
from .geometry import MapFrame
from .inputs import Inputs
from .settings import Settings

if TYPE_CHECKING:
    from .lifecycle import ManagedNode

PATH_LENGTH = 1_000
LEVELS: dict[str, Level] = {"converged": "ok", "searching": "warn", "lost": "error"}


class Outputs:
    """The publishers of one node, and what they have to remember of a flight.

    Args:
        node: that publishes.
    """

    def __init__(self, node: ManagedNode) -> None:
        self._node = node
        self._fix = node.offer(PoseWithCovarianceStamped, "~/fix", qos.output())
        self._navsat = node.offer(NavSatFix, "~/navsat", qos.output())
        self._pose = node.offer(Odometry, "~/pose", qos.output())
        self._path = node.offer(Path, "~/path", qos.latched())
        self._belief = node.offer(OccupancyGrid, "~/belief", qos.latched())
        self._picture = node.offer(Image, "~/belief_image", qos.latched())
        self._state = node.offer(DiagnosticStatus, "~/state", qos.output())
        self._points: deque[PoseStamped] = deque(maxlen=PATH_LENGTH)

    def open(self, settings: Settings, frame: MapFrame, inputs: Inputs) -> None:
        """Begin a flight."""
        self._settings, self._frame, self._inputs = settings, frame, inputs
        self._broadcaster = _broadcaster(self._node) if settings.publish_tf else None
        self.start_over()

    def start_over(self) -> None:
        """Forget the track."""
        self._points.clear()
        self._posed_s = -math.inf

    @property
    def wants_picture(self) -> bool:
        """Whether somebody looks at the picture of the belief."""
        return bool(self._picture.get_subscription_count())

    def fix(self, job: Job, fix: Fix) -> PoseStamped | None:
        """An update, with its image's stamp; from any thread.

        Returns:
            A point of the track, for :meth:`remember`; None when the fix is not believed.
        """
        stamp = messages.stamp_of(fix.time_s)
        if job.image is not None and self._settings.camera_offset_s == 0.0:
            stamp = job.image.header.stamp  # to the nanosecond: who joins fixes with images needs that
        self._navsat.publish(messages.navsat_message(fix, self._frame, stamp, self._settings.base_frame))
        if not fix.is_believed:
            return None
        header = Header(stamp=stamp, frame_id=self._settings.map_frame)
        tilt_rad = job.attitude_rad[:2] if job.image is not None else self._inputs.tilt_rad()
        pose = messages.pose_message(fix, self._frame, tilt_rad, *self._inputs.height_and_tilt())
        if fix.source == "map_matched":
            self._fix.publish(messages.fix_message(pose, header))
        return PoseStamped(header=header, pose=pose.pose)

    def remember(self, point: PoseStamped) -> None:
        """The track goes on to there."""
        self._points.append(point)

    def no_fix(self) -> None:
        """That there is none now: silence can't be told from a dead node."""
        stamp = self._node.get_clock().now().to_msg()
        self._navsat.publish(messages.navsat_message(None, self._frame, stamp, self._settings.base_frame))

    def pose(self, pose: Fix, odometry: tuple[float, float, float]) -> None:
        """A believed pose, once for each stamp, and the transform that follows from it.

        Args:
            odometry: x, y and yaw of the vehicle as its odometry has it now.
        """
        if pose.time_s == self._posed_s:
            return
        self._posed_s = pose.time_s
        settings, inputs, stamp = self._settings, self._inputs, messages.stamp_of(pose.time_s)
        message = messages.pose_message(pose, self._frame, inputs.tilt_rad(), *inputs.height_and_tilt())
        frames = (settings.map_frame, settings.base_frame)
        self._pose.publish(messages.odometry_message(message, stamp, *frames, inputs.twist))
        if self._broadcaster is not None and inputs.odom_frame:
            in_map = self._frame.pose(pose)
            transform = messages.odom_transform(in_map, odometry, stamp, settings.map_frame, inputs.odom_frame)
            self._broadcaster.sendTransform(transform)

    def path(self) -> None:
        """The believed track, for whoever looks: a thousand poses take milliseconds. Who comes late waits a second."""
        if self._points and self._path.get_subscription_count():
            stamp = self._node.get_clock().now().to_msg()
            self._path.publish(messages.path_message(self._points, stamp, self._settings.map_frame))

    def belief(self, grid: BeliefGrid, picture: Any, time_s: float) -> None:
        """The belief as a grid, and as a picture where there is one."""
        stamp = messages.stamp_of(time_s)
        self._belief.publish(messages.grid_message(grid, stamp, self._settings.map_frame))
        if picture is not None:
            header = Header(stamp=stamp, frame_id=self._settings.map_frame)
            self._picture.publish(images.to_message(picture, "rgb8", header))

    def state(self, state: str, reason: str, fix: Fix | None) -> None:
        """The state, always: how far to believe the pose, and why not."""
        values: dict[str, Any] = {"state": state, "reason": reason, "mode": self._settings.mode}
        if fix is not None:
            values |= {"source": fix.source, "age_s": fix.age_s, "distance_m": fix.distance_since_match_m}
            values |= {"elsewhere": fix.elsewhere}
            if fix.is_believed:
                lat, lon = fix.wgs84()
                values |= {"lat_deg": f"{lat:.8f}", "lon_deg": f"{lon:.8f}", "yaw_deg": fix.yaw_deg()}
                values |= {"radius95_m": fix.radius95_m, "protection_radius_m": fix.protection_radius_m}
        level: Level = LEVELS.get(state, "error")
        self._state.publish(self._node.status(level, reason or state, values))


def _broadcaster(node: ManagedNode) -> Any:
    """For transforms, where tf2_ros is installed."""
    try:
        from tf2_ros import TransformBroadcaster
    except ImportError:
        return None
    return TransformBroadcaster(node)
