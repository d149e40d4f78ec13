"""The camera's clock against the gyro's: images that turn are shown with stamps that lie by a known time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from kittiwake_ros.camera_clock import CameraClock, image_rotation_rad

T0 = 1_750_000_000.0
GROUND = cv2.GaussianBlur(np.random.default_rng(3).integers(0, 255, (400, 400), np.uint8), (0, 0), 2.0)


def seen(angle_rad: float, moved_px: float = 0.0) -> np.ndarray:
    """What a camera sees that has turned about its axis, which points out of the lens: x to y is positive."""
    # A pixel of a camera that turned from x to y lies where the unturned one sees it turned the same way.
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    turn = np.array([[c, -s, 200 + moved_px - c * 80 + s * 60], [s, c, 200 - s * 80 - c * 60]])
    return cv2.warpAffine(GROUND, turn, (160, 120), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def test_what_is_seen_turns_against_the_camera() -> None:
    assert image_rotation_rad(seen(0.0), seen(0.03, moved_px=4)) == pytest.approx(-0.03, abs=0.002)
    assert np.isnan(image_rotation_rad(np.zeros((120, 160), np.uint8), seen(0.0)))


def yaw(time_s: np.ndarray | float) -> np.ndarray:
    return 0.3 * np.sin(0.9 * time_s) + 0.1 * np.sin(2.3 * time_s + 1)


def watched(late_s: float, *, turns: float = 1.0, seconds: float = 16.0) -> CameraClock:
    """A camera at 10 Hz that stamps images so much late."""
    clock = CameraClock()
    for t in np.arange(0, seconds, 0.1):
        clock.add(T0 + t + late_s, seen(float(turns * yaw(t)), moved_px=float(10 * np.sin(t))))
    return clock


def gyro(seconds: float = 17.0, turns: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    times = np.arange(-1, seconds, 0.01)
    return T0 + times, turns * np.gradient(yaw(times), times) + np.random.default_rng(0).normal(0, 0.005, len(times))


@pytest.mark.parametrize("late_s", [-0.12, 0.0, 0.15, 0.3])
def test_the_offset_is_found(late_s: float) -> None:
    found = watched(late_s).estimate(*gyro())
    assert found is not None
    assert found.offset_s == pytest.approx(late_s, abs=0.008)
    assert bool(found.problem) == (abs(late_s) > 0.02)
    assert found.sigma_s < 0.01
    assert found.is_refused == (abs(late_s) > 0.2)
    if late_s == 0.15:
        assert "ms later than the gyro's" in found.problem
        assert "add -0.15" in found.problem


def test_a_straight_flight_says_nothing() -> None:
    assert watched(0.1, turns=0.01).estimate(*gyro(turns=0.01)) is None


def test_another_motion_says_nothing() -> None:
    times, _ = gyro()
    other = 0.5 * np.sin(1.7 * times + 2)
    assert watched(0.0).estimate(times, other) is None


def test_too_little_says_nothing() -> None:
    assert watched(0.0, seconds=3.0).estimate(*gyro()) is None
    assert watched(0.0).estimate(np.zeros(0), np.zeros(0)) is None
