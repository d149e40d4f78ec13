"""Motion from the images themselves, for a vehicle without other odometry.

Features of two consecutive images are laid on the ground through attitude and height, matched, and moved
onto each other by a rigid motion of the plane: RANSAC, then least squares on what agrees. Height sets the
scale, so an error of 1 % in height is one of 1 % in distance. Relief taller than about a tenth of the height
breaks it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.flight_log import Frame, OdometryStep, read_image
from kittiwake_runtime.localization.orthorectify import ground_points, shrunk_gray

Floats = NDArray[np.float64]

_WORKING_PX = 800
_FEATURES = 1500
_CONTRAST = 0.015  # half of OpenCV's usual threshold: snow and fields have little
_RATIO = 0.85
_TRIALS = 600
_MIN_INLIERS = 12
_MIN_INLIER_SHARE = 0.12
_REACH = 3.0  # heights from nadir; further out a pixel of error is metres

ATTITUDE_SIGMA_RAD = math.radians(0.2)
"""Error of roll and pitch that the images can't show: it moves the ground by as much times the height."""

SCALE_SIGMA = 0.01
"""Error of the height, as a share of it."""


@dataclass(frozen=True)
class GroundFeatures:
    """Features of one image on the ground.

    Attributes:
        points_m: (N, 2) float64 forward and left of nadir.
        descriptors: (N, 128) float32 SIFT.
        height_m: the height they were laid down from.
        sample_m: ground covered by a pixel of the image they were found in.
    """

    points_m: Floats
    descriptors: NDArray[np.float32]
    height_m: float
    sample_m: float


def visual_steps(
    frames: Sequence[Frame],
    heights_m: Sequence[float],
    camera: Camera,
    load: Callable[[Path], NDArray[Any]] = read_image,
) -> list[OdometryStep]:
    """The steps between consecutive frames, from their images.

    Where two images can't be matched, the nearest known velocity is carried on with half its length as sigma,
    and the step's ``note`` says so.

    Args:
        heights_m: above ground, one a frame.
        load: gives a frame's image as RGB.

    Returns:
        ``len(frames) - 1`` steps.

    Raises:
        FrameError: more than half of the pairs can't be matched; an image or its height can't be used.
    """
    steps: list[OdometryStep | None] = []
    problem = FrameError("no frames")
    earlier: GroundFeatures | None = None
    for i, (frame, height_m) in enumerate(zip(frames, heights_m, strict=True)):
        later = ground_features(load(frame.file), camera, frame.attitude_rad, height_m)
        if earlier is not None:
            try:
                steps.append(match_step(earlier, later, frame.time_s - frames[i - 1].time_s))
            except FrameError as error:
                names = f"{frames[i - 1].file.name} and {frame.file.name}"
                problem = FrameError(f"{names}: {error.message}", error.hint)
                steps.append(None)
        earlier = later
    if 2 * steps.count(None) > len(steps):
        message = f"{steps.count(None)} of {len(steps)} pairs of images can't be matched; {problem.message}"
        raise FrameError(message, problem.hint)
    times = [later.time_s - earlier.time_s for earlier, later in itertools.pairwise(frames)]
    return [step or _carried(steps, i, times[i]) for i, step in enumerate(steps)]


def ground_features(
    image: NDArray[Any], camera: Camera, attitude_rad: Sequence[float], height_agl_m: float
) -> GroundFeatures:
    """Find features and lay them on the ground; arguments and errors as for ``orthorectify``."""
    camera.check_image(image)
    small, gray = shrunk_gray(camera, image, max(1.0, max(camera.width, camera.height) / _WORKING_PX))
    detector = cv2.SIFT.create(nfeatures=_FEATURES, contrastThreshold=_CONTRAST)
    dark, bright = np.percentile(gray, (0.5, 99.5))
    stretched = np.clip((gray - dark) / max(float(bright - dark), 1e-3) * 255.0, 0.0, 255.0).astype(np.uint8)
    keypoints, descriptors = detector.detectAndCompute(stretched, None)
    pixels = np.array([keypoint.pt for keypoint in keypoints], dtype=np.float64).reshape(-1, 2)
    points = ground_points(pixels, small, attitude_rad, height_agl_m)
    near = np.hypot(points[:, 0], points[:, 1]) < _REACH * height_agl_m  # False where NaN
    found = np.zeros((0, 128), np.float32) if descriptors is None else descriptors
    return GroundFeatures(points[near], found[near], height_agl_m, height_agl_m / small.fx)


