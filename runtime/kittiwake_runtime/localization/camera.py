"""The camera: pinhole with Brown-Conrady distortion, how it sits on the vehicle, and its ``camera.yaml``.

The file is ROS's camera_info YAML plus a ``mount`` block::

    image_width: 1368
    image_height: 912
    camera_name: nadir
    camera_matrix: {rows: 3, cols: 3, data: [911.7, 0, 681.4, 0, 911.7, 459.8, 0, 0, 1]}
    distortion_model: plumb_bob
    distortion_coefficients: {rows: 1, cols: 5, data: [-0.264, 0.102, 0.0007, 0.0003, -0.026]}
    mount: {roll_deg: 0, pitch_deg: -90, yaw_deg: 0, x_m: 0.1, y_m: 0, z_m: 0.05}

Pixels are ``(u, v)``, u to the right, v down, whole numbers at pixel centres (OpenCV). The optical frame is
x right, y down, z out of the lens. Body is FRD: forward, right, down.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.frames import body_to_ned

Floats = NDArray[np.float64]

_NEWTON_STEPS = 20
_NEWTON_TOLERANCE = 1e-12


@dataclass(frozen=True)
class Mount:
    """Pose of the camera in body FRD.

    The angles (aerospace ZYX) turn a frame whose x axis is the optical axis: pitch -90 looks straight down
    with the top of the image forward.

    Attributes:
        roll_deg, pitch_deg, yaw_deg: degrees.
        x_m, y_m, z_m: the lens ahead of, right of and below the body's origin, metres.
    """

    roll_deg: float = 0.0
    pitch_deg: float = -90.0
    yaw_deg: float = 0.0
    x_m: float = 0.0
    y_m: float = 0.0
    z_m: float = 0.0

    @property
    def optical_to_body(self) -> Floats:
        """(3, 3) rotation from the optical frame to body FRD."""
        turn = body_to_ned(*np.radians([self.roll_deg, self.pitch_deg, self.yaw_deg]))
        # Optical x, y, z are the turned frame's y (right), z (down), x (axis).
        return np.asarray(turn[:, [1, 2, 0]])

    @classmethod
    def from_rotation(cls, optical_to_body: Floats, position_m: ArrayLike = (0.0, 0.0, 0.0)) -> Mount:
        """The mount of a (3, 3) rotation from the optical frame to body FRD, as of a gimbal; the lens in metres.

        Straight up and straight down the roll is taken as zero: there, only its sum with the yaw means anything.
        """
        right, down, ahead = np.asarray(optical_to_body, dtype=np.float64).T
        pitch = -math.asin(max(-1.0, min(1.0, float(ahead[2]))))
        if math.hypot(ahead[0], ahead[1]) < 1e-9:
            roll, yaw = 0.0, math.atan2(-right[0], right[1])
        else:
            roll, yaw = math.atan2(right[2], down[2]), math.atan2(ahead[1], ahead[0])
        x, y, z = (float(value) for value in np.asarray(position_m, dtype=np.float64))
        return cls(math.degrees(roll), math.degrees(pitch), math.degrees(yaw), x, y, z)

    @property
    def position_m(self) -> Floats:
        """(3,) lens in body FRD, metres."""
        return np.array([self.x_m, self.y_m, self.z_m])


@dataclass(frozen=True)
class Camera:
    """Intrinsics, distortion and mount of one camera.

    Attributes:
        width, height: image size, pixels.
        fx, fy, cx, cy: focal lengths and principal point, pixels.
        distortion: (k1, k2, p1, p2, k3), ROS ``plumb_bob``.
        mount: the camera on the vehicle.
        name: a label.

    Raises:
        FrameError: a size, focal length or coefficient that no camera has.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)
    mount: Mount = Mount()
    name: str = "camera"

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise FrameError(f"camera {self.name!r}: image size {self.width}x{self.height} is not positive")
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion, *asdict(self.mount).values())
        if not all(math.isfinite(number) for number in numbers):
            raise FrameError(f"camera {self.name!r}: a parameter is not finite")
        if self.fx <= 0.0 or self.fy <= 0.0:
            raise FrameError(f"camera {self.name!r}: focal lengths {self.fx}, {self.fy} px are not positive")

    @classmethod
    def from_fov(cls, width: int, height: int, hfov_deg: float, mount: Mount | None = None) -> Camera:
        """A camera without distortion, square pixels, principal point in the middle.

        Args:
            hfov_deg: horizontal field of view, from edge to edge of the image, 0 to 180 degrees.
        """
        if not 0.0 < hfov_deg < 180.0:
            raise FrameError(f"a horizontal field of view of {hfov_deg} degrees is outside 0 to 180")
        focal = 0.5 * width / math.tan(math.radians(hfov_deg) / 2.0)
        return cls(width, height, focal, focal, (width - 1) / 2.0, (height - 1) / 2.0, mount=mount or Mount())

    @property
    def matrix(self) -> Floats:
        """(3, 3) camera matrix K."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    def check_image(self, image: NDArray[Any]) -> None:
        """Refuse an image of another size than the model.

        Raises:
            FrameError: with the hint to scale the model when the image has the same shape at another size.
        """
        height, width = image.shape[:2]
        if (width, height) == (self.width, self.height):
            return
        same_shape = abs(width * self.height - height * self.width) <= max(self.width, self.height)
        hint = "use the camera model that these images were calibrated with"
        if same_shape:
            hint = f"if they were resized, not cropped, scale the model: camera.scaled_to({width}, {height})"
        message = f"the image is {width}x{height} px, camera {self.name!r} is {self.width}x{self.height}"
        raise FrameError(message, hint)

    def scaled_to(self, width: int, height: int) -> Camera:
        """The same camera for images resized to another size.

        Raises:
            FrameError: the shape differs by more than rounding, so the images were cropped.
        """
        if abs(width * self.height - height * self.width) > max(self.width, self.height):
            raise FrameError(
                f"{width}x{height} px is not {self.width}x{self.height} resized: the shape differs",
                "use the camera model that these images were calibrated with",
            )
        sx, sy = width / self.width, height / self.height
        # Pixel centres are whole numbers, so the image's edge, at -0.5, is what stays in place.
        cx, cy = (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        return replace(self, width=width, height=height, fx=self.fx * sx, fy=self.fy * sy, cx=cx, cy=cy)

    def rays(self, pixels: ArrayLike) -> Floats:
        """Where pixels look.

        Args:
            pixels: (..., 2) ``u, v``.

        Returns:
            (..., 3) float64 directions in the optical frame with z = 1; NaN where the distortion model
            can't be inverted (outside the circle that the calibration can have seen).
        """
        uv = np.asarray(pixels, dtype=np.float64)
        distorted = (uv - (self.cx, self.cy)) / (self.fx, self.fy)
        return np.concatenate([self._undistort(distorted), np.ones((*uv.shape[:-1], 1))], axis=-1)

    def project(self, points: ArrayLike) -> Floats:
        """Where points appear.

        Args:
            points: (..., 3) in the optical frame, any unit.

        Returns:
            (..., 2) float64 ``u, v``, also outside the image; NaN behind the camera, and where the distortion
            polynomial folds back (which would bring points from far outside the view into the image).
        """
        xyz = np.asarray(points, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            xy = np.where(xyz[..., 2:] > 0.0, xyz[..., :2] / xyz[..., 2:], np.nan)
        xy = np.where((xy**2).sum(-1, keepdims=True) < self._max_radius2, xy, np.nan)
        return np.asarray(self._distort(xy) * (self.fx, self.fy) + (self.cx, self.cy))

    def inside(self, pixels: Floats) -> NDArray[np.bool_]:
        """(...,) whether (..., 2) pixels lie in the image; NaN does not."""
        u, v = pixels[..., 0], pixels[..., 1]
        return (u >= -0.5) & (u <= self.width - 0.5) & (v >= -0.5) & (v <= self.height - 0.5)

    @functools.cached_property
    def _max_radius2(self) -> float:
        """Squared normalized radius up to which the radial polynomial grows."""
        k1, k2, _, _, k3 = self.distortion
        # Where its slope 1 + 3 k1 r2 + 5 k2 r2^2 + 7 k3 r2^3 vanishes, solved for 1 / r2: no coefficient is
        # too small for that.
        inverse = np.roots(np.array([1.0, 3.0 * k1, 5.0 * k2, 7.0 * k3]))
        real = inverse.real[(np.abs(inverse.imag) < 1e-9) & (inverse.real > 1e-9)]
        return float(1.0 / real.max()) if real.size else math.inf

    def _distort(self, xy: Floats) -> Floats:
        k1, k2, p1, p2, k3 = self.distortion
        x, y = xy[..., 0], xy[..., 1]
        r2 = x * x + y * y
        radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
        xd = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x)
        yd = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y
        return np.stack([xd, yd], axis=-1)

    def _undistort(self, distorted: Floats) -> Floats:
        """Newton's method: OpenCV's fixed-point iteration stops short of strong distortion."""
        if not any(self.distortion):
            return distorted
        k1, k2, p1, p2, k3 = self.distortion
        xy = distorted.copy()
        with np.errstate(all="ignore"):  # what diverges becomes NaN below
            for _ in range(_NEWTON_STEPS):
                residual = self._distort(xy) - distorted
                if np.nanmax(np.abs(residual), initial=0.0) < _NEWTON_TOLERANCE:
                    break
                x, y = xy[..., 0], xy[..., 1]
                r2 = x * x + y * y
                radial = 1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))
                slope = 2.0 * (k1 + r2 * (2.0 * k2 + r2 * 3.0 * k3))  # d radial / dx = slope * x
                xx = radial + slope * x * x + 2.0 * p1 * y + 6.0 * p2 * x
                yy = radial + slope * y * y + 6.0 * p1 * y + 2.0 * p2 * x
                mixed = slope * x * y + 2.0 * (p1 * x + p2 * y)
                det = xx * yy - mixed * mixed
                dx, dy = residual[..., 0], residual[..., 1]
                step = np.stack([(yy * dx - mixed * dy) / det, (xx * dy - mixed * dx) / det], axis=-1)
                xy = xy - step
            miss = np.abs(self._distort(xy) - distorted).max(axis=-1, keepdims=True)
            found = (miss < 1e-9) & ((xy**2).sum(-1, keepdims=True) < self._max_radius2)
        return np.where(found, xy, np.nan)


def load_camera(path: str | Path) -> Camera:
    """Read ``camera.yaml`` (ROS camera_info plus ``mount``, see the module's head).

    Raises:
        FrameError: a field is missing, of another shape, or a distortion model other than ``plumb_bob``.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FrameError(f"{path}: {error.strerror}", "give a camera.yaml (ROS camera_info and mount)") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FrameError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    reader = _Reader(str(path), content)
    fx, skew, cx, _, fy, cy, *_ = reader.numbers("camera_matrix", (9,))
    if skew != 0.0:
        raise FrameError(f"{path}: camera_matrix: skew {skew} is not supported", "calibrate without skew")
    return Camera(
        width=int(reader.number("image_width")),
        height=int(reader.number("image_height")),
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        distortion=reader.distortion(),
        mount=reader.mount(),
        name=str(reader.top.get("camera_name", "camera")),
    )


def save_camera(camera: Camera, path: str | Path) -> None:
    """Write ``camera.yaml``, readable by :func:`load_camera` and by ROS's camera_info loaders."""
    import yaml

    matrix = [float(value) for value in camera.matrix.ravel()]
    projection = [*matrix[:3], 0.0, *matrix[3:6], 0.0, *matrix[6:], 0.0]
    content = {
        "image_width": camera.width,
        "image_height": camera.height,
        "camera_name": camera.name,
        "camera_matrix": {"rows": 3, "cols": 3, "data": matrix},
        "distortion_model": "plumb_bob",
        "distortion_coefficients": {"rows": 1, "cols": 5, "data": list(camera.distortion)},
        "rectification_matrix": {"rows": 3, "cols": 3, "data": np.eye(3).ravel().tolist()},
        "projection_matrix": {"rows": 3, "cols": 4, "data": projection},
        "mount": asdict(camera.mount),
    }
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=110)
    Path(path).write_text(text, encoding="utf-8")


