"""Images of every encoding, with padding, damaged, and back: colours by the definition of each encoding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from kittiwake_ros.images import ENCODINGS, check, decode, small_gray, to_array
from kittiwake_runtime.errors import FrameError

RED, GREEN, BLUE = (200, 40, 90)
H, W = 4, 6


def message(form: str, rows: Any, *, padding: int = 0, **changes: Any) -> Any:
    """A stand-in with the fields of sensor_msgs/Image, every row followed by padding."""
    rows = np.ascontiguousarray(rows)
    raw = rows.reshape(len(rows), -1).view(np.uint8)
    step = raw.shape[1] + padding
    padded = np.full((len(raw), step), 255, np.uint8)
    padded[:, : raw.shape[1]] = raw
    fields = {"encoding": form, "height": H, "width": W, "step": step, "is_bigendian": 0, "data": padded.tobytes()}
    return SimpleNamespace(**(fields | changes))


def bayer(order: str) -> np.ndarray:
    """One colour, seen through the colour filters of a sensor; the order names the upper left two by two."""
    value = {"r": RED, "g": GREEN, "b": BLUE}
    tile = np.array([value[c] for c in order], np.uint8).reshape(2, 2)
    return np.tile(tile, (H // 2, W // 2))


def yuv() -> tuple[int, int, int]:
    """Y, U, V of the colour by BT.601, studio range."""
    r, g, b = RED, GREEN, BLUE
    y = 16 + 0.257 * r + 0.504 * g + 0.098 * b
    u = 128 - 0.148 * r - 0.291 * g + 0.439 * b
    v = 128 + 0.439 * r - 0.368 * g - 0.071 * b
    return round(y), round(u), round(v)


def encoded(encoding: str) -> Any:
    if encoding.startswith("bayer_"):
        return bayer(encoding[6:10])
    y, u, v = yuv()
    pixel = {
        "mono8": [GREEN], "8UC1": [GREEN], "rgb8": [RED, GREEN, BLUE], "bgr8": [BLUE, GREEN, RED],
        "8UC3": [BLUE, GREEN, RED], "rgba8": [RED, GREEN, BLUE, 7], "bgra8": [BLUE, GREEN, RED, 7],
    }.get(encoding)  # fmt: skip
    if pixel:
        return np.tile(np.array(pixel, np.uint8), (H, W, 1))
    if encoding == "mono16":
        return np.full((H, W), 40_000, "<u2")
    pair = [u, y, v, y] if encoding in ("yuv422", "uyvy") else [y, u, y, v]
    return np.tile(np.array(pair, np.uint8), (H, W // 2))


@pytest.mark.parametrize("padding", [0, 10])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_with_and_without_padding(encoding: str, padding: int) -> None:
    image = to_array(message(encoding, encoded(encoding), padding=padding))
    assert image.shape[:2] == (H, W)
    if encoding == "mono16":
        assert image.dtype == np.uint16
        assert (image == 40_000).all()
    elif image.ndim == 2:
        assert (image == GREEN).all()
    else:
        np.testing.assert_allclose(image.reshape(-1, 3), np.tile((RED, GREEN, BLUE), (H * W, 1)), atol=3)


def test_big_endian_words() -> None:
    assert (to_array(message("mono16", np.full((H, W), 40_000, ">u2"), is_bigendian=1)) == 40_000).all()


def test_the_last_row_may_lack_its_padding() -> None:
    whole = message("mono8", encoded("mono8"), padding=10)
    whole.data = whole.data[:-10]
    assert (to_array(whole) == GREEN).all()


def test_rows_stay_where_they_are() -> None:
    ramp = np.arange(H * W * 3, dtype=np.uint8).reshape(H, W, 3)
    np.testing.assert_array_equal(to_array(message("rgb8", ramp, padding=5)), ramp)
    np.testing.assert_array_equal(to_array(message("bgr8", ramp, padding=5)), ramp[..., ::-1])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "32FC1"}, "'32FC1' is not supported"),
        ({"encoding": ""}, "'' is not supported"),
        ({"step": 17}, "step is 17 bytes, a row of 6 px in rgb8 has 18"),
        ({"data": b"\0" * 30}, "30 bytes of data, 4 rows of 18 bytes need 72"),
        ({"width": 0}, "0x4 px"),
    ],
)
def test_what_contradicts_itself_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(FrameError) as refused:
        check(message("rgb8", encoded("rgb8"), **changes))
    assert reason in refused.value.message


def test_compressed_images() -> None:
    ramp = cv2.resize(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5, (64, 64), interpolation=cv2.INTER_LINEAR)
    for extension, tolerance in ((".png", 0), (".jpg", 12)):
        data = cv2.imencode(extension, ramp[..., ::-1])[1].tobytes()
        stand_in = SimpleNamespace(format=extension[1:], data=data)
        np.testing.assert_allclose(decode(stand_in).astype(int), ramp, atol=tolerance)
        assert small_gray(stand_in, 16).shape == (16, 16)
    for data in (b"", b"no image", b"\xff\xd8\xff\xe0 cut"):
        with pytest.raises(FrameError, match="no image that OpenCV decodes"):
            decode(SimpleNamespace(format="jpeg", data=data))


def test_messages_come_back_and_are_made_fast() -> None:
    pytest.importorskip("rclpy")
    from std_msgs.msg import Header

    from kittiwake_ros.images import to_message

    image = np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)
    made = to_message(image, "rgb8", Header(frame_id="camera"))
    assert (made.width, made.height, made.step) == (1920, 1080, 5760)
    np.testing.assert_array_equal(to_array(made), image)
