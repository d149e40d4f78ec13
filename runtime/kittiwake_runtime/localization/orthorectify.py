"""From an image to a patch of ground at the map's scale, seen from above, the vehicle's forward axis up.

The ground is a plane at the given height below the vehicle, or a surface model. Heading is not needed: what
is compared with the map is turned later, for each hypothesis. Distances on the ground are forward and left
of the point below the vehicle's origin (*nadir*); the camera's lever arm is taken into account.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.footprint import DISC_PX, disc_mask
from kittiwake_runtime.localization.frames import body_to_ned

Floats = NDArray[np.float64]
Float32 = NDArray[np.float32]
Dem = Callable[[Floats, Floats], Floats]
"""Ground height at forward and left metres from nadir, metres above the ground at nadir; arrays to arrays."""

MIN_SEEN_SHARE = 0.5
MOSTLY_SEEN_SHARE = 0.9
MOST_VIEW_DISCS = 4.0
"""Footprints that the view may span before most of it goes unused, and a larger footprint would tell more."""

_SUPERSAMPLES = 4
_DEM_STEPS = 20
_PLACES = 11


@dataclass(frozen=True)
class Patch:
    """Ground at the map's scale.

    Attributes:
        image: (S, S) float32 gray, or (S, S, 3) red, green and blue, in [0, 1]; up is the vehicle's forward axis,
            right its right; NaN where the camera does not see the ground, and outside the disc.
        seen_share: share of the disc that was seen, 0 to 1.
        centre_forward_m, centre_left_m: ground point of the patch's centre, from nadir. Zero where the disc
            below the vehicle is in view.
    """

    image: Float32
    seen_share: float
    centre_forward_m: float
    centre_left_m: float


def orthorectify(
    image: NDArray[Any],
    camera: Camera,
    attitude_rad: Sequence[float],
    height_agl_m: float,
    gsd_m: float,
    size_px: int = DISC_PX,
    dem: Dem | None = None,
    min_seen_share: float = MIN_SEEN_SHARE,
) -> Patch:
    """Cut the ground nearest to nadir that fills the disc out of an image, each sample the mean of its area.

    Args:
        image: (H, W) or (H, W, 3) RGB; uint8, uint16, or floating in [0, 1].
        camera: its size is the image's.
        attitude_rad: roll, pitch (and yaw, not used) of the body FRD in NED, radians.
        height_agl_m: the body's origin above the ground at nadir.
        gsd_m: ground sample of the patch.
        size_px: samples across the disc.
        dem: ground that is not a plane.
        min_seen_share: least share of the disc that must be seen.

    Raises:
        FrameError: the image's size is not the camera's; the attitude is not finite; the height is not
            positive; the optical axis points above the horizon; too little of the disc is in view.
    """
    camera.check_image(image)
    if not (gsd_m > 0.0 and math.isfinite(gsd_m)):
        raise FrameError(f"a ground sample of {gsd_m} m is not positive")
    view = _View(camera, attitude_rad, height_agl_m, dem)
    forward, left, share = _centre(view, size_px * gsd_m)
    if share < min_seen_share:
        raise FrameError(
            f"{100.0 * share:.0f} % of the {size_px * gsd_m:.0f} m disc is in view, at least"
            f" {100.0 * min_seen_share:.0f} % are needed (height {height_agl_m:.0f} m)",
            "fly higher, or build an index with a smaller --footprint",
        )
    # Area mean in two steps: shrink the image until a ground sample covers a few of its pixels, then average
    # a few samples of it; perspective and rotation are exact at the finer spacing.
    shrink = max(1.0, gsd_m / view.sample_m(forward, left) / _SUPERSAMPLES)
    small, values = _shrunk(camera, *_in_unit_scale(image), shrink)
    view = _View(small, attitude_rad, height_agl_m, dem)
    fine_px = size_px * _SUPERSAMPLES
    offset = (np.arange(fine_px) - (fine_px - 1) / 2.0) * gsd_m / _SUPERSAMPLES
    pixels = view.pixels(forward - offset[:, None], left - offset[None, :])
    inside = small.inside(pixels)
    at = np.where(inside[..., None], pixels, -1.0).astype(np.float32)
    fine = cv2.remap(values, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    blocks = (size_px, _SUPERSAMPLES, size_px, _SUPERSAMPLES)
    layers = np.moveaxis(np.atleast_3d(fine), -1, 0)
    seen = inside.reshape(blocks).mean(axis=(1, 3))
    total = np.where(inside, layers, 0.0).reshape(-1, *blocks).mean(axis=(2, 4))
    disc = disc_mask(size_px)
    valid = disc & (seen >= 0.5)
    patch = np.where(valid, total / np.maximum(seen, 0.5), np.nan).astype(np.float32)
    colours = patch[0] if fine.ndim == 2 else np.ascontiguousarray(np.moveaxis(patch, 0, -1))
    return Patch(colours, float(valid.sum() / disc.sum()), forward, left)


def ground_points(
    pixels: ArrayLike,
    camera: Camera,
    attitude_rad: Sequence[float],
    height_agl_m: float,
    dem: Dem | None = None,
) -> Floats:
    """Where pixels meet the ground.

    Args:
        pixels: (..., 2) ``u, v``; the rest as for :func:`orthorectify`.

    Returns:
        (..., 2) float64 metres forward and left of nadir; NaN at and above the horizon.

    Raises:
        FrameError: the attitude is not finite, or the height not positive.
    """
    return _View(camera, attitude_rad, height_agl_m, dem).ground(np.asarray(pixels, dtype=np.float64))


def max_footprint_m(camera: Camera, height_agl_m: float) -> float:
    """Diameter of the largest disc that is mostly in view in level flight, metres."""
    return height_agl_m * _footprint_per_height(camera)


def usable_heights_m(camera: Camera, footprint_m: float) -> tuple[float, float]:
    """Lowest and highest height above ground from which a camera can use an index, in level flight.

    Lower, the disc is not mostly in view. Higher, it is less than a quarter as wide as the largest disc in view, or
    fewer image pixels than samples of the index lie across it. The range is empty (lowest above highest) for a
    camera with too few pixels.
    """
    ahead = _unit_view(camera)
    lowest_m = footprint_m / _footprint_per_height(camera)
    forward, left, _ = _centre(ahead, _footprint_per_height(camera))
    sharp_m = footprint_m / DISC_PX / ahead.sample_m(forward, left)
    return lowest_m, min(MOST_VIEW_DISCS * lowest_m, sharp_m)


class _View:
    """A camera above the ground: pixels to ground points and back. Level frame: forward, right, down."""

    def __init__(
        self, camera: Camera, attitude_rad: Sequence[float], height_agl_m: float, dem: Dem | None = None
    ) -> None:
        roll, pitch = float(attitude_rad[0]), float(attitude_rad[1])
        if not (math.isfinite(roll) and math.isfinite(pitch)):
            raise FrameError(f"the attitude is not finite: roll {roll}, pitch {pitch}", "drop the frame")
        body_to_level = body_to_ned(roll, pitch, 0.0)
        self.camera, self.dem = camera, dem
        self.optical_to_level = body_to_level @ camera.mount.optical_to_body
        self.lens = body_to_level @ camera.mount.position_m
        self.height_m = float(height_agl_m)
        if not (math.isfinite(self.height_m) and self.height_m > 0.0 and self.height_m > self.lens[2]):
            raise FrameError(
                f"a height above ground of {height_agl_m} m is not usable",
                "it must be positive; leave it empty when it is unknown",
            )

    def pixels(self, forward_m: ArrayLike, left_m: ArrayLike) -> Floats:
        """(..., 2) pixels of ground points, NaN where they can't be seen."""
        forward, left = np.broadcast_arrays(np.asarray(forward_m, float), np.asarray(left_m, float))
        level = np.stack([forward, -left, self.height_m - self._ground(forward, left)], axis=-1)
        return self.camera.project((level - self.lens) @ self.optical_to_level)

    def ground(self, pixels: Floats) -> Floats:
        """(..., 2) ground points of pixels; on a surface model by iteration from the plane."""
        rays = self.camera.rays(pixels) @ self.optical_to_level.T
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = np.where(rays[..., 2:] > 1e-9, rays[..., :2] / rays[..., 2:], np.nan) * (1.0, -1.0)
        start = self.lens[:2] * (1.0, -1.0)
        points = start + slope * (self.height_m - self.lens[2])
        for _ in range(_DEM_STEPS if self.dem else 0):
            drop = self.height_m - self.lens[2] - self._ground(points[..., 0], points[..., 1])
            points = start + slope * drop[..., None]
        return np.asarray(points)

    def sample_m(self, forward_m: float, left_m: float) -> float:
        """Side of the square on the ground that a pixel covers about a point."""
        step = 1e-3 * self.height_m
        corner, ahead, aside = self.pixels(forward_m + np.array([0.0, step, 0.0]), left_m + np.array([0.0, 0.0, step]))
        area = abs(float(np.linalg.det(np.stack([ahead - corner, aside - corner]))))
        return step / math.sqrt(area) if area > 0.0 else math.inf

    def _ground(self, forward: Floats, left: Floats) -> Floats:
        if self.dem is None:
            return np.zeros(np.shape(forward))
        return np.asarray(self.dem(forward, left), dtype=np.float64)


