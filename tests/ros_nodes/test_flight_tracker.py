"""Which image is used and when, and where the vehicle is in between: the node's logic without ROS."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_ros.diagnostics import Health
from kittiwake_ros.flight_tracker import FlightTracker, Image, Job
from kittiwake_ros.geometry import from_attitude
from kittiwake_ros.settings import Settings
from kittiwake_ros.synchronize import Sensors
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.outputs import Fix
from kittiwake_runtime.localization.report import Update

T0 = 1_750_000_000.0
SPEED_M_S = 20.0
GRID = Grid.from_crs("EPSG:32633")
UNUSED = {"images_received", "legs_without_image", "flights_started_again"}


class Flight:
    """A vehicle that flies east at 20 m/s; its own clock is that of the stamps."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(map="area.kwmap", **({"update_distance_m": 40.0} | settings))
        self.health, self.sensors = Health(), Sensors()
        self.tracker = FlightTracker(self.settings, 160.0, self.sensors, self.health)
        self.tracker.camera = Camera.from_fov(64, 48, 60)
        self.jobs: list[Job] = []

    def sense(self, time_s: float, only: Sequence[str] = ("attitude", "height", "odometry")) -> None:
        if "attitude" in only:
            self.sensors.add_attitude(time_s, from_attitude((0.1, 0.0, math.pi / 2)))
        if "height" in only:
            self.sensors.add_height(time_s, 100.0)
        if "odometry" in only:
            self.sensors.add_odometry(time_s, SPEED_M_S * (time_s - T0), 0.0, 0.0)

    def see(self, time_s: float, now_s: float | None = None) -> str:
        return self.tracker.offer(Image(time_s, lambda: np.zeros((48, 64), np.uint8), now_s or time_s))

    def job(self, now_s: float) -> Job | None:
        job = self.tracker.next_job(now_s)
        if job is not None:
            self.jobs.append(job)
        return job

    def update(self, job: Job, **changes: Any) -> Update:
        fix = Fix(
            time_s=job.time_s, easting_m=500_000 + SPEED_M_S * (job.time_s - T0), northing_m=6_650_000.0,
            heading_rad=0.0, covariance=np.eye(2) * 25.0, position_std_m=7.0, heading_std_rad=0.01, state="converged",
            source="map_matched", age_s=0.0, distance_since_match_m=0.0, elsewhere=1e-6, evidence=3.0, reason="",
            grid=GRID,
        )  # fmt: skip
        return Update(replace(fix, **changes), None, None, {})

    def fly(self, seconds: float, *, camera_hz: float = 10.0, sensor_hz: float = 50.0, start_s: float = T0) -> None:
        """Sensors and camera, each update done at once."""
        for i in range(int(seconds * sensor_hz) + 1):
            now = start_s + i / sensor_hz
            self.sense(now)
            if i % round(sensor_hz / camera_hz) == 0:
                self.see(now)
            if (job := self.job(now)) is not None:
                self.tracker.finished(job, self.update(job))

    def accounted(self) -> Counter[str]:
        """Every image that came, under what became of it."""
        return Counter({k: v for k, v in self.health.counts.items() if k.startswith("images_") and k not in UNUSED})


def test_updates_come_by_way_and_by_time() -> None:
    flight = Flight()
    flight.fly(20.0)
    times = [job.time_s - T0 for job in flight.jobs]
    assert np.diff(times) == pytest.approx(2.0, abs=0.11), "40 m are 2 s"
    assert flight.jobs[0].step is None
    for job in flight.jobs[1:]:
        assert job.step is not None
        assert job.step.forward_m == pytest.approx(40, abs=2.1)
        assert job.step.sigma_turn_rad == pytest.approx(math.radians(1.5))
        assert job.height_m == pytest.approx(100 * math.cos(0.1)), "the range is along the body's down axis"
        assert job.attitude_rad == pytest.approx((0.1, 0.0, math.pi / 2))
    counts = flight.accounted()
    assert counts["images_used"] == len(flight.jobs)
    assert sum(counts.values()) == flight.health.counts["images_received"] == 201


def test_the_way_between_updates_is_half_a_footprint() -> None:
    assert Flight(update_distance_m=0.0).tracker.update_distance_m == 80.0