class _Reader:
    """Typed access to the fields of one file; every error names the file and the field."""

    def __init__(self, file: str, content: object) -> None:
        self.file = file
        self.top = self._mapping("the file", content)

    def fail(self, field: str, problem: str, hint: str = "") -> FrameError:
        return FrameError(f"{self.file}: {field}: {problem}", hint)

    def number(self, field: str, within: Mapping[str, Any] | None = None, prefix: str = "") -> float:
        value = (self.top if within is None else within).get(field)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.fail(prefix + field, f"expected a number, got {value!r}")
        return float(value)

    def numbers(self, field: str, lengths: tuple[int, ...]) -> list[float]:
        data = self._mapping(field, self.top.get(field)).get("data")
        if not isinstance(data, list) or len(data) not in lengths:
            wanted = " or ".join(map(str, lengths))
            raise self.fail(f"{field}.data", f"expected {wanted} numbers, got {data!r}")
        return [self.number(str(i), {str(i): value}, f"{field}.data.") for i, value in enumerate(data)]

    def distortion(self) -> tuple[float, float, float, float, float]:
        model = self.top.get("distortion_model") or "none"
        if model == "none":
            return (0.0, 0.0, 0.0, 0.0, 0.0)
        if model != "plumb_bob":
            hint = "undistort the images first, or calibrate with plumb_bob (k1, k2, p1, p2, k3)"
            raise self.fail("distortion_model", f"{model!r} is not supported, only plumb_bob and none", hint)
        k1, k2, p1, p2, *k3 = self.numbers("distortion_coefficients", (4, 5))
        return (k1, k2, p1, p2, k3[0] if k3 else 0.0)

    def mount(self) -> Mount:
        if "mount" not in self.top:
            raise self.fail("mount", "missing", "a camera looking straight down: mount: {pitch_deg: -90}")
        block = self._mapping("mount", self.top["mount"])
        known = {field.name for field in fields(Mount)}
        if unknown := sorted(set(block) - known, key=str):
            raise self.fail("mount", f"unknown {unknown[0]!r}, expected {', '.join(sorted(known))}")
        if "pitch_deg" not in block:
            raise self.fail("mount.pitch_deg", "missing", "straight down is -90, ahead is 0")
        return Mount(**{key: self.number(key, block, "mount.") for key in block})

    def _mapping(self, field: str, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self.fail(field, f"expected a mapping, got {value!r}")
        return value
