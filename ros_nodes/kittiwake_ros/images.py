"""Images between ROS messages and arrays, without cv_bridge, which is built against another numpy on a Jetson."""

from __future__ import annotations

import array
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import FrameError

Pixels = npt.NDArray[Any]

_BAYER = {
    f"bayer_{order}8": getattr(cv2, f"COLOR_Bayer{order.upper()}2RGB") for order in ("rggb", "bggr", "gbrg", "grbg")
}
_YUV = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY,  # sensor_msgs: the same as uyvy
    "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUYV,
    "yuyv": cv2.COLOR_YUV2RGB_YUYV,
}
_CHANNELS = {"mono8": 1, "8UC1": 1, "rgb8": 3, "bgr8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "mono16": 2}
_BYTES = _CHANNELS | dict.fromkeys(_BAYER, 1) | dict.fromkeys(_YUV, 2)
ENCODINGS = tuple(_BYTES)
JPEG_QUALITY = 90
"""The encodings that are read; 8UC1 and 8UC3 are taken for mono8 and bgr8, as OpenCV's users mean them."""


def check(message: Any) -> None:
    """Refuse a `sensor_msgs/Image` whose fields contradict each other, before anything is computed.

    Raises:
        FrameError: what is wrong with it.
    """
    width, height, step, size = message.width, message.height, message.step, len(message.data)
    if message.encoding not in _BYTES:
        hint = f"one of {', '.join(ENCODINGS)}; image_proc or image_transport converts others"
        raise FrameError(f"encoding {message.encoding!r} is not supported", hint)
    if width < 1 or height < 1:
        raise FrameError(f"an image of {width}x{height} px holds nothing")
    if step < width * _BYTES[message.encoding]:
        needed = width * _BYTES[message.encoding]
        raise FrameError(f"step is {step} bytes, a row of {width} px in {message.encoding} has {needed}")
    if size < step * (height - 1) + width * _BYTES[message.encoding]:
        raise FrameError(f"{size} bytes of data, {height} rows of {step} bytes need {height * step}")


def to_array(message: Any) -> Pixels:
    """``(H, W, 3)`` RGB or ``(H, W)`` grey, uint8 (uint16 for mono16), of a `sensor_msgs/Image`; views where possible.

    Raises:
        FrameError: as for :func:`check`.
    """
    check(message)
    width, height, step, encoding = message.width, message.height, message.step, message.encoding
    row = width * _BYTES[encoding]
    raw = np.frombuffer(message.data, np.uint8)
    if len(raw) < step * height:  # the last row may come without its padding
        raw = np.concatenate([raw, np.zeros(step * height - len(raw), np.uint8)])
    rows = raw[: step * height].reshape(height, step)[:, :row]
    if encoding in ("mono8", "8UC1"):
        return rows
    if encoding == "mono16":
        order = ">u2" if message.is_bigendian else "<u2"
        return np.ascontiguousarray(rows).view(order).astype(np.uint16)
    if encoding in _BAYER:
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(rows), _BAYER[encoding]))
    pixels = rows.reshape(height, width, _BYTES[encoding])
    if encoding in _YUV:
        if width % 2:
            raise FrameError(f"{encoding} with an odd width of {width} px")
        return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), _YUV[encoding]))
    return pixels[..., ::-1][..., -3:] if encoding in ("bgr8", "8UC3", "bgra8") else pixels[..., :3]


def decode(message: Any) -> Pixels:
    """``(H, W, 3) uint8`` RGB of a `sensor_msgs/CompressedImage` (JPEG, PNG: whatever OpenCV decodes).

    Raises:
        FrameError: the data are damaged, or no image.
    """
    raw = np.frombuffer(message.data, np.uint8)
    image = cv2.imdecode(raw, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if len(raw) else None
    if image is None:
        raise FrameError(f"{len(raw)} bytes of format {message.format!r} are no image that OpenCV decodes, or damaged")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))


def small_gray(message: Any, width_px: int = 160) -> npt.NDArray[np.uint8]:
    """A grey thumbnail about `width_px` wide of a raw or compressed image, made fast.

    Raises:
        FrameError: as for :func:`to_array` and :func:`decode`.
    """
    if not hasattr(message, "encoding"):
        raw = np.frombuffer(message.data, np.uint8)
        image = cv2.imdecode(raw, cv2.IMREAD_REDUCED_GRAYSCALE_4) if len(raw) else None
        if image is None:
            raise FrameError(f"{len(raw)} bytes of format {message.format!r} are no image")
    else:
        image = to_array(message)
        if image.dtype == np.uint16:
            image = (image >> 8).astype(np.uint8)
        image = image[..., 1] if image.ndim == 3 else image
    height = max(1, round(image.shape[0] * width_px / image.shape[1]))
    return np.asarray(cv2.resize(np.ascontiguousarray(image), (width_px, height), interpolation=cv2.INTER_AREA))


def to_message(image: Pixels, encoding: str, header: Any) -> Any:
    """A `sensor_msgs/Image` of a uint8 array of the encoding's shape, through `array.array`: rclpy's fast path."""
    from sensor_msgs.msg import Image

    pixels = np.ascontiguousarray(image, np.uint8)
    data = array.array("B")
    data.frombytes(memoryview(pixels).cast("B"))
    height, width = pixels.shape[:2]
    return Image(header=header, height=height, width=width, encoding=encoding, step=width * _BYTES[encoding], data=data)


def to_compressed(image: Pixels, header: Any) -> Any:
    """A `sensor_msgs/CompressedImage` (JPEG) of ``(H, W, 3) uint8`` RGB."""
    from sensor_msgs.msg import CompressedImage

    done, coded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "a JPEG of any uint8 image can be written"
    data = array.array("B")
    data.frombytes(coded.tobytes())
    return CompressedImage(header=header, format="rgb8; jpeg compressed bgr8", data=data)
