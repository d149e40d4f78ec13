"""The lifecycle node `uav_localization`: a UAV finds itself on a map from its camera and its odometry.

It only carries messages. Which image is used, when, and where the vehicle is now is decided in `flight_tracker`; the
localizer computes on a thread of its own, so that every image is taken while it does.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any

from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped, QuaternionStamped
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Imu, NavSatFix, Range
from sensor_msgs.msg import Image as ImageMessage
from std_srvs.srv import Trigger

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.errors import KittiwakeError
from kittiwake_runtime.localization.camera import load_camera
from kittiwake_runtime.localization.localizer import Localizer, LocalizerConfig
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.outputs import Fix
from kittiwake_runtime.localization.pictures import Canvas, belief_map, belief_picture
from kittiwake_runtime.localization.report import Update

from . import qos
from .autopilot import AutopilotGate, GateConfig
from .belief_grid import BeliefGrid, belief_grid
from .flight_record import FlightRecord
from .flight_tracker import FlightTracker, Image, Job, locate
from .geometry import MapFrame
from .gimbal_tf import GimbalTransforms
from .inputs import Inputs
from .lifecycle import ManagedNode, run
from .messages import seconds
from .outputs import LEVELS, Outputs
from .parameters import declare, read
from .priors import Prior, initial_pose, navsat_prior
from .settings import Settings
from .synchronize import Sensors
from .worker import Worker

GIMBAL_RATE_HZ = 50.0
"""How often tf2 is asked for the gimbal."""
PICTURE_PX = 300
OTHER_CLOCK_S = 10.0
"""Stamps this far from ROS time are of another clock."""

Command = Callable[[Localizer], object]
"""Something for the localizer to do before an update."""


class UavLocalization(ManagedNode):
    """See the module's head; parameters are in `settings`, topics in docs/ros.md."""

    def __init__(self, **options: Any) -> None:
        super().__init__("uav_localization", **options)
        declare(self, Settings)
        self.outputs = Outputs(self)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/save_track", self._on_save_track)
        self._resources = ExitStack()
        self.tracker: FlightTracker | None = None
        self.record = FlightRecord(Settings())
        self.bridge: Any = None
        self.transforms: GimbalTransforms | None = None

    def load(self) -> None:
        """Open the map, the model and the camera, and start from the last belief when there is one."""
        self.settings = settings = read(self, Settings)
        settings.check()
        index = self._resources.enter_context(MapIndex.open(settings.map))
        bundle = Bundle.open(settings.bundle or index.meta.bundle_name)
        engine = self._resources.enter_context(open_engine(bundle))
        self.localizer = Localizer(index, engine, LocalizerConfig(max_radius_m=settings.max_radius_m))
        camera = load_camera(settings.camera) if settings.camera else None
        self.frame = MapFrame.of(index)
        self.health.counts.clear()
        self.health.refused.clear()
        turn_rad = math.radians(settings.odometry_sigma_turn_deg)
        self.sensors = Sensors(settings.max_sample_gap_s, settings.odometry_sigma_share, turn_rad)
        tracker = FlightTracker(settings, index.footprint_m, self.sensors, self.health)
        tracker.camera = camera
        self.inputs = Inputs(self, settings, self.sensors, tracker)
        if settings.gimbal_source == "tf":
            self.transforms = GimbalTransforms(self, settings.base_frame, settings.gimbal_tf_frame)
            self._resources.callback(self.transforms.close)
        self.outputs.open(settings, self.frame, self.inputs)
        shadow = settings.mode == "shadow"
        self.gate = AutopilotGate(
            GateConfig(shadow=shadow, rate_hz=settings.pose_rate_hz, correlation_s=settings.correlation_s)
        )
        self.worker = Worker(self, "localizer")
        self._resources.callback(self.worker.close)
        self.side_worker = Worker(self, "beside")
        self._resources.callback(self.side_worker.close)
        self._commands: list[Callable[[Job], Command]] = []
        self._canvas: Canvas | None = None
        self._times_ms: dict[str, float] = {}
        self._unshown_s: float | None = None
        self.record = FlightRecord(settings)
        self.record.restore(self.localizer, self.now_s())
        self.get_logger().info(f"start: {self.record.started_from}")
        self.health.set("state_file", "warn", self.record.problem)
        self.tracker = tracker

    def start(self) -> None:
        """Subscribe, and begin to say where the vehicle is."""
        settings, inputs = self.settings, self.inputs
        self.bridge = self._open_bridge()
        profile = qos.sensor(10, reliable=settings.image_reliable)
        if settings.compressed:
            self.listen(CompressedImage, "camera/image/compressed", self._on_image, profile)
        else:
            self.listen(ImageMessage, "camera/image", self._on_image, profile)
        self.listen(CameraInfo, "camera/camera_info", inputs.on_camera_info, qos.sensor())
        if settings.autopilot == "none":
            self.listen(Imu, "imu", self._then_pump(inputs.on_imu), qos.sensor(50))
            self.listen(Odometry, "odometry", self._then_pump(inputs.on_odometry), qos.sensor(50))
        if settings.height_source == "range":
            self.listen(Range, "range", self._then_pump(inputs.on_range), qos.sensor(50))
        if settings.gimbal_source == "topic":
            self.listen(QuaternionStamped, "gimbal", self._then_pump(inputs.on_gimbal), qos.sensor(50))
        if settings.gimbal_source == "tf":
            self.every(1 / GIMBAL_RATE_HZ, self._poll_gimbal)
        on_pose = self._on_prior("initialpose", lambda message: initial_pose(message, self.frame, settings.map_frame))
        self.listen(PoseWithCovarianceStamped, "initialpose", on_pose, qos.output())
        self.listen(NavSatFix, "prior_navsat", self._on_prior("prior_navsat", navsat_prior), qos.sensor())
        self.every(1 / settings.pose_rate_hz, self._publish_pose)
        self.every(0.02, self._pump)
        self.every(1.0, self._every_second)

    def stop(self) -> None:
        """Let the running update end, and keep the last belief."""
        self.worker.settle()
        self.side_worker.settle()
        if self.bridge is not None:
            self.bridge.close()
            self.bridge = None
        if self.tracker is not None:
            self.tracker.busy = False
            self.record.keep(self.tracker.pose())

    def unload(self) -> None:
        """Close map, model and thread."""
        self._resources.close()
        self.tracker = self.transforms = None

    def _open_bridge(self) -> Any:
        settings = self.settings
        if settings.autopilot != "px4":
            return None
        from .px4 import Px4Bridge, Px4Config

        config = Px4Config(
            namespace=settings.px4_namespace,
            source_id=settings.px4_source_id,
            odometry=settings.px4_odometry,
            use_height=settings.height_source == "autopilot",
        )
        return Px4Bridge(self, config, self.sensors)

    def _then_pump(self, take: Callable[[Any], None]) -> Callable[[Any], None]:
        def taken(message: Any) -> None:
            take(message)
            if self.tracker is not None and self.tracker.has_waiting:
                self._pump()

        return taken

    def _poll_gimbal(self) -> None:
        if self.transforms is not None:
            self.inputs.poll_gimbal(self.transforms, self.now_s())

    def _on_image(self, message: Any) -> None:
        if self.tracker is None:
            return
        taken_s, inputs = time.monotonic(), self.inputs
        sent_s = taken_s - (self.now_s() - seconds(message.header.stamp))
        image = Image(inputs.image_time_s(message), partial(inputs.pixels, message), taken_s, message.header, sent_s)
        if why := self.tracker.offer(image, inputs.image_problem(message)):
            self.refuse("camera/image", why)
        self._pump()
        if self.side_worker.is_idle and inputs.watches(image.time_s):
            self.side_worker.submit(partial(inputs.watch_clock, image.time_s, message), self._on_clock)

    def _pump(self) -> None:
        """Hand the newest usable image to the localizer when it is due and the localizer is idle."""
        job = None if self.tracker is None else self.tracker.next_job(time.monotonic())
        if job is None:
            return
        commands, self._commands = [make(job) for make in self._commands], []
        self.worker.submit(partial(self._update, commands, job), partial(self._on_update, job))

    def _update(self, commands: Sequence[Command], job: Job) -> tuple[Update, PoseStamped | None, float, float]:
        """An update, on the localizer's thread, and its fix sent from there: the executor may be at an image, and to
        wait for it takes as long as all else that the node does.

        Returns:
            The update, its point of the track, the seconds that it took, and when it was sent (monotonic).
        """
        started_s = time.monotonic()
        for command in commands:
            command(self.localizer)
        update = locate(self.localizer, job)
        task_s = time.monotonic() - started_s
        counts = self.tracker is not None and self.tracker.expects_its_job
        point = self.outputs.fix(job, update.fix) if counts else None
        return update, point, task_s, time.monotonic()

    def _on_update(self, job: Job, future: Future[Any]) -> None:
        if self.tracker is None:
            return
        if (error := future.exception()) is not None:
            self.tracker.finished(job, None)
            self.health.counts["updates_failed"] += 1
            text = error.message if isinstance(error, KittiwakeError) else f"{type(error).__name__}: {error}"
            self.health.set("update", "error", f"the last update failed: {text}")
            self.get_logger().error(f"update: {text}", throttle_duration_sec=5.0)
            return
        update, point, task_s, sent_s = future.result()
        self.health.set("update", "ok", "")
        if self.tracker.finished(job, update):
            self.record.add(update.fix)
            if point is not None:
                self.outputs.remember(point)
            if job.image is not None:
                node_s = sent_s - job.image.arrived_s - task_s
                age_s = job.image.arrived_s - job.image.sent_s
                self._times_ms = {"task_ms": 1e3 * task_s, "node_ms": 1e3 * node_s, "image_age_ms": 1e3 * age_s}
            self._publish_state()
            self._unshown_s = update.fix.time_s
        self._pump()

    def _publish_pose(self) -> None:
        """The vehicle now, for whoever follows it; and to the autopilot, where the gate lets it pass."""
        pose = self._current()
        sample = self.gate.consider(pose, self.now_s())
        if self.bridge is not None and sample is not None:
            self.health.set("autopilot", "warn", self.bridge.send(sample))
        if pose is not None and pose.is_believed:
            self.outputs.pose(pose, self.sensors.odometry.newest_raw)

    def _every_second(self) -> None:
        if self.tracker is None:
            return
        self.health.set("silence", "warn", self.tracker.silence(time.monotonic()))
        behind_s = self.now_s() - self.sensors.odometry.poses.newest_s
        other = math.isfinite(behind_s) and abs(behind_s) > OTHER_CLOCK_S
        text = f"odometry is stamped {behind_s:.0f} s behind ROS time: mend its clock, or set use_sim_time"
        self.health.set("clock", "warn", text if other else "")
        is_idle = self.side_worker.is_idle
        if is_idle and (estimate := self.inputs.clock_estimate()) is not None:
            self.side_worker.submit(estimate, self._on_clock)
        self.health.counts["odometry_resets"] = self.sensors.odometry.resets
        fix = self._current()
        is_converged = fix is not None and fix.is_believed
        if self.bridge is not None:
            self.health.set("px4", "warn", "; ".join(self.bridge.problems()))
            held = self.gate.reason if is_converged and self.settings.mode == "active" else ""
            self.health.set("gate", "warn", f"nothing is sent to the autopilot: {held}" if held else "")
        self._publish_state()
        self.outputs.path()
        self._show_belief()
        if is_converged and is_idle:
            self.side_worker.submit(partial(self.record.keep, fix), self._on_kept)
        if not is_converged:
            self.outputs.no_fix()

    def _on_clock(self, future: Future[Any]) -> None:
        error = future.exception()
        self.health.set("clock_check", "warn", f"the camera's clock can't be checked: {error}" if error else "")
        if self.tracker is not None and error is None:
            self.tracker.refusal = self.inputs.judge_clock(future.result())

    def _show_belief(self) -> None:
        """The belief to look at: after an update, and at most once a second."""
        if self._unshown_s is None:
            return
        time_s, self._unshown_s = self._unshown_s, None
        show = partial(self._show, self.outputs.wants_picture)
        self.worker.submit(show, partial(self._publish_belief, time_s))

    def _show(self, with_picture: bool) -> tuple[BeliefGrid, Any]:
        """On the localizer's thread, between two updates."""
        filter_, picture = self.localizer.filter, None
        if with_picture:
            self._canvas = self._canvas or Canvas.of(self.localizer.index, PICTURE_PX)
            picture = belief_picture(self._canvas, belief_map(filter_, self._canvas), size_px=PICTURE_PX)
        return belief_grid(filter_, self.frame), picture

    def _on_kept(self, future: Future[Any]) -> None:
        error = future.exception()
        self.health.set("state_file", "warn", f"the last belief can't be kept: {error}" if error else "")

    def _publish_belief(self, time_s: float, future: Future[Any]) -> None:
        error = future.exception()
        self.health.set("belief", "warn", f"the belief can't be shown: {error}" if error else "")
        if error is None:
            self.outputs.belief(*future.result(), time_s)

    def publish_diagnostics(self) -> None:
        """The level of the localization is part of the diagnostics' own."""
        self.health.set("localization", "ok", "")
        if self.tracker is not None and self.stage == "active":
            state, reason = self._state_of(self._current())
            if state != "converged":
                self.health.set("localization", LEVELS[state], reason)
        super().publish_diagnostics()

    def _state_of(self, fix: Fix | None) -> tuple[str, str]:
        """The state, and why it is not better."""
        skipped = "" if self.tracker is None else self.tracker.skipped
        if fix is None:
            return "searching", f"searching: {skipped or 'no image was used yet'}"
        reason = fix.reason or skipped
        if fix.is_believed:
            return "converged", reason
        return fix.state, reason if reason.startswith(fix.state) else f"{fix.state}: {reason}"

    def _publish_state(self) -> None:
        fix = self._current()
        self.outputs.state(*self._state_of(fix), fix)

    def values(self) -> dict[str, Any]:
        """What the diagnostics say besides the counters."""
        if self.tracker is None:
            return {}
        shown: dict[str, Any] = {
            "map_origin_lat_deg": f"{self.frame.origin.lat_deg:.8f}",
            "map_origin_lon_deg": f"{self.frame.origin.lon_deg:.8f}",
            "model": self.localizer.index.meta.bundle_name,
            "start": self.record.started_from,
            **self._times_ms,
            **self.inputs.values(),
        }
        if self.sensors.odometry.note:
            shown["odometry_note"] = self.sensors.odometry.note
        if self.settings.autopilot != "none":
            shown |= self.gate.values()
            shown |= {} if self.bridge is None else self.bridge.facts()
        return shown

    def _current(self) -> Fix | None:
        return None if self.tracker is None else self.tracker.pose()

    def _command(self, make: Callable[[Job], Command]) -> None:
        """Have the localizer do something before its next update, made for that; what was believed no longer is."""
        if self.tracker is None:
            return
        self._commands.append(make)
        self.tracker.restart()
        self.outputs.start_over()
        self._publish_state()

    def _on_prior(self, topic: str, read_prior: Callable[[Any], Prior]) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            try:
                prior = read_prior(message)
            except KittiwakeError as error:
                self.refuse(topic, error.message)
                return
            time_s = min(seconds(message.header.stamp) or self.now_s(), self.now_s())
            self._command(lambda job: self._carried(prior, time_s, job.time_s).apply)

        return take

    def _carried(self, prior: Prior, from_s: float, to_s: float) -> Prior:
        """A prior of one time, for an image of a later one."""
        try:
            return prior.carried(self.sensors.odometry.step(from_s, to_s), self.frame)
        except LookupError:  # odometry began after it
            return prior.widened(self.settings.max_speed_m_s * max(to_s - from_s, 0.0))

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self.stage == "active", f"the node is {self.stage}"
        if response.success:
            self._command(lambda job: Localizer.reset)
            response.message = "it searches the whole map again"
        return response

    def _on_save_track(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.success, response.message = True, self.record.save_track()
        except KittiwakeError as error:
            response.success, response.message = False, error.message
        return response


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the node."""
    return run(UavLocalization, arguments)


if __name__ == "__main__":
    sys.exit(main())
