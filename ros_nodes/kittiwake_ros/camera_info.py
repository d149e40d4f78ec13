"""From `sensor_msgs/CameraInfo` to the runtime's camera, and how far the two agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera, Mount

from .geometry import FLU_TO_FRD, Quaternion, rotation

_HINT = "calibrate the camera (camera_calibration), or give a camera.yaml in the parameter camera"


def camera_of(info: Any, mount: Mount) -> Camera:
    """The camera that a CameraInfo describes, on its mount.

    Raises:
        FrameError: it was not calibrated, or has a lens, a binning or a region that is not supported.
    """
    k, d = [float(value) for value in info.k], [float(value) for value in info.d]
    if not (len(k) == 9 and k[0] > 0 and k[4] > 0):
        raise FrameError(f"K says focal lengths of {k[0] if k else 0:g} and {k[4] if len(k) > 4 else 0:g} px", _HINT)
    if k[1] != 0:
        raise FrameError(f"K has a skew of {k[1]:g}, which is not supported", "calibrate without skew")
    region = info.roi
    if region.width and (region.width, region.height) != (info.width, info.height):
        raise FrameError(f"a region of {region.width}x{region.height} px of a larger sensor", "publish whole images")
    camera = Camera(
        int(info.width), int(info.height), k[0], k[4], k[2], k[5], _distortion(info.distortion_model, d), mount,
        "camera_info",
    )  # fmt: skip
    columns, rows = max(int(info.binning_x), 1), max(int(info.binning_y), 1)
    return camera.scaled_to(camera.width // columns, camera.height // rows) if columns * rows > 1 else camera


def _distortion(model: str, d: Sequence[float]) -> tuple[float, float, float, float, float]:
    if not any(d):
        return (0.0, 0.0, 0.0, 0.0, 0.0)
    if model not in ("plumb_bob", "rational_polynomial") or len(d) < 4 or any(d[5:]):
        raise FrameError(
            f"distortion model {model!r} with {len(d)} coefficients is not supported, only plumb_bob is",
            "undistort the images first (image_proc), or calibrate with plumb_bob (k1, k2, p1, p2, k3)",
        )
    return d[0], d[1], d[2], d[3], d[4] if len(d) > 4 else 0.0


def disagreement(camera: Camera, other: Camera) -> str:
    """What the camera of camera.yaml and the one of CameraInfo disagree about; empty when within 2 % of the image."""
    if (camera.width, camera.height) != (other.width, other.height):
        return f"camera.yaml is for {camera.width}x{camera.height} px, CameraInfo for {other.width}x{other.height}"
    for name in ("fx", "fy", "cx", "cy"):
        ours, theirs = getattr(camera, name), getattr(other, name)
        if abs(ours - theirs) > 0.02 * camera.width:
            return f"camera.yaml says {name} = {ours:.1f} px, CameraInfo {theirs:.1f}: camera.yaml is taken"
    return ""


def on_gimbal(camera: Camera, gimbal: Quaternion, attitude_rad: tuple[float, float, float], frame: str) -> Camera:
    """The camera as its gimbal holds it: its mount is then the one on the gimbal.

    Args:
        camera: its mount is the camera on the gimbal's body, which looks ahead when the gimbal does not turn it.
        gimbal: ``(w, x, y, z)`` of the gimbal's FLU.
        attitude_rad: roll, pitch and yaw of the vehicle, FRD in NED.
        frame: what `gimbal` turns into: ``body`` (the vehicle's FLU), ``earth`` (ENU), or ``horizon`` (level, x ahead
            along the vehicle's heading).
    """
    from kittiwake_runtime.localization.frames import body_to_ned

    from .geometry import ENU_TO_NED

    turn = rotation(gimbal)
    if frame == "body":
        in_body = FLU_TO_FRD @ turn @ FLU_TO_FRD
    elif frame == "earth":
        in_body = body_to_ned(*attitude_rad).T @ ENU_TO_NED @ turn @ FLU_TO_FRD
    else:
        in_body = body_to_ned(attitude_rad[0], attitude_rad[1], 0.0).T @ FLU_TO_FRD @ turn @ FLU_TO_FRD
    mount = Mount.from_rotation(in_body @ camera.mount.optical_to_body)
    return replace(camera, mount=replace(mount, x_m=camera.mount.x_m, y_m=camera.mount.y_m, z_m=camera.mount.z_m))


def axis_in_flu(camera: Camera) -> npt.NDArray[np.float64]:
    """``(3,)`` the optical axis in the body's FLU."""
    return np.asarray(FLU_TO_FRD @ camera.mount.optical_to_body[:, 2])


def mount_of(values: Sequence[float]) -> Mount:
    """A mount from six numbers: roll, pitch, yaw in degrees, then metres ahead, right and below.

    Raises:
        FrameError: one is not finite.
    """
    if not all(math.isfinite(value) for value in values):
        raise FrameError(f"the mount {list(values)} is not finite", "roll, pitch, yaw [deg], x, y, z [m]")
    return Mount(*(float(value) for value in values))
