"""Views through a camera that is tilted, out of scale or at an unknown height, as an integrator would make them.

The ground is photographed through a pinhole, pixel by pixel from where each ray meets it, with the true attitude and
height; the runtime's orthorectification then takes the photograph apart with the attitude and the height that were
*measured*. What is left in the patch is the homography between the two, and the lever to its centre is the one that
the integrator would hand over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flights import COLOUR_NOISE, PIXEL_NOISE, FlightPlan, View, photographed
from numpy.typing import NDArray
from places import Raster

from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.filter import SCALES_UNKNOWN
from kittiwake_runtime.localization.footprint import DISC_PX, sample_m
from kittiwake_runtime.localization.orthorectify import ground_points, orthorectify

Array = NDArray[Any]

CAMERA = Camera(120, 100, fx=62.0, fy=62.0, cx=59.5, cy=49.5)
HEIGHT_SHARE = 0.75
"""Flying height over footprint: the disc fits into the picture with room for tilt (160 m from 120 m)."""
PIXELS_A_SAMPLE = 2.5
"""Pixels of `CAMERA` along a sample of the patch; so much more noise has a pixel than the protocol gives a sample."""

ATTITUDE_SIGMA_RAD = math.radians(0.4)
MAX_TILT_RAD = math.radians(20.0)
MAX_SCALE_ERROR = 0.05
HEIGHT_ERROR_M = 3.0

GROUND_SHARE = 0.3
RELIEF_SIGMA = 0.02
"""Of the height above ground, from one update to the next."""


@dataclass(frozen=True)
class Rough:
    """Everything known, and everything a little wrong.

    A flight's camera has a focal length that is wrong by up to `MAX_SCALE_ERROR` (uniform), its rangefinder is off by
    `HEIGHT_ERROR_M` up or down. Each picture is tilted by up to `MAX_TILT_RAD` (uniform) to any side; roll and pitch
    are measured with `ATTITUDE_SIGMA_RAD`.
    """

    def views(self, plan: FlightPlan, seen: Raster) -> Iterator[View]:
        """A view for each of the plan's poses."""
        rng = np.random.default_rng(plan.noise_seed)
        height_m = HEIGHT_SHARE * plan.footprint_m
        believed_m = height_m + HEIGHT_ERROR_M * rng.choice((-1.0, 1.0))
        focal = CAMERA.fx * (1 + rng.uniform(-MAX_SCALE_ERROR, MAX_SCALE_ERROR))
        believed = replace(CAMERA, fx=focal, fy=focal)
        for pose in plan.poses:
            tilt, azimuth = rng.uniform(0.0, MAX_TILT_RAD), rng.uniform(-math.pi, math.pi)
            attitude = np.array([tilt * math.cos(azimuth), tilt * math.sin(azimuth), 0.0])
            pictures = _pictures(plan, seen, pose, attitude, height_m, rng)
            measured = attitude + rng.normal(0.0, ATTITUDE_SIGMA_RAD, 3)
            grey, rgb = (
                orthorectify(picture, believed, measured, believed_m, sample_m(plan.footprint_m), DISC_PX)
                for picture in pictures
            )
            yield View(grey.image, (rgb.image,), (grey.centre_forward_m, grey.centre_left_m))


@dataclass(frozen=True)
class HeightUnknown:
    """Level flight at a known height above take-off, over ground that is up to `GROUND_SHARE` nearer or farther.

    The height above ground starts uniform within the share, and walks by `RELIEF_SIGMA` an update, reflected at its
    ends. In colour one patch for each of the runtime's `SCALES_UNKNOWN`; the grey one is at the assumed height.
    """

    def views(self, plan: FlightPlan, seen: Raster) -> Iterator[View]:
        """A view for each of the plan's poses."""
        rng = np.random.default_rng(plan.noise_seed)
        assumed_m = HEIGHT_SHARE * plan.footprint_m
        share = rng.uniform(1 - GROUND_SHARE, 1 + GROUND_SHARE)
        level = np.zeros(3)
        for pose in plan.poses:
            grey, rgb = _pictures(plan, seen, pose, level, assumed_m * share, rng)
            yield View(
                _ground(grey, assumed_m, plan.footprint_m),
                tuple(_ground(rgb, assumed_m * scale, plan.footprint_m) for scale in SCALES_UNKNOWN),
            )
            share = _reflected(share + rng.normal(0.0, RELIEF_SIGMA), 1 - GROUND_SHARE, 1 + GROUND_SHARE)


def _pictures(
    plan: FlightPlan, seen: Raster, pose: Array, attitude_rad: Array, height_m: float, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Grey and in colour, with the flight's photometry; colours have noise of their own."""
    grey, rgb = (photograph(seen, pose, attitude_rad, height_m, rgb=in_colour) for in_colour in (False, True))
    coloured = photographed(rgb, plan.gain, plan.gamma, rng.spawn(1)[0], COLOUR_NOISE * PIXELS_A_SAMPLE)
    return photographed(grey, plan.gain, plan.gamma, rng, PIXEL_NOISE * PIXELS_A_SAMPLE), coloured


def photograph(raster: Raster, pose: Array, attitude_rad: Array, height_m: float, *, rgb: bool = False) -> Array:
    """What `CAMERA` sees of a flat ground: (100, 120) or (100, 120, 3) float32 in [0, 1], NaN beyond the raster.

    Args:
        raster: the ground.
        pose: easting, northing (metres), heading (radians, counter-clockwise from east).
        attitude_rad: roll, pitch (and yaw, not used) of the body FRD.
        height_m: above the ground.
        rgb: whether in colour.
    """
    pixels = np.stack(np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height)), axis=-1)
    forward, left = np.moveaxis(ground_points(pixels, CAMERA, attitude_rad, height_m), -1, 0)
    easting, northing, heading = pose
    return (raster.sample_rgb if rgb else raster.sample)(
        easting + forward * math.cos(heading) - left * math.sin(heading),
        northing + forward * math.sin(heading) + left * math.cos(heading),
    )


def _ground(picture: Array, height_m: float, footprint_m: float) -> Array:
    """The patch below, were the height so: from the lowest that is tried, nine tenths of the disc are in view."""
    return orthorectify(picture, CAMERA, (0.0, 0.0, 0.0), height_m, sample_m(footprint_m), DISC_PX).image


def _reflected(value: float, low: float, high: float) -> float:
    return 2 * low - value if value < low else 2 * high - value if value > high else value
