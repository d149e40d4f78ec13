"""CameraInfo to the runtime's camera, refusals, and a camera on a gimbal."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kittiwake_ros.camera_info import axis_in_flu, camera_of, disagreement, mount_of, on_gimbal
from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera, Mount
from kittiwake_runtime.localization.frames import body_to_ned

K = [500.0, 0, 320.5, 0, 510.0, 239.5, 0, 0, 1]


def info(**changes: Any) -> Any:
    fields: dict[str, Any] = {
        "width": 640, "height": 480, "k": K, "d": [-0.1, 0.01, 1e-3, -1e-3, 0.0], "distortion_model": "plumb_bob",
        "binning_x": 0, "binning_y": 0, "roi": SimpleNamespace(width=0, height=0),
    }  # fmt: skip
    return SimpleNamespace(**(fields | changes))


def test_a_plain_camera() -> None:
    camera = camera_of(info(), Mount())
    assert (camera.width, camera.height, camera.fx, camera.fy) == (640, 480, 500.0, 510.0)
    assert (camera.cx, camera.cy) == (320.5, 239.5)
    assert camera.distortion == (-0.1, 0.01, 1e-3, -1e-3, 0.0)


def test_a_rational_lens_without_its_denominator_is_plumb_bob() -> None:
    model = info(distortion_model="rational_polynomial", d=[-0.1, 0.01, 1e-3, -1e-3, 0.02, 0.0, 0.0, 0.0])
    assert camera_of(model, Mount()).distortion == (-0.1, 0.01, 1e-3, -1e-3, 0.02)


def test_binning_scales_the_camera() -> None:
    camera = camera_of(info(binning_x=2, binning_y=2), Mount())
    assert (camera.width, camera.height, camera.fx) == (320, 240, 250.0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"k": [0.0] * 9}, "focal lengths of 0 and 0"),
        ({"k": [math.nan] * 9}, "focal lengths"),
        ({"k": [500, 3, 320, 0, 500, 240, 0, 0, 1]}, "skew"),
        ({"distortion_model": "equidistant", "d": [0.1] * 4}, "'equidistant'"),
        ({"distortion_model": "rational_polynomial", "d": [0.1] * 8}, "'rational_polynomial'"),
        ({"width": 0}, "not positive"),
        ({"roi": SimpleNamespace(width=100, height=100)}, "region"),
    ],
)
def test_what_can_not_be_used_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        camera_of(info(**changes), Mount())
    assert reason in refused.value.message


def test_two_descriptions_are_compared() -> None:
    ours = camera_of(info(), Mount())
    assert disagreement(ours, camera_of(info(k=[502.0, *K[1:]]), Mount())) == ""
    assert "fx = 500.0" in disagreement(ours, camera_of(info(k=[600.0, *K[1:]]), Mount()))
    assert "640x480" in disagreement(ours, camera_of(info(width=320, height=240), Mount()))


def test_the_axis_of_a_camera_that_looks_down() -> None:
    np.testing.assert_allclose(axis_in_flu(Camera.from_fov(100, 100, 60)), [0, 0, -1], atol=1e-12)
    with pytest.raises(FrameError):
        mount_of([0, math.nan, 0, 0, 0, 0])


@pytest.mark.parametrize("frame", ["body", "earth", "horizon"])
def test_a_gimbal_that_looks_straight_down_in_every_attitude(frame: str) -> None:
    """The gimbal keeps level, yawed 20° to the left of the vehicle; the camera on it looks down."""
    camera = Camera.from_fov(100, 100, 60, Mount(pitch_deg=-90.0))
    attitude = (0.2, -0.1, 0.7)
    level_ned = body_to_ned(0.0, 0.0, attitude[2] - math.radians(20))  # to the left is counter-clockwise
    ned_to_enu, frd_to_flu = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1.0]]), np.diag([1.0, -1, -1])
    in_earth = ned_to_enu @ level_ned @ frd_to_flu
    body_in_earth = ned_to_enu @ body_to_ned(*attitude) @ frd_to_flu
    heading_in_earth = ned_to_enu @ body_to_ned(0.0, 0.0, attitude[2]) @ frd_to_flu
    turn = {"earth": in_earth, "body": body_in_earth.T @ in_earth, "horizon": heading_in_earth.T @ in_earth}[frame]
    x, y, z, w = Rotation.from_matrix(turn).as_quat()
    held = on_gimbal(camera, (w, x, y, z), attitude, frame)
    optical_in_ned = body_to_ned(*attitude) @ held.mount.optical_to_body
    np.testing.assert_allclose(optical_in_ned[:, 2], [0, 0, 1], atol=1e-9)
    top = -optical_in_ned[:, 1]
    assert math.atan2(top[1], top[0]) == pytest.approx(attitude[2] - math.radians(20), abs=1e-9)
