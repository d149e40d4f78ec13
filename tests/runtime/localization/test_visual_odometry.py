"""Motion from images: on ground photographed through OpenCV's geometry, so that the truth is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera, Mount
from kittiwake_runtime.localization.flight_log import Frame, OdometryStep
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Motion, simulate_flight
from kittiwake_runtime.localization.visual_odometry import VisualOdometer, ground_features, match_step
from kittiwake_runtime.localization.world import World

CAMERA = Camera.from_fov(640, 480, 70.0, Mount(x_m=0.5, z_m=0.1))
HEIGHT_M = 150.0
Attitude = tuple[float, float, float]
Flight = tuple[list[Frame], dict[Path, Any], list[tuple[float, float, float]]]


def fly(ground: Any, count: int, step_m: float, seed: int = 0) -> Flight:
    """Frames, their images and the true motion between them, with tilt, turns and heights that change."""
    rng = np.random.default_rng(seed)
    at, yaw = np.array([-200.0, -200.0]), 0.7
    frames, images, motion = [], {}, []
    for i in range(count):
        roll, pitch = rng.normal(0.0, 0.06, 2)
        height = HEIGHT_M + 10.0 * math.sin(i)
        image = ground.photograph(CAMERA, np.array([*at, -height]), (roll, pitch, yaw))
        name = Path(f"{i}.png")
        noisy = image * rng.uniform(0.8, 1.25) + rng.normal(0.0, 5.0, image.shape)
        images[name] = np.clip(noisy, 0, 255).astype(np.uint8)
        frames.append(
            Frame(
                file=name,
                time_s=4.0 * i,
                roll_deg=math.degrees(roll),
                pitch_deg=math.degrees(pitch),
                height_agl_m=height,
            )
        )
        turn = float(rng.normal(0.0, 0.2))
        motion.append((step_m, 0.1 * step_m, turn))
        forward, left = motion[-1][:2]
        north = forward * math.cos(yaw) + left * math.sin(yaw)
        east = forward * math.sin(yaw) - left * math.cos(yaw)
        at = at + np.array([north, east])
        yaw -= turn  # yaw is clockwise, the turn is not
    return frames, images, motion[:-1]


def steps_of(frames: list[Frame], images: dict[Path, Any], scale: float = 1.0) -> list[OdometryStep]:
    odometer = VisualOdometer(CAMERA)
    steps = [
        odometer.step(images[f.file], f.attitude_rad, scale * (f.height_agl_m or math.nan), f.time_s) for f in frames
    ]
    assert steps[0] is None
    return [step for step in steps if step is not None]


def error_m(step: OdometryStep, truth: tuple[float, float, float]) -> float:
    return math.hypot(step.forward_m - truth[0], step.left_m - truth[1])


@pytest.mark.parametrize("step_m", [0.0, 20.0, 60.0])
def test_within_three_percent_of_the_distance(ground: Any, step_m: float) -> None:
    frames, images, motion = fly(ground, 7, step_m)
    steps = steps_of(frames, images)
    for step, truth in zip(steps, motion, strict=True):
        assert step.note == ""
        assert step.dt_s == 4.0
        assert error_m(step, truth) <= max(0.03 * step_m, 0.3)
        assert error_m(step, truth) < 3.0 * step.sigma_m < 10.0
        assert step.turn_rad == pytest.approx(truth[2], abs=math.radians(0.5))
        assert step.sigma_turn_rad < math.radians(1.0)


def test_the_same_images_give_the_same_step(ground: Any) -> None:
    frames, images, _ = fly(ground, 2, 40.0)
    first, second = (steps_of(frames, images) for _ in range(2))
    assert first == second


def test_a_wrong_height_is_a_wrong_scale(ground: Any) -> None:
    frames, images, _ = fly(ground, 2, 40.0, seed=3)
    (right,), (wrong,) = (steps_of(frames, images, scale) for scale in (1.0, 1.1))
    assert wrong.forward_m == pytest.approx(1.1 * right.forward_m, rel=0.02)


def test_images_that_do_not_overlap_say_so(ground: Any) -> None:
    frames, images, _ = fly(ground, 3, 230.0)
    with pytest.raises(FrameError, match="the images overlap too little") as error:
        steps_of(frames, images)
    assert "odometry" in error.value.hint


def test_a_blank_image_carries_the_velocity_on(ground: Any) -> None:
    frames, images, motion = fly(ground, 7, 40.0)
    images[frames[3].file] = np.full((480, 640), 200, np.uint8)
    steps = steps_of(frames, images)
    assert [bool(step.note) for step in steps] == [False, False, True, True, False, False]
    for i in (2, 3):
        assert (steps[i].forward_m, steps[i].left_m) == (steps[1].forward_m, steps[1].left_m)
        assert error_m(steps[i], motion[i]) < steps[i].sigma_m
        assert steps[i].turn_rad == 0.0
        assert steps[i].sigma_turn_rad > 0.2
        assert "overlap too little" in steps[i].note


def test_a_missing_image_carries_the_motion_on(ground: Any) -> None:
    frames, images, motion = fly(ground, 6, 40.0)
    images[frames[3].file] = None
    steps = steps_of(frames, images)
    assert [step.note for step in steps] == ["", "", *["motion carried on: no image"] * 2, ""]
    assert error_m(steps[4], motion[4]) < 1.2


def test_nothing_to_hold_on() -> None:
    blank = np.zeros((480, 640, 3), np.uint8)
    features = ground_features(blank, CAMERA, (0.0, 0.0, 0.0), HEIGHT_M)
    assert len(features.points_m) == 0
    with pytest.raises(FrameError, match="0 of 0 matched features"):
        match_step(features, features)


def test_frames_are_checked() -> None:
    blank = np.zeros((480, 640), np.uint8)
    with pytest.raises(FrameError, match="height above ground of nan m"):
        ground_features(blank, CAMERA, (0.0, 0.0, 0.0), math.nan)
    with pytest.raises(FrameError, match="is 640x480"):
        ground_features(blank[:10], CAMERA, (0.0, 0.0, 0.0), HEIGHT_M)
    odometer = VisualOdometer(CAMERA)
    assert odometer.step(None, (0.0, 0.0, 0.0), HEIGHT_M, 1.0) is None
    with pytest.raises(FrameError, match="no motion to start with: no image"):
        odometer.step(blank, (0.0, 0.0, 0.0), HEIGHT_M, 2.0)
    with pytest.raises(FrameError, match=r"time 2\.0 does not come after 2\.0"):
        odometer.step(blank, (0.0, 0.0, 0.0), HEIGHT_M, 2.0)


@pytest.mark.parametrize("season", ["summer", "winter"])
def test_procedural_flights(season: Any) -> None:
    """Within 3 % of the distance, with the noise of real sensors in attitude, height and image."""
    motion, camera = Motion(step_m=60.0), DEFAULT_CAMERA
    flown = simulate_flight(
        World(3), bounds=(0.0, 0.0, 2000.0, 2000.0), season=season, updates=9, motion=motion, seed=5
    )
    odometer, errors, steps, before = VisualOdometer(camera), [], [], None
    for frame in flown:
        step = odometer.step(frame.image, frame.attitude_rad, frame.height_agl_m, frame.time_s)
        now = complex(frame.easting_m, frame.northing_m)
        if step is not None and before is not None:
            there, heading = before
            moved = (now - there) * np.exp(-1j * heading)
            errors.append(complex(step.forward_m, step.left_m) - moved)
            steps.append(step)
        before = (now, frame.heading_rad)
    assert [step.note for step in steps] == [""] * 8
    sizes = np.abs(errors)
    assert sizes.max() <= 0.03 * 60.0
    assert abs(sum(errors)) <= 0.02 * 60.0 * len(errors)
    assert np.mean(sizes**2) < np.mean([2.0 * step.sigma_m**2 for step in steps])
