"""What the node does between its messages: which image is used, when, with which attitude, height and odometry, and
where the vehicle is at this moment. No ROS, no threads; the clock is handed in.

    tracker.offer(image, now_s)
    job = tracker.next_job(now_s)           # the newest image whose samples are there, when it is due
    update = locate(localizer, job)         # as `kittiwake locate` does; may take its time, elsewhere
    tracker.finished(job, update)
    tracker.pose()                          # the last fix, carried to the newest odometry
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.flight import Observation, fly
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.outputs import Fix
from kittiwake_runtime.localization.report import Update

from .camera_info import on_gimbal
from .diagnostics import Health
from .geometry import attitude_rad
from .settings import Settings
from .synchronize import STARTED_AGAIN_S, SampleBuffer, Sensors

WAITING = 8
"""Images kept while they wait for samples or for the last update to end; of those only the newest will be used."""

UPDATE_SHARE = 0.5
"""Of the footprint is flown between updates: views that overlap more count for little, and evidence comes in crumbs."""

LEG_M = 100.0
"""A way without images is handed to the filter in legs of this length."""

BLIND_S = 2.0
"""Without an image for so long, the filter is moved by odometry alone."""

RETRY_S = 1.0
"""After a view that showed nothing."""


@dataclass(frozen=True)
class Image:
    """An image as it came.

    Attributes:
        time_s: its stamp, the camera's offset taken out.
        pixels: makes the array: ``(H, W, 3)`` RGB or ``(H, W)`` grey; raises `FrameError`.
        arrived_s: when it came, by the clock that `offer` and `next_job` are called with.
        header: of the message, for what is published.
        sent_s: its stamp by the clock of `arrived_s`: what lies between them is exposure, driver and transport.
    """

    time_s: float
    pixels: Callable[[], npt.NDArray[Any]]
    arrived_s: float
    header: Any = None
    sent_s: float = math.nan


@dataclass(frozen=True)
class Job:
    """One update of the localizer.

    Attributes:
        time_s: of the image, or of the leg that was flown without one.
        image: None for a leg without one; `reason` then says why.
        camera: as its gimbal held it.
        attitude_rad: roll, pitch, yaw of the body FRD in NED.
        height_m, height_is_agl: of the body.
        step: odometry since the last job.
        first_yaw_deg: a soft prior of the heading, clockwise from true north; None for none.
        starts_again: the localizer is reset before it.
    """

    time_s: float
    image: Image | None
    camera: Camera
    attitude_rad: tuple[float, float, float]
    height_m: float
    height_is_agl: bool
    step: OdometryStep | None
    reason: str = ""
    first_yaw_deg: float | None = None
    starts_again: bool = False


def locate(localizer: Localizer, job: Job) -> Update:
    """Update the localizer, by the code of `kittiwake locate`; an image that can't be read carries it forward."""
    if job.starts_again:
        localizer.reset()
    if job.first_yaw_deg is not None:
        localizer.set_heading(job.first_yaw_deg)
    pixels, note = None, job.reason
    if job.image is not None:
        try:
            pixels = job.image.pixels()
            job.camera.check_image(pixels)
        except FrameError as error:
            pixels, note = None, error.message
    observation = Observation(
        job.time_s, pixels, job.attitude_rad, job.height_m, job.height_is_agl, job.step, note=note
    )
    return next(iter(fly(localizer, job.camera, [observation])))


