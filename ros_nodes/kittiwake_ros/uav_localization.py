"""The lifecycle node `uav_localization`: a UAV finds itself on a map from its camera and its odometry.

It only carries messages. Which image is used, when, and where the vehicle is now is decided in `flight_tracker`; the
localizer computes on a thread of its own, so that every image is taken while it does.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, QuaternionStamped
from nav_msgs.msg import OccupancyGrid, Odometry, Path
from sensor_msgs.msg import CameraInfo, CompressedImage, Imu, NavSatFix, Range
from sensor_msgs.msg import Image as ImageMessage
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.errors import KittiwakeError
from kittiwake_runtime.localization.camera import load_camera
from kittiwake_runtime.localization.localizer import Localizer, LocalizerConfig
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.outputs import Fix, write_track_csv, write_track_geojson
from kittiwake_runtime.localization.pictures import Canvas, belief_map, belief_picture
from kittiwake_runtime.localization.report import Update

from . import images, messages, qos, state_file
from .autopilot import AutopilotGate, GateConfig
from .belief_grid import BeliefGrid, belief_grid
from .flight_tracker import FlightTracker, Image, Job, locate
from .geometry import MapFrame
from .inputs import Inputs
from .lifecycle import ManagedNode, run
from .parameters import declare, read
from .priors import initial_pose, navsat_prior
from .settings import Settings
from .synchronize import Sensors

TRACK_LENGTH = 100_000
PATH_LENGTH = 1_000
BELIEF_PERIOD_S = 1.0
PICTURE_PX = 300
OTHER_CLOCK_S = 10.0
"""Stamps this far from ROS time are of another clock."""

Command = Callable[[Localizer], object]


class UavLocalization(ManagedNode):
    """See the module's head; parameters are in `settings`, topics in docs/ros.md."""

    def __init__(self, **options: Any) -> None:
        super().__init__("uav_localization", **options)
        declare(self, Settings)
        self._fix = self.offer(PoseWithCovarianceStamped, "~/fix", qos.output())
        self._navsat = self.offer(NavSatFix, "~/navsat", qos.output())
        self._pose = self.offer(Odometry, "~/pose", qos.output())
        self._path = self.offer(Path, "~/path", qos.latched())
        self._belief = self.offer(OccupancyGrid, "~/belief", qos.latched())
        self._picture = self.offer(ImageMessage, "~/belief_image", qos.latched())
        self._state = self.offer(DiagnosticStatus, "~/state", qos.output())
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/save_track", self._on_save_track)
        self._resources = ExitStack()
        self.tracker: FlightTracker | None = None

    def load(self) -> None:
        """Open the map, the model and the camera, and start from the last belief when there is one."""
        self.settings = settings = read(self, Settings)
        settings.check()
        index = self._resources.enter_context(MapIndex.open(settings.map))
        bundle = Bundle.open(settings.bundle or index.meta.bundle_name)
        engine = self._resources.enter_context(open_engine(bundle))
        self.localizer = Localizer(index, engine, LocalizerConfig(max_radius_m=settings.max_radius_m))
        self.frame = MapFrame.of(index)
        turn_rad = math.radians(settings.odometry_sigma_turn_deg)
        self.sensors = Sensors(settings.max_sample_gap_s, settings.odometry_sigma_share, turn_rad)
        self.health.counts.clear()
        self.health.refused.clear()
        self.tracker = FlightTracker(settings, index.footprint_m, self.sensors, self.health)
        self.tracker.camera = load_camera(settings.camera) if settings.camera else None
        self.inputs = Inputs(self, settings, self.sensors, self.tracker)
        self.gate = AutopilotGate(
            GateConfig(
                shadow=settings.mode == "shadow", rate_hz=settings.pose_rate_hz, correlation_s=settings.correlation_s
            )
        )
        self._worker = ThreadPoolExecutor(1, "localizer")
        self._resources.callback(self._worker.shutdown, wait=True, cancel_futures=True)
        self._done = self.create_guard_condition(self._on_done)
        self._resources.callback(self.destroy_guard_condition, self._done)
        self._running: deque[tuple[Future[Any], Callable[[Future[Any]], None]]] = deque()
        self._commands: list[Command] = []
        self._canvas: Canvas | None = None
        self._start_over()
        self._times_ms: dict[str, float] = {}
        self._belief_s = -math.inf
        self._restore()

    def start(self) -> None:
        """Subscribe, and begin to say where the vehicle is."""
        settings = self.settings
        self.bridge = self._open_bridge()
        self.broadcaster = self._open_tf()
        profile = qos.sensor(5, reliable=settings.image_reliable)
        if settings.compressed:
            self.listen(CompressedImage, "camera/image/compressed", self._on_image, profile)
        else:
            self.listen(ImageMessage, "camera/image", self._on_image, profile)
        self.listen(CameraInfo, "camera/camera_info", self.inputs.on_camera_info, qos.sensor())
        if self.bridge is None:
            self.listen(Imu, "imu", self._then_pump(self.inputs.on_imu), qos.sensor(50))
            self.listen(Odometry, "odometry", self._then_pump(self.inputs.on_odometry), qos.sensor(50))
        if settings.height_source == "range":
            self.listen(Range, "range", self._then_pump(self.inputs.on_range), qos.sensor(50))
        if settings.gimbal_source == "topic":
            self.listen(QuaternionStamped, "gimbal", self._then_pump(self.inputs.on_gimbal), qos.sensor(50))
        self.listen(PoseWithCovarianceStamped, "initialpose", self._on_initial_pose, qos.output())
        self.listen(NavSatFix, "prior_navsat", self._on_navsat_prior, qos.sensor())
        self.every(1 / settings.pose_rate_hz, self._publish_pose)
        self.every(0.02, self._pump)
        self.every(1.0, self._every_second)

    def stop(self) -> None:
        """Let the running update end, and keep the last belief."""
        self.settle()
        if self.bridge is not None:
            self.bridge.close()
        self._save_state(self._current())

    def settle(self) -> None:
        """Wait for what the localizer's thread computes, and let go of its results."""
        while self._running:
            future, _ = self._running.popleft()
            future.cancel() or future.exception()
        self.tracker.busy = False

    def unload(self) -> None:
        """Close map, model and thread."""
        self._resources.close()
        self.tracker = None

    def _open_bridge(self) -> Any:
        if self.settings.autopilot != "px4":
            return None
        from .px4 import Px4Bridge, Px4Config

        settings = self.settings
        config = Px4Config(
            namespace=settings.px4_namespace,
            source_id=settings.px4_source_id,
            odometry=settings.px4_odometry,
            use_height=settings.height_source == "autopilot",
        )
        return Px4Bridge(self, config, self.sensors)

    def _open_tf(self) -> Any:
        """A broadcaster, where tf2_ros is installed."""
        if not self.settings.publish_tf:
            return None
        try:
            from tf2_ros import TransformBroadcaster
        except ImportError:
            return None
        return TransformBroadcaster(self)

    def _then_pump(self, take: Callable[[Any], None]) -> Callable[[Any], None]:
        def taken(message: Any) -> None:
            take(message)
            if self.tracker.has_waiting:
                self._pump()

        return taken

    def _on_image(self, message: Any) -> None:
        taken_s = time.monotonic()
        inputs = self.inputs
        image = Image(inputs.image_time_s(message), partial(inputs.pixels, message), taken_s, message.header)
        if why := self.tracker.offer(image, inputs.image_problem(message)):
            self.refuse("camera/image", why)
        inputs.watch_clock(image.time_s, message)
        self._pump()

    def _pump(self) -> None:
        """Hand the newest usable image to the localizer when it is due and the localizer is idle."""
        job = self.tracker.next_job(time.monotonic())
        if job is None:
            return
        commands, self._commands = self._commands, []
        self._submit(partial(_timed_update, self.localizer, commands, job), partial(self._on_update, job))

    def _submit(self, task: Callable[[], Any], then: Callable[[Future[Any]], None]) -> None:
        """Run a task on the localizer's thread, and `then` on the executor's."""
        future = self._worker.submit(task)
        self._running.append((future, then))
        future.add_done_callback(lambda _: self._done.trigger())

    def _on_done(self) -> None:
        while self._running and self._running[0][0].done():
            future, then = self._running.popleft()
            then(future)

    def _on_update(self, job: Job, future: Future[Any]) -> None:
        error = future.exception()
        if error is not None:
            self.tracker.finished(job, None)
            self.health.counts["updates_failed"] += 1
            text = error.message if isinstance(error, KittiwakeError) else f"{type(error).__name__}: {error}"
            self.health.set("update", "error", f"the last update failed: {text}")
            self.get_logger().error(f"update: {text}", throttle_duration_sec=5.0)
            return
        update, task_s = future.result()
        self.health.set("update", "ok", "")
        if self.tracker.finished(job, update):
            self._publish_fix(job, update.fix)
            if job.image is not None:
                whole_s = time.monotonic() - job.image.arrived_s
                self._times_ms = {"task_ms": 1e3 * task_s, "node_ms": 1e3 * (whole_s - task_s)}
            self._publish_state()
            self._after_update(update)
        self._pump()

    def _publish_fix(self, job: Job, fix: Fix) -> None:
        self.track.append(fix)
        stamp = messages.stamp_of(fix.time_s)
        if job.image is not None and self.settings.camera_offset_s == 0.0:
            stamp = job.image.header.stamp  # to the nanosecond: who joins fixes with images needs that
        header = Header(stamp=stamp, frame_id=self.settings.map_frame)
        self._navsat.publish(messages.navsat_message(fix, self.frame, stamp, self.settings.base_frame))
        if not fix.is_believed:
            return
        pose = messages.pose_message(fix, self.frame, job.attitude_rad[:2], *self.inputs.height_and_tilt())
        if fix.source == "map_matched":
            self._fix.publish(messages.fix_message(pose, header))
        self.points.append(PoseStamped(header=header, pose=pose.pose))

    def _publish_pose(self) -> None:
        """The vehicle now, for whoever follows it; and to the autopilot, where the gate lets it pass."""
        pose = self.tracker.pose()
        now_s = self.now_s()
        sample = self.gate.consider(pose, now_s)
        if self.bridge is not None and sample is not None:
            self.health.set("autopilot", "warn", self.bridge.send(sample))
        if pose is None or not pose.is_believed or pose.time_s == self._posed_s:
            return
        self._posed_s = pose.time_s
        stamp = messages.stamp_of(pose.time_s)
        message = messages.pose_message(pose, self.frame, self.inputs.tilt_rad(), *self.inputs.height_and_tilt())
        frames = (self.settings.map_frame, self.settings.base_frame)
        self._pose.publish(messages.odometry_message(message, stamp, *frames, self.inputs.twist))
        if self.broadcaster is not None and self.inputs.odom_frame:
            self.broadcaster.sendTransform(
                messages.odom_transform(
                    self.frame.pose(pose), self.sensors.odometry.newest_raw, stamp, frames[0], self.inputs.odom_frame
                )
            )

    def _every_second(self) -> None:
        now_s = self.now_s()
        self.health.set("silence", "warn", self.tracker.silence(time.monotonic()))
        behind_s = now_s - self.sensors.odometry.poses.newest_s
        other = math.isfinite(behind_s) and abs(behind_s) > OTHER_CLOCK_S
        text = (
            f"odometry is stamped {behind_s:.0f} s behind ROS time: mend its clock, or set use_sim_time"
            if other
            else ""
        )
        self.health.set("clock", "warn", text)
        self.tracker.refusal = self.inputs.judge_clock()
        if self.sensors.odometry.resets:
            self.health.counts["odometry_resets"] = self.sensors.odometry.resets
        if self.bridge is not None:
            self.health.set("px4", "warn", "; ".join(self.bridge.problems()))
            held = self.gate.reason if self._is_converged() and self.settings.mode == "active" else ""
            self.health.set("gate", "warn", f"nothing is sent to the autopilot: {held}" if held else "")
        self._publish_state()
        stamp = self.get_clock().now().to_msg()
        if not self._is_converged():
            self._navsat.publish(messages.navsat_message(None, self.frame, stamp, self.settings.base_frame))
        if self.points:
            self._path.publish(messages.path_message(self.points, stamp, self.settings.map_frame))

    def _after_update(self, update: Update) -> None:
        """At most once a second: the belief to look at, and to disk."""
        if time.monotonic() - self._belief_s < BELIEF_PERIOD_S:
            return
        self._belief_s = time.monotonic()
        with_picture = self._picture.get_subscription_count() > 0
        believed = self._current()
        self._submit(partial(self._show, believed, with_picture), partial(self._publish_belief, update.fix.time_s))

    def _show(self, believed: Fix | None, with_picture: bool) -> tuple[BeliefGrid, Any]:
        """On the localizer's thread, between two updates."""
        self._save_state(believed)
        filter_, picture = self.localizer.filter, None
        if with_picture:
            self._canvas = self._canvas or Canvas.of(self.localizer.index, PICTURE_PX)
            picture = belief_picture(self._canvas, belief_map(filter_, self._canvas), size_px=PICTURE_PX)
        return belief_grid(filter_, self.frame), picture

    def _publish_belief(self, time_s: float, future: Future[Any]) -> None:
        if future.exception() is not None:
            self.health.set("belief", "warn", f"the belief can't be shown or kept: {future.exception()}")
            return
        self.health.set("belief", "ok", "")
        grid, picture = future.result()
        stamp = messages.stamp_of(time_s)
        self._belief.publish(messages.grid_message(grid, stamp, self.settings.map_frame))
        if picture is not None:
            header = Header(stamp=stamp, frame_id=self.settings.map_frame)
            self._picture.publish(images.to_message(picture, "rgb8", header))

    def publish_diagnostics(self) -> None:
        """The level of the localization is part of the diagnostics' own."""
        if self.tracker is not None and self.stage == "active":
            state, text = self._state_of(self._current())
            self.health.set("localization", {"converged": "ok", "searching": "warn"}.get(state, "error"), text)
        else:
            self.health.set("localization", "ok", "")
        super().publish_diagnostics()

    def _state_of(self, fix: Fix | None) -> tuple[str, str]:
        """The state, and why it is not converged."""
        if fix is None:
            return "searching", f"searching: {self.tracker.skipped or 'no image was used yet'}"
        if fix.is_believed:
            return "converged", ""
        reason = fix.reason or self.tracker.skipped
        return fix.state, f"{fix.state}: {reason}" if not reason.startswith(fix.state) else reason

    def _publish_state(self) -> None:
        fix = self._current()
        state, text = self._state_of(fix)
        level = {"converged": "ok", "searching": "warn"}.get(state, "error")
        values: dict[str, Any] = {
            "state": state,
            "reason": text or (fix.reason if fix else ""),
            "mode": self.settings.mode,
        }
        if fix is not None:
            values |= {"source": fix.source, "age_s": fix.age_s}
            values |= {"distance_m": fix.distance_since_match_m, "elsewhere": fix.elsewhere}
            if fix.is_believed:
                lat, lon = fix.wgs84()
                values |= {"lat_deg": f"{lat:.8f}", "lon_deg": f"{lon:.8f}", "yaw_deg": fix.yaw_deg()}
                values |= {"radius95_m": fix.radius95_m, "protection_radius_m": fix.protection_radius_m}
        self._state.publish(self.status(level, text or state, values))

    def values(self) -> dict[str, Any]:
        """What the diagnostics say besides the counters."""
        if self.tracker is None:
            return {}
        origin = self.frame.origin
        shown: dict[str, Any] = {
            "map_origin_lat_deg": f"{origin.lat_deg:.8f}",
            "map_origin_lon_deg": f"{origin.lon_deg:.8f}",
            "model": self.localizer.index.meta.bundle_name,
            "start": self._started_from,
            **self._times_ms,
            **self.inputs.values(),
        }
        if self.sensors.odometry.note:
            shown["odometry_note"] = self.sensors.odometry.note
        if self.settings.autopilot != "none":
            gate = self.gate
            shown |= {"autopilot_sent": gate.sent, "autopilot_held": gate.reason, "autopilot_oldest_s": gate.oldest_s}
            shown["autopilot_longest_gap_s"] = gate.longest_gap_s
            shown |= self.bridge.facts() if self.stage == "active" and self.bridge is not None else {}
        return shown

    def _current(self) -> Fix | None:
        return None if self.tracker is None else self.tracker.pose()

    def _is_converged(self) -> bool:
        fix = self._current()
        return fix is not None and fix.is_believed

    def _start_over(self) -> None:
        self.track: deque[Fix] = deque(maxlen=TRACK_LENGTH)
        self.points: deque[PoseStamped] = deque(maxlen=PATH_LENGTH)
        self._posed_s = -math.inf

    def _command(self, command: Command) -> None:
        """Have the localizer do something before its next update; what was believed no longer is."""
        self._commands.append(command)
        self.tracker.restart()
        self.points.clear()
        self._publish_state()

    def _on_initial_pose(self, message: PoseWithCovarianceStamped) -> None:
        try:
            prior = initial_pose(message, self.frame, self.settings.map_frame)
        except KittiwakeError as error:
            self.refuse("initialpose", error.message)
            return
        self._command(prior.apply)

    def _on_navsat_prior(self, message: NavSatFix) -> None:
        try:
            prior = navsat_prior(message)
        except KittiwakeError as error:
            self.refuse("prior_navsat", error.message)
            return
        self._command(prior.apply)

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.stage == "active", f"the node is {self.stage}"
        if response.success:
            self._command(Localizer.reset)
            response.message = "it searches the whole map again"
        return response

    def _on_save_track(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.tracker is None or not self.track:
            response.success, response.message = False, "there is no track yet"
            return response
        folder = FilePath(self.settings.track_folder).absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_track_csv(list(self.track), folder / "track.csv")
            write_track_geojson(list(self.track), folder / "track.geojson")
        except OSError as error:
            response.success, response.message = False, f"{folder}: {error.strerror}"
            return response
        response.success, response.message = True, f"{len(self.track)} updates in {folder}"
        return response

    def _save_state(self, fix: Fix | None) -> None:
        if self.settings.state_file and fix is not None and fix.is_believed:
            state_file.save(FilePath(self.settings.state_file), fix)

    def _restore(self) -> None:
        """Start from the last belief on disk; a file that can't be read is told of, and no more."""
        settings, self._started_from = self.settings, "nothing known"
        if not settings.state_file:
            return
        try:
            kept = state_file.load(FilePath(settings.state_file))
        except KittiwakeError as error:
            self.health.set("state_file", "warn", f"{error.message} ({error.hint})")
            return
        self.health.set("state_file", "ok", "")
        if kept is not None:
            limits = {"max_age_s": settings.state_max_age_s, "max_speed_m_s": settings.max_speed_m_s}
            self._started_from = state_file.restore(self.localizer, kept, self.now_s(), **limits)
            self.get_logger().info(self._started_from)


def _timed_update(localizer: Localizer, commands: Sequence[Command], job: Job) -> tuple[Update, float]:
    """An update and the seconds that it took, on the localizer's thread."""
    started_s = time.monotonic()
    for command in commands:
        command(localizer)
    update = locate(localizer, job)
    return update, time.monotonic() - started_s


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(UavLocalization, arguments)


if __name__ == "__main__":
    sys.exit(main())