def test_hover_makes_no_updates() -> None:
    flight = Flight()
    for i in range(100):
        flight.sensors.add_odometry(T0 + 0.1 * i, 0.01 * math.sin(i), 0.0, 0.0)
        flight.sense(T0 + 0.1 * i, ("attitude", "height"))
        flight.see(T0 + 0.1 * i)
        if (job := flight.job(T0 + 0.1 * i)) is not None:
            flight.tracker.finished(job, flight.update(job))
    assert len(flight.jobs) == 1
    assert flight.accounted()["images_not_due"] == 99


def test_an_image_waits_for_the_samples_about_it() -> None:
    flight = Flight()
    flight.sense(T0 + 0.9)
    flight.see(T0 + 0.93)
    assert flight.job(T0 + 0.95) is None
    flight.sense(T0 + 0.96, ("attitude", "height"))
    assert flight.job(T0 + 0.97) is None, "the odometry is missing"
    flight.sense(T0 + 0.96, ("odometry",))
    job = flight.job(T0 + 0.98)
    assert job is not None
    assert job.time_s == T0 + 0.93


@pytest.mark.parametrize("missing", ["attitude", "height", "odometry"])
def test_an_image_whose_samples_do_not_come_is_skipped_and_counted(missing: str) -> None:
    flight = Flight()
    others = [name for name in ("attitude", "height", "odometry") if name != missing]
    flight.sense(T0, others)
    flight.see(T0)
    assert flight.job(T0 + 0.19) is None
    assert flight.accounted() == {}
    assert flight.job(T0 + 0.21) is None
    assert flight.accounted() == {f"images_without_{missing}": 1}
    assert missing in flight.tracker.skipped
    flight.sense(T0, [missing])
    assert flight.job(T0 + 0.22) is None, "too late"


def test_samples_too_far_apart_are_not_bridged() -> None:
    flight = Flight()
    flight.sense(T0)
    flight.sense(T0 + 0.2)
    flight.see(T0 + 0.1)
    assert flight.job(T0 + 0.2) is None
    assert sum(flight.accounted().values()) == 1
    assert "200 ms apart" in flight.tracker.skipped


def test_while_an_update_runs_only_the_newest_image_is_kept() -> None:
    flight = Flight()
    flight.sense(T0)
    flight.see(T0)
    job = flight.job(T0)
    assert job is not None
    for i in range(1, 101):
        flight.sense(T0 + 0.05 * i)
        flight.see(T0 + 0.05 * i)
        assert flight.job(T0 + 0.05 * i) is None
    flight.tracker.finished(job, flight.update(job))
    following = flight.job(T0 + 5.0)
    assert following is not None
    assert following.time_s == T0 + 5.0
    assert flight.accounted() == {"images_used": 1, "images_superseded": 99}


@pytest.mark.parametrize("late_s", [0.2, 0.5, 2.0])
def test_a_fix_computed_late_is_carried_forward_from_its_images_time(late_s: float) -> None:
    flight = Flight()
    flight.sense(T0)
    flight.see(T0)
    job = flight.job(T0)
    assert job is not None
    for i in range(1, int(late_s * 50) + 1):
        flight.sense(T0 + 0.02 * i)
    flight.tracker.finished(job, flight.update(job))
    pose = flight.tracker.pose()
    assert pose is not None
    assert pose.time_s == pytest.approx(T0 + late_s)
    assert pose.easting_m - 500_000 == pytest.approx(SPEED_M_S * late_s, abs=1e-3)
    assert pose.source == "propagated"
    assert pose.age_s == pytest.approx(late_s)
    assert pose.distance_since_match_m == pytest.approx(SPEED_M_S * late_s, abs=1e-3)


def test_a_camera_that_stops_leaves_legs_until_it_is_lost() -> None:
    flight = Flight(max_radius_m=50.0, odometry_sigma_share=0.1)
    flight.fly(4.0)
    seen = len(flight.jobs)
    states = []
    for i in range(1, 3000):
        now = T0 + 4.0 + 0.02 * i
        flight.sense(now)
        if (job := flight.job(now)) is not None:
            assert job.image is None
            assert job.reason.startswith("no image for")
            legs = flight.jobs[seen:]
            covariance = np.eye(2) * (25.0 + 100.0 * len(legs))
            flight.tracker.finished(
                job, flight.update(job, evidence=math.nan, covariance=covariance, source="propagated")
            )
        pose = flight.tracker.pose()
        assert pose is not None
        states.append(pose.state)
    legs = flight.jobs[seen:]
    assert [job.step.forward_m for job in legs[1:] if job.step] == pytest.approx([100.0] * (len(legs) - 1), abs=2)
    assert len(legs) >= 10
    assert states[0] == "converged"
    assert states[-1] == "lost"
    assert "without a match" in pose.reason


