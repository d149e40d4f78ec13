"""The camera model against OpenCV, and its file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera, Mount, load_camera, save_camera

DRONE = (-0.2641, 0.1019, 0.00073, 0.00026, -0.0258)


def camera(distortion: tuple[float, float, float, float, float] = DRONE) -> Camera:
    return Camera(1368, 912, 911.7, 909.2, 681.4, 459.8, distortion, Mount(x_m=0.1, z_m=0.05), "nadir")


def opencv_project(model: Camera, points: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    flat = np.asarray(points, float).reshape(-1, 1, 3)
    zero = np.zeros(3)
    pixels, _ = cv2.projectPoints(flat, zero, zero, model.matrix, np.array(model.distortion))
    return np.asarray(pixels).reshape(*np.shape(points)[:-1], 2)


coefficients = st.tuples(
    st.floats(-0.3, 0.3), st.floats(-0.1, 0.1), st.floats(-3e-3, 3e-3), st.floats(-3e-3, 3e-3), st.just(0.0)
)


@given(k=coefficients, x=st.floats(-0.7, 0.7), y=st.floats(-0.45, 0.45), depth=st.floats(0.1, 5000.0))
def test_projection_agrees_with_opencv_and_comes_back(
    k: tuple[float, float, float, float, float], x: float, y: float, depth: float
) -> None:
    model = camera(k)
    point = np.array([x * depth, y * depth, depth])
    pixel = model.project(point)
    np.testing.assert_allclose(pixel, opencv_project(model, point[None])[0], atol=1e-6)
    np.testing.assert_allclose(model.rays(pixel), [x, y, 1.0], atol=1e-7)


def test_every_pixel_of_a_real_lens_comes_back() -> None:
    model = camera()
    pixels = np.stack(np.meshgrid(np.linspace(0, 1367, 40), np.linspace(0, 911, 30)), axis=-1)
    rays = model.rays(pixels)
    assert rays.shape == (30, 40, 3)
    np.testing.assert_allclose(opencv_project(model, rays), pixels, atol=1e-8)


def test_what_the_lens_can_not_see_is_nan() -> None:
    model = camera((-0.4, 0.0, 0.0, 0.0, 0.0))
    folded = np.array([3.0, 0.0, 1.0])
    u = opencv_project(model, folded[None])[0, 0]
    assert u < 0  # thrown across the image: OpenCV does not mind
    assert np.isnan(model.project(folded)).all()
    assert np.isnan(model.project([0.0, 0.0, -1.0])).all()
    assert np.isnan(model.rays([5000.0, 456.0])[:2]).all()
    assert not model.inside(model.project(folded))


def test_field_of_view_spans_the_image() -> None:
    model = Camera.from_fov(1600, 900, 71.5)
    left, right = model.rays([[-0.5, 449.5], [1599.5, 449.5]])
    assert math.degrees(math.atan(right[0]) - math.atan(left[0])) == pytest.approx(71.5)
    assert left[1] == right[1] == 0.0
    with pytest.raises(FrameError, match="field of view"):
        Camera.from_fov(1600, 900, 180.0)


def test_mounts_by_hand() -> None:
    down = Mount().optical_to_body  # image right is the right wing, image down the tail
    np.testing.assert_allclose(down, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-15)
    ahead = Mount(pitch_deg=0.0).optical_to_body
    np.testing.assert_allclose(ahead, [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-15)
    backwards_up = Mount(yaw_deg=180.0).optical_to_body  # looks down, the top of the image towards the tail
    np.testing.assert_allclose(backwards_up, [[0, 1, 0], [-1, 0, 0], [0, 0, 1]], atol=1e-15)
    np.testing.assert_array_equal(Mount(x_m=1.0, y_m=2.0, z_m=3.0).position_m, [1.0, 2.0, 3.0])


@given(roll=st.floats(-180, 180), pitch=st.one_of(st.floats(-90, 90), st.just(-90.0)), yaw=st.floats(-180, 180))
def test_a_rotation_becomes_the_mount_that_makes_it(roll: float, pitch: float, yaw: float) -> None:
    wanted = Mount(roll, pitch, yaw).optical_to_body
    mount = Mount.from_rotation(wanted, (0.1, 0.2, 0.3))
    np.testing.assert_allclose(mount.optical_to_body, wanted, atol=1e-6)
    np.testing.assert_allclose(mount.position_m, [0.1, 0.2, 0.3])


def test_scaling_keeps_the_directions() -> None:
    model = camera()
    half = model.scaled_to(684, 456)
    ray = np.array([0.2, -0.1, 1.0])
    np.testing.assert_allclose(half.project(ray), (model.project(ray) + 0.5) / 2.0 - 0.5)
    with pytest.raises(FrameError, match="the shape differs"):
        model.scaled_to(684, 684)


def test_image_size_is_checked() -> None:
    model = camera()
    model.check_image(np.zeros((912, 1368, 3), np.uint8))
    with pytest.raises(FrameError, match="684x456 px, camera 'nadir' is 1368x912") as resized:
        model.check_image(np.zeros((456, 684), np.uint8))
    assert "scaled_to(684, 456)" in resized.value.hint
    with pytest.raises(FrameError) as cropped:
        model.check_image(np.zeros((456, 456), np.uint8))
    assert "calibrated" in cropped.value.hint


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    save_camera(camera(), path)
    assert load_camera(path) == camera()
    hash(load_camera(path))


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "camera.yaml"
    save_camera(camera(), path)
    content = yaml.safe_load(path.read_text()) | changes
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not ...}))
    return path


@pytest.mark.parametrize("model", ["", "none", None])
def test_a_file_without_distortion(tmp_path: Path, model: str | None) -> None:
    path = written(tmp_path, distortion_model=model, distortion_coefficients=...)
    assert load_camera(path).distortion == (0.0, 0.0, 0.0, 0.0, 0.0)


def test_four_coefficients(tmp_path: Path) -> None:
    path = written(tmp_path, distortion_coefficients={"rows": 1, "cols": 4, "data": [-0.1, 0.02, 0, 0]})
    assert load_camera(path).distortion == (-0.1, 0.02, 0.0, 0.0, 0.0)


MATRIX = [900.0, 0.0, 600.0, 0.0, 900.0, 400.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"image_width": ...}, "image_width: expected a number, got None"),
        ({"image_height": "tall"}, "image_height: expected a number, got 'tall'"),
        ({"image_width": 0}, "0x912 is not positive"),
        ({"camera_matrix": {"data": [1, 2]}}, "camera_matrix.data: expected 9 numbers"),
        ({"camera_matrix": {"data": [*MATRIX[:4], float("nan"), *MATRIX[5:]]}}, "camera_matrix.data.4"),
        ({"camera_matrix": {"data": [900.0, 2.0, *MATRIX[2:]]}}, "skew"),
        ({"camera_matrix": {"data": [0.0, *MATRIX[1:]]}}, "not positive"),
        ({"distortion_model": "equidistant"}, "'equidistant' is not supported"),
        ({"distortion_coefficients": {"data": [1]}}, "distortion_coefficients.data: expected 4 or 5"),
        ({"mount": ...}, "mount: missing"),
        ({"mount": {"roll_deg": 0}}, "mount.pitch_deg: missing"),
        ({"mount": {"pitch_deg": -90, "pich": 1}}, "unknown 'pich'"),
        ({"mount": {"pitch_deg": "down"}}, "mount.pitch_deg: expected a number"),
    ],
)
def test_a_bad_file_names_the_field(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FrameError) as error:
        load_camera(written(tmp_path, **changes))
    assert reason in error.value.message


@pytest.mark.parametrize("content", ["[1, 2", "just text"])
def test_not_a_camera_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(content)
    with pytest.raises(FrameError, match=r"camera\.yaml: (not YAML|the file: expected a mapping)"):
        load_camera(path)
    with pytest.raises(FrameError, match="No such file"):
        load_camera(tmp_path / "absent.yaml")