def _centre(view: _View, footprint_m: float) -> tuple[float, float, float]:
    """Forward and left of the disc's centre, and the share of it in view.

    On the way from nadir to the ground in the middle of the image: the first place whose disc is all in view,
    or else the one with the most.
    """
    camera = view.camera
    middle = view.ground(np.array([(camera.width - 1) / 2.0, (camera.height - 1) / 2.0]))
    if not np.isfinite(middle).all():
        raise FrameError(
            "the camera looks above the horizon",
            "check roll, pitch (degrees, body FRD in NED) and the mount: straight down is pitch_deg -90",
        )
    axis = (np.arange(DISC_PX) - DISC_PX // 2) / DISC_PX * footprint_m
    rows, columns = np.nonzero(disc_mask(DISC_PX))
    places = np.linspace(0.0, 1.0, _PLACES)[:, None] * middle
    pixels = view.pixels(places[:, :1] + axis[rows], places[:, 1:] + axis[columns])
    shares = camera.inside(pixels).mean(axis=1)
    best = int(np.argmax(shares))
    return float(places[best, 0]), float(places[best, 1]), float(shares[best])


def shrunk_gray(camera: Camera, image: NDArray[Any], factor: float) -> tuple[Camera, Float32]:
    """Camera and (h, w) float32 grey image, shrunk by about ``factor`` with an area mean."""
    plain, scale = _in_unit_scale(image)
    return _shrunk(camera, cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY) if plain.ndim == 3 else plain, scale, factor)