class FlightTracker:
    """Images and samples in, jobs out; fixes in, poses out.

    Args:
        settings: the node's parameters.
        footprint_m: of the map.
        sensors: that the node fills.
        health: counts every image once: used, or why not.

    Attributes:
        camera: None until it is known.
        fix: the last update's; None before the first and after a reset.
        busy: whether a job is out.
        refusal: a reason for using no image at all; empty for none.
    """

    def __init__(self, settings: Settings, footprint_m: float, sensors: Sensors, health: Health) -> None:
        self.settings, self.sensors, self.health = settings, sensors, health
        self.update_distance_m = settings.update_distance_m or UPDATE_SHARE * footprint_m
        self.camera: Camera | None = None
        self.refusal = ""
        self.busy = False
        self._waiting: deque[Image] = deque()
        self._marks: dict[str, tuple[float, float]] = {}
        self.restart()

    def restart(self) -> None:
        """Forget fixes and images: another flight, or a prior."""
        for _ in self._waiting:
            self.health.counts["images_forgotten"] += 1
        self._waiting.clear()
        self.fix: Fix | None = None
        self._base: Fix | None = None
        self._job_s = -math.inf
        self._view_s = -math.inf
        self._image_s = -math.inf
        self._skipped = ""
        self._generation = getattr(self, "_generation", 0) + 1
        self._job_generation = -1

    @property
    def has_waiting(self) -> bool:
        """Whether images wait for samples, or for the last update to end."""
        return bool(self._waiting)

    def offer(self, image: Image, problem: str = "") -> str:
        """Take an image; returns why it was refused at once, or an empty text.

        Args:
            problem: why it can't be used, as far as its message says.
        """
        counts = self.health.counts
        counts["images_received"] += 1
        why = ""
        if not (math.isfinite(image.time_s) and image.time_s > 0):
            counts["images_without_stamp"] += 1
            return f"its stamp is {image.time_s:g} s: the camera's driver has to set header.stamp"
        if problem or self.refusal:
            counts["images_refused"] += 1
            why = problem or self.refusal
        elif self.camera is None:
            counts["images_before_camera_info"] += 1
            why = "no camera is known: give the parameter camera, or publish camera/camera_info"
        if why:
            self._skipped = why
            return why
        self._waiting.append(image)
        if len(self._waiting) > WAITING:
            self._waiting.popleft()
            counts["images_superseded"] += 1
        return ""

    def next_job(self, now_s: float) -> Job | None:
        """The update to make now, if any. Every image that is passed over is counted with the reason."""
        image = self._newest_ready(now_s)
        if self.busy:
            if image is not None:
                self._waiting.appendleft(image)
            return None
        if image is None:
            return self._blind_job()
        # An image may be late by any time; a recording that starts again has odometry that does.
        starts_again = self.sensors.odometry.poses.newest_s < self._job_s - STARTED_AGAIN_S
        if image.time_s <= self._job_s and not starts_again:
            self._skip("images_out_of_order", "an image came out of order")
            return None
        if not starts_again and not self._is_due(image.time_s):
            self.health.counts["images_not_due"] += 1
            self._image_s = image.time_s
            return None
        if starts_again:
            self.health.counts["flights_started_again"] += 1
            self.restart()
        try:
            job = self._job(image, starts_again)
        except (LookupError, FrameError) as error:
            self._skip("images_without_samples", str(error))
            return None
        self._image_s, self._skipped = image.time_s, ""
        return self._out(job)

    @property
    def expects_its_job(self) -> bool:
        """Whether the update that is being made will still count."""
        return self._job_generation == self._generation

    def finished(self, job: Job, update: Update | None) -> bool:
        """Take a job's update, None where it failed; returns whether it still counts (no reset came in between)."""
        self.busy = False
        if job.image is not None:
            self.health.counts["images_used"] += 1
        if update is None or not self.expects_its_job:
            return False
        fix = update.fix
        if math.isfinite(fix.evidence) or fix.reason.startswith("hovering"):
            self._view_s = fix.time_s
        self.fix = self._base = fix
        return True

    def pose(self) -> Fix | None:
        """The last fix, carried to the newest odometry in legs; None before the first."""
        base, newest_s = self._base, self.sensors.odometry.poses.newest_s
        if base is None or newest_s <= base.time_s:
            return base
        try:
            step = self._step(base.time_s, newest_s)
        except LookupError:
            return base
        carried = base.carried(step)
        if carried.is_believed and carried.radius95_m > self.settings.max_radius_m:
            reason = f"lost: carried {carried.distance_since_match_m:.0f} m without a match"
            carried = replace(carried, state="lost", reason=f"{reason}: {self._skipped}" if self._skipped else reason)
        if math.hypot(step.forward_m, step.left_m) > LEG_M:
            self._base = carried
        return carried

    def silence(self, now_s: float) -> str:
        """What no longer comes, for a person; empty when all does. To be asked about once a second."""
        newest = {"image": float(self.health.counts["images_received"])}
        newest |= {buffer.name: buffer.newest_s for buffer in self._needed()}
        for name, mark in newest.items():
            known, since_s = self._marks.get(name, (0.0 if name == "image" else -math.inf, -math.inf))
            self._marks[name] = (mark, since_s if mark == known else now_s)
        quiet = {name: now_s - self._marks[name][1] for name in newest if now_s - self._marks[name][1] > BLIND_S}
        return ", ".join(
            f"no {name}" + (f" for {gone_s:.0f} s" if math.isfinite(gone_s) else " yet")
            for name, gone_s in quiet.items()
        )

    def _needed(self) -> list[SampleBuffer[Any]]:
        sensors, settings = self.sensors, self.settings
        needed: list[SampleBuffer[Any]] = [sensors.attitude, sensors.odometry.poses]
        if settings.height_source != "constant":
            needed.append(sensors.height)
        if settings.gimbal_source != "none":
            needed.append(sensors.gimbal)
        return needed

    def _newest_ready(self, now_s: float) -> Image | None:
        """Take the newest image that has its samples out of those that wait; drop older ones, and hopeless ones."""
        if not self._waiting:
            return None
        needed, found, kept = self._needed(), None, deque[Image]()
        for image in sorted(self._waiting, key=lambda image: image.time_s, reverse=True):
            if found is not None:
                self.health.counts["images_superseded"] += 1
                continue
            missing = [buffer for buffer in needed if buffer.status(image.time_s) != "ready"]
            if not missing:
                found = image
            elif all(buffer.status(image.time_s) == "waiting" for buffer in missing) and (
                now_s - image.arrived_s < self.settings.max_wait_s
            ):
                kept.appendleft(image)
            else:
                self._skip(f"images_without_{missing[0].name}", missing[0].why_not(image.time_s))
        self._waiting = kept
        return found

    def _skip(self, counter: str, reason: str) -> None:
        self.health.counts[counter] += 1
        self._skipped = reason

    @property
    def skipped(self) -> str:
        """Why the last image was passed over, as far as something is wrong; empty when it was used."""
        return self._skipped

    def _is_due(self, time_s: float) -> bool:
        """By way and by time; the first at once."""
        if math.isinf(self._job_s):
            return True
        waited_s = time_s - self._job_s
        if self._view_s < self._job_s:
            return waited_s >= max(RETRY_S, self.settings.update_period_s)
        return waited_s >= self.settings.update_period_s and self._moved_m(self._view_s, time_s) >= (
            self.update_distance_m * (1 - 1e-9)
        )

    def _moved_m(self, from_s: float, to_s: float) -> float:
        poses = self.sensors.odometry.poses
        try:
            a, b = poses.at(from_s), poses.at(to_s)
        except LookupError:
            return math.inf
        return math.hypot(b[0] - a[0], b[1] - a[1])

    def _blind_job(self) -> Job | None:
        """A leg without an image: the belief goes along, and says why it grows."""
        poses = self.sensors.odometry.poses
        time_s = poses.newest_s - 0.25 * BLIND_S  # an image that is late by less than that is still taken
        if self.camera is None or math.isinf(self._job_s) or time_s - max(self._job_s, self._image_s) < BLIND_S:
            return None
        if poses.status(time_s) != "ready" or self._moved_m(self._job_s, time_s) < LEG_M:
            return None
        try:
            step = self._step(self._job_s, time_s)
        except LookupError:
            return None
        reason = self._skipped or f"no image for {time_s - self._image_s:.0f} s"
        self.health.counts["legs_without_image"] += 1
        return self._out(Job(time_s, None, self.camera, (0.0, 0.0, math.nan), math.nan, True, step, reason))

    def _job(self, image: Image, starts_again: bool) -> Job:
        sensors, settings, time_s = self.sensors, self.settings, image.time_s
        assert self.camera is not None, "offer() takes no image before the camera is known"
        attitude = attitude_rad(sensors.attitude.at(time_s))
        height_m = settings.height_m if settings.height_source == "constant" else sensors.height.at(time_s)
        if settings.height_source == "range":
            height_m *= math.cos(attitude[0]) * math.cos(attitude[1])
        camera = self.camera
        if settings.gimbal_source != "none":
            camera = on_gimbal(camera, sensors.gimbal.at(time_s), attitude, settings.gimbal_turns_into)
        is_first = math.isinf(self._job_s)
        step = None if is_first else self._step(self._job_s, time_s)
        yaw_deg = math.degrees(attitude[2]) % 360 if is_first and settings.use_heading else None
        agl = settings.height_is_agl
        return Job(time_s, image, camera, attitude, height_m, agl, step, "", yaw_deg, starts_again)

    def _step(self, from_s: float, to_s: float) -> OdometryStep:
        """Odometry between two times; the turn's noise is for a whole update's way, and less for less."""
        step = self.sensors.odometry.step(from_s, to_s)
        way = max(math.hypot(step.forward_m, step.left_m) / self.update_distance_m, abs(step.turn_rad))
        return replace(step, sigma_turn_rad=step.sigma_turn_rad * math.sqrt(min(1.0, way)))

    def _out(self, job: Job) -> Job:
        self.busy, self._job_s, self._job_generation = True, job.time_s, self._generation
        return job