def test_a_long_carry_grows_leg_by_leg() -> None:
    """2 km in a circle back to its start: the covariance is that of the way, not of the net displacement."""
    flight = Flight()
    flight.sense(T0)
    flight.see(T0)
    job = flight.job(T0)
    assert job is not None
    flight.tracker.finished(job, flight.update(job))
    radius = 2000 / math.tau
    for i in range(1, 5001):
        angle = math.tau * i / 5000
        flight.sensors.add_odometry(T0 + 0.02 * i, radius * math.sin(angle), radius * (1 - math.cos(angle)), angle)
        pose = flight.tracker.pose()
    assert pose is not None
    assert pose.easting_m - 500_000 == pytest.approx(0, abs=0.5)
    assert pose.covariance[0, 0] > 25 + 15 * (0.02 * 100) ** 2


def test_out_of_order_and_started_again() -> None:
    flight = Flight()
    flight.fly(6.0)
    flight.see(flight.jobs[-1].time_s - 0.3, now_s=T0 + 6.1)
    assert flight.job(T0 + 6.1) is None
    assert flight.accounted()["images_out_of_order"] == 1
    before = len(flight.jobs)
    for buffer in (flight.sensors.attitude, flight.sensors.height):
        buffer.clear()
    flight.sensors.odometry.clear()
    flight.fly(3.0, start_s=T0 - 100)  # the bag is played again
    assert flight.jobs[before].starts_again
    assert flight.jobs[before].step is None
    assert flight.health.counts["flights_started_again"] == 1


def test_a_result_that_comes_after_a_reset_does_not_count() -> None:
    flight = Flight()
    flight.sense(T0)
    flight.see(T0)
    job = flight.job(T0)
    assert job is not None
    flight.tracker.restart()
    assert not flight.tracker.finished(job, flight.update(job))
    assert flight.tracker.pose() is None


def test_refusals_are_counted_and_named() -> None:
    flight = Flight()
    assert "header.stamp" in flight.see(0.0, now_s=T0)
    assert "header.stamp" in flight.see(math.nan, now_s=T0)
    flight.tracker.refusal = "the camera's stamps are 300 ms later than the gyro's"
    assert "300 ms" in flight.see(T0)
    flight.tracker.refusal, flight.tracker.camera = "", None
    assert "no camera is known" in flight.see(T0)
    assert sum(flight.accounted().values()) == flight.health.counts["images_received"] == 4


def test_silence_names_what_no_longer_comes() -> None:
    flight = Flight()
    assert flight.tracker.silence(0.0) == "no image yet, no attitude yet, no odometry yet, no height yet"
    flight.sense(T0)
    flight.see(T0)
    assert flight.tracker.silence(1.0) == ""
    flight.sense(T0 + 4, ("odometry", "attitude"))
    assert flight.tracker.silence(5.0) == "no image for 4 s, no height for 4 s"


events = st.lists(
    st.tuples(st.sampled_from(["image", "sense", "done", "late", "reset"]), st.floats(0, 0.3)), max_size=80
)


@given(events=events)
def test_every_image_is_accounted_for_whatever_happens(events: list[tuple[str, float]]) -> None:
    flight, now, out = Flight(), T0, None
    jobs: list[Job] = []
    for kind, dt in events:
        now += dt
        if kind == "image":
            flight.see(now - 0.05, now)
        elif kind == "late":
            flight.see(now - 0.9, now)
        elif kind == "sense":
            flight.sense(now)
        elif kind == "reset":
            flight.tracker.restart()
        elif out is not None:
            flight.tracker.finished(out, flight.update(out))
            out = None
        job = flight.job(now)
        if job is not None:
            assert out is None, "one update at a time"
            out = job
            jobs.append(job)
    if out is not None:
        flight.tracker.finished(out, None)
    flight.tracker.restart()
    assert sum(flight.accounted().values()) == flight.health.counts["images_received"]