def _in_unit_scale(image: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """An image as OpenCV takes it, and the value that stands for 1."""
    if image.dtype.kind == "u":
        return np.ascontiguousarray(image), float(np.iinfo(image.dtype).max)
    if image.dtype.kind == "f":
        return np.ascontiguousarray(image, dtype=np.float32), 1.0
    raise FrameError(f"an image of {image.dtype} is not usable", "give uint8, uint16 or floating in [0, 1]")


def _shrunk(camera: Camera, image: NDArray[Any], scale: float, factor: float) -> tuple[Camera, Float32]:
    width, height = round(camera.width / factor), round(camera.height / factor)
    if factor > 1.0 and min(width, height) > 0:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        camera = camera.scaled_to(width, height)
    return camera, np.asarray(image, dtype=np.float32) / np.float32(scale)


def _unit_view(camera: Camera) -> _View:
    """Level flight one metre up; the lever arm is nothing beside a flying height."""
    mount = replace(camera.mount, x_m=0.0, y_m=0.0, z_m=0.0)
    return _View(replace(camera, mount=mount), (0.0, 0.0), 1.0)


@functools.lru_cache(maxsize=16)
def _footprint_per_height(camera: Camera) -> float:
    """Largest disc mostly in view for a metre of height, by bisection: the share only falls with the size."""
    view = _unit_view(camera)
    small, large = 0.0, 100.0
    for _ in range(40):
        middle = (small + large) / 2.0
        if _centre(view, middle)[2] >= MOSTLY_SEEN_SHARE:
            small = middle
        else:
            large = middle
    return small
