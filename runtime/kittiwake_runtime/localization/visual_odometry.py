"""Motion from the images themselves, for a vehicle without other odometry.

Features of two consecutive images are laid on the ground through attitude and height, matched, and moved
onto each other by a rigid motion of the plane: RANSAC first. Then least squares also mends roll, pitch and
height of both images, within the errors that such sensors have: a tilt of .4 degrees moves the ground below
by .8 m from 120 m, but it also bends the picture of the plane, and that is seen. The mean height sets the
scale, so an error of 1 % in it is one of 1 % in distance. Relief of a tenth of the height spoils the matches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.camera import Camera
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.orthorectify import ground_points, shrunk_gray

Floats = NDArray[np.float64]

_WORKING_PX = 800
_FEATURES = 1500
_CONTRAST = 0.015  # half of OpenCV's usual threshold: snow and fields have little
_RATIO = 0.85
_TRIALS = 600
_MIN_INLIERS = 12
_MIN_INLIER_SHARE = 0.12
_FIT_STEPS = 6
_CORRELATED = 2.0  # neighbouring features share blur and relief: four count as one
_REACH = 3.0  # heights from nadir; further out a pixel of error is metres

CARRIED_TURN_RAD = math.radians(20.0)
"""Error of the turn where the images don't match: a vehicle may have turned a corner."""

ATTITUDE_SIGMA_RAD = math.radians(0.4)
"""Error of the measured roll and pitch."""

HEIGHT_SIGMA = 0.01
"""Error of the measured height, as a share of it."""


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


class VisualOdometer:
    """The motion from each image to the next, over a flight.

    Where two images can't be matched, the last motion is carried on with half its length as sigma, and the
    step's ``note`` says why.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        self._features: GroundFeatures | None = None
        self._time_s: float | None = None
        self._last: OdometryStep | None = None

    def step(
        self, image: NDArray[Any] | None, attitude_rad: Sequence[float], height_agl_m: float, time_s: float
    ) -> OdometryStep | None:
        """The step to this image, None for the first; None for an image that is missing or damaged.

        Raises:
            FrameError: nothing was matched so far, so there is no motion to carry on; time does not increase.
        """
        earlier, earlier_s, problem = self._features, self._time_s, "no image"
        if earlier_s is not None and not time_s > earlier_s:
            raise FrameError(f"time {time_s} does not come after {earlier_s}", "give images in order of capture")
        self._features, self._time_s = None, time_s
        found = None
        try:
            if image is not None:
                self._features = ground_features(image, self.camera, attitude_rad, height_agl_m)
            if earlier_s is not None and self._features is not None and earlier is not None:
                found = match_step(earlier, self._features, time_s - earlier_s)
        except FrameError as error:
            problem = error.message
            if self._last is None and earlier_s is not None:
                raise
        if earlier_s is None:
            return None
        self._last = found or self._carried(time_s - earlier_s, problem)
        return self._last

    def _carried(self, dt_s: float, problem: str) -> OdometryStep:
        if self._last is None:
            raise FrameError(f"no motion to start with: {problem}", "give odometry in frames.csv")
        share = dt_s / self._last.dt_s
        forward, left = self._last.forward_m * share, self._last.left_m * share
        sigma = max(0.5 * math.hypot(forward, left), self._last.sigma_m)
        return OdometryStep(forward, left, 0.0, sigma, CARRIED_TURN_RAD, dt_s, f"motion carried on: {problem}")


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
    fit = _Fit(a, b, earlier.height_m, later.height_m)
    turn, shift = _rigid(a[inliers], b[inliers])
    state = np.array([turn, *shift, 0.0, 0.0, 0.0, 0.0, 0.0])
    for _ in range(_FIT_STEPS):
        distance = np.hypot(*fit.residuals(state).T)
        noise = max(1.4826 * float(np.median(distance[inliers])) / math.sqrt(2.0), 0.2 * later.sample_m)
        inliers = distance < 4.0 * noise
        state, covariance = fit.step(state, inliers, _CORRELATED * noise)
    length = float(np.hypot(state[1], state[2]))
    sigma = math.hypot(math.sqrt((covariance[1, 1] + covariance[2, 2]) / 2.0), HEIGHT_SIGMA * length)
    turn = math.remainder(state[0], 2.0 * math.pi)
    return OdometryStep(float(state[1]), float(state[2]), turn, sigma, math.sqrt(covariance[0, 0]), dt_s)


class _Fit:
    """Least squares for ``(turn, forward, left, tilt of the earlier image (2), of the later (2), log ratio of
    their heights)``, with the sensors' errors as a prior on the last five.
    """

    def __init__(self, a: Floats, b: Floats, height_a_m: float, height_b_m: float) -> None:
        self.a, self.b, self.height_a_m, self.height_b_m = a, b, height_a_m, height_b_m
        sigmas = [ATTITUDE_SIGMA_RAD] * 4 + [math.sqrt(2.0) * HEIGHT_SIGMA]
        self.information = np.diag([0.0, 0.0, 0.0, *(1.0 / np.square(sigmas))])

    def residuals(self, state: Floats) -> Floats:
        """(N, 2) metres between the earlier points and the later ones moved onto them."""
        stretch = math.exp(state[7] / 2.0)  # the two heights err by halves, the mean of them is kept
        a = _tilted(self.a, self.height_a_m, state[3:5]) / stretch
        b = _tilted(self.b, self.height_b_m, state[5:7]) * stretch
        return np.asarray(a - _moved(b, state[0], state[1:3]))

    def step(self, state: Floats, use: NDArray[np.bool_], noise_m: float) -> tuple[Floats, Floats]:
        """A Gauss-Newton step: the next state, and its covariance for a noise of the points per axis."""
        delta = 1e-5
        columns = [
            (self.residuals(state + unit)[use] - self.residuals(state - unit)[use]).ravel() / (2.0 * delta)
            for unit in delta * np.eye(8)
        ]
        slope = np.stack(columns, axis=1) / noise_m
        residual = self.residuals(state)[use].ravel() / noise_m
        covariance = np.asarray(np.linalg.inv(slope.T @ slope + self.information), dtype=np.float64)
        return state - covariance @ (slope.T @ residual + self.information @ state), covariance


def _tilted(points: Floats, height_m: float, tilt_rad: Floats) -> Floats:
    """Ground points if the camera looked a little further forward and left, by small angles."""
    slope = points / height_m
    return np.asarray(height_m * (slope + tilt_rad) / (1.0 - slope @ tilt_rad)[:, None])


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
    picks = np.random.default_rng(0).integers(0, len(a), (_TRIALS, 2))  # seeded: the same images, the same step
    za, zb = a @ (1.0, 1j), b @ (1.0, 1j)
    along_a, along_b = za[picks[:, 1]] - za[picks[:, 0]], zb[picks[:, 1]] - zb[picks[:, 0]]
    # Points close together give no direction, and a rigid motion keeps distances.
    rigid = (np.abs(along_b) > 5.0 * tolerance_m) & (np.abs(np.abs(along_a) - np.abs(along_b)) < 2.0 * tolerance_m)
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