def match_step(earlier: GroundFeatures, later: GroundFeatures, dt_s: float = 0.0) -> OdometryStep:
    """The motion between two images.

    Raises:
        FrameError: too few features agree on one motion: the images don't overlap, or show no texture.
    """
    a, b = _matched(earlier, later)
    tolerance = max(3.0 * later.sample_m, 0.01 * later.height_m)
    inliers = _ransac(a, b, tolerance)
    count = int(inliers.sum())
    if count < max(_MIN_INLIERS, _MIN_INLIER_SHARE * len(a)):
        raise FrameError(
            f"the images overlap too little, or show too little texture: {count} of {len(a)} matched features"
            f" agree on one motion, at least {_MIN_INLIERS} are needed",
            "take images less than half a footprint apart, or give odometry in frames.csv",
        )
    for _ in range(5):
        turn, shift = _rigid(a[inliers], b[inliers])
        residual = np.hypot(*(a - _moved(b, turn, shift)).T)
        spread = 1.4826 * float(np.median(residual[inliers]))
        inliers = residual < max(3.0 * spread, later.sample_m)
    turn, shift = _rigid(a[inliers], b[inliers])
    residuals = a[inliers] - _moved(b[inliers], turn, shift)
    count = len(residuals)
    noise = math.sqrt(float((residuals**2).sum()) / max(2 * count - 3, 1))
    middle = b[inliers].mean(axis=0)
    radius = math.sqrt(float(((b[inliers] - middle) ** 2).sum(axis=1).mean()))
    sigma_turn = noise / (max(radius, later.sample_m) * math.sqrt(count))
    # What the residuals show, the turn's lever from nadir to the matches, and what the residuals can't show.
    terms = (
        noise / math.sqrt(count),
        sigma_turn * float(np.hypot(*middle)),
        ATTITUDE_SIGMA_RAD * math.hypot(earlier.height_m, later.height_m),
        SCALE_SIGMA * float(np.hypot(*shift)),
    )
    sigma_turn = math.hypot(sigma_turn, ATTITUDE_SIGMA_RAD)
    return OdometryStep(float(shift[0]), float(shift[1]), turn, math.hypot(*terms), sigma_turn, dt_s)


def _matched(earlier: GroundFeatures, later: GroundFeatures) -> tuple[Floats, Floats]:
    """Points of features that are each other's nearest and clearly nearer than the next, (N, 2) each."""
    if min(len(earlier.points_m), len(later.points_m)) < 2:
        return np.zeros((0, 2)), np.zeros((0, 2))
    matcher = cv2.BFMatcher(cv2.NORM_L2)
    back = {match.queryIdx: match.trainIdx for match in matcher.match(later.descriptors, earlier.descriptors)}
    pairs = [
        (first.queryIdx, first.trainIdx)
        for first, second in matcher.knnMatch(earlier.descriptors, later.descriptors, k=2)
        if first.distance < _RATIO * second.distance and back[first.trainIdx] == first.queryIdx
    ]
    index = np.array(pairs, dtype=np.intp).reshape(-1, 2)
    return earlier.points_m[index[:, 0]], later.points_m[index[:, 1]]


def _ransac(a: Floats, b: Floats, tolerance_m: float) -> NDArray[np.bool_]:
    """(N,) which matches agree with the motion that most agree with; motions from random pairs of matches."""
    if len(a) < 2:
        return np.zeros(len(a), dtype=bool)
    picks = np.random.default_rng(0).integers(
        0, len(a), (_TRIALS, 2)
    )  # seeded: the same images, the same step
    za, zb = a @ (1.0, 1j), b @ (1.0, 1j)
    along_a, along_b = za[picks[:, 1]] - za[picks[:, 0]], zb[picks[:, 1]] - zb[picks[:, 0]]
    # Points close together give no direction, and a rigid motion keeps distances.
    rigid = (np.abs(along_b) > 5.0 * tolerance_m) & (
        np.abs(np.abs(along_a) - np.abs(along_b)) < 2.0 * tolerance_m
    )
    along_a, along_b, first = along_a[rigid], along_b[rigid], picks[rigid, 0]
    if not len(first):
        return np.zeros(len(a), dtype=bool)
    turns = np.exp(1j * np.angle(along_a / along_b))
    shifts = za[first] - turns * zb[first]
    agree = np.abs(za - (turns[:, None] * zb + shifts[:, None])) < tolerance_m
    return np.asarray(agree[agree.sum(axis=1).argmax()])


def _rigid(a: Floats, b: Floats) -> tuple[float, Floats]:
    """Turn and shift with ``a = R(turn) b + shift`` in the least-squares sense (Umeyama in 2-D)."""
    middle_a, middle_b = a.mean(axis=0), b.mean(axis=0)
    turn = float(np.angle(np.vdot((b - middle_b) @ (1.0, 1j), (a - middle_a) @ (1.0, 1j))))
    return turn, middle_a - _moved(middle_b[None], turn, np.zeros(2))[0]


def _moved(points: Floats, turn_rad: float, shift_m: Floats) -> Floats:
    c, s = math.cos(turn_rad), math.sin(turn_rad)
    return np.asarray(points @ np.array([[c, s], [-s, c]]) + shift_m)


def _carried(steps: Sequence[OdometryStep | None], i: int, dt_s: float) -> OdometryStep:
    """An unmatched step from the nearest matched one, an earlier one if there is any."""
    known = [(j > i, abs(j - i), step) for j, step in enumerate(steps) if step is not None]
    _, _, nearest = min(known, key=lambda item: item[:2])
    share = dt_s / nearest.dt_s
    forward, left = nearest.forward_m * share, nearest.left_m * share
    sigma = max(0.5 * math.hypot(forward, left), nearest.sigma_m)
    note = "the images can't be matched: the last known velocity carried on"
    return OdometryStep(forward, left, 0.0, sigma, math.radians(15.0), dt_s, note)
