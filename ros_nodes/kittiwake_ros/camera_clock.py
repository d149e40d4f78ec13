"""Whether the camera's clock is the gyro's: the offset at which the images' rotation is the vehicle's.

Images stamped 100 ms late put the vehicle 2 m behind at 20 m/s, and turn its attitude by degrees in a manoeuvre; no
driver says so. But an image shows by how much the camera turned about its optical axis since the one before, and the
gyro knows too: the offset is the shift of time that makes the two agree best.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Gray = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

WARN_S = 0.02
REFUSE_S = 0.2

_WINDOW_S = 20.0
_SEARCH_S = 0.5
_LAG_S = 0.005
_LEAST_PAIRS = 40
_LEAST_RATE_RAD_S = 0.02
_LEAST_EXPLAINED = 0.6
_MOST_SIGMA_S = 0.01
_LIKENESS = 8.0
_LEAST_SPACING_S = 0.08
_LONGEST_SPACING_S = 0.4


@dataclass(frozen=True)
class ClockOffset:
    """The camera's stamps minus the gyro's, and its standard deviation."""

    offset_s: float
    sigma_s: float

    @property
    def problem(self) -> str:
        """What to tell a person; empty when it is small."""
        if abs(self.offset_s) <= WARN_S + 2 * self.sigma_s:
            return ""
        late = "later" if self.offset_s > 0 else "earlier"
        return (
            f"the camera's stamps are {1e3 * abs(self.offset_s):.0f} ms {late} than the gyro's: mend the driver, or "
            f"add {-self.offset_s:+.3f} to the parameter camera_offset_s"
        )

    @property
    def is_refused(self) -> bool:
        """Whether images of such a camera are not to be used."""
        return abs(self.offset_s) > REFUSE_S + 2 * self.sigma_s


class CameraClock:
    """Collects rotations between images and finds the offset of their clock."""

    def __init__(self) -> None:
        self._last: tuple[float, Gray] | None = None
        self._pairs: deque[tuple[float, float, float]] = deque()

    def add(self, time_s: float, gray: Gray) -> None:
        """Take a thumbnail; those that follow too soon are passed over."""
        if self._last is not None and 0 < time_s - self._last[0] < _LEAST_SPACING_S:
            return
        if self._last is not None and 0 < time_s - self._last[0] < _LONGEST_SPACING_S:
            angle = image_rotation_rad(self._last[1], gray)
            if not math.isnan(angle):
                self._pairs.append((self._last[0], time_s, angle))
        elif self._last is not None and time_s <= self._last[0]:
            self._pairs.clear()
        self._last = (time_s, gray)
        while self._pairs and time_s - self._pairs[0][0] > _WINDOW_S:
            self._pairs.popleft()

    def wants(self, time_s: float) -> bool:
        """Whether an image at that time would be taken: thumbnails of others need not be made."""
        return self._last is None or not 0 < time_s - self._last[0] < _LEAST_SPACING_S

    def estimate(self, times_s: Floats, rates_rad_s: Floats) -> ClockOffset | None:
        """The offset; None while there is too little rotation to tell.

        Args:
            times_s: ``(n,)`` of the gyro's samples, increasing.
            rates_rad_s: ``(n,)`` angular velocity about the optical axis, which points out of the lens.
        """
        inside = [
            pair
            for pair in self._pairs
            if len(times_s) and times_s[0] + _SEARCH_S < pair[0] and pair[1] < times_s[-1] - _SEARCH_S
        ]
        if len(inside) < _LEAST_PAIRS:
            return None
        start, stop, seen = np.array(inside).T
        if math.sqrt(float(np.mean((seen / (stop - start)) ** 2))) < _LEAST_RATE_RAD_S:
            return None
        turned = np.concatenate([[0.0], np.cumsum(np.diff(times_s) * (rates_rad_s[1:] + rates_rad_s[:-1]) / 2)])
        lags = np.arange(-_SEARCH_S, _SEARCH_S + _LAG_S / 2, _LAG_S)
        # What lies still in the world turns against the camera in the image.
        expected = np.interp(start - lags[:, None], times_s, turned) - np.interp(stop - lags[:, None], times_s, turned)
        misfit = ((expected - seen) ** 2).sum(axis=1)
        best = int(np.argmin(misfit))
        explained = 1 - float(misfit[best] / ((seen - seen.mean()) ** 2).sum())
        if explained < _LEAST_EXPLAINED or best in (0, len(lags) - 1):
            return None
        before, here, after = misfit[best - 1 : best + 2]
        curvature = before - 2 * here + after
        if curvature <= 0:
            return None
        # The variance of a least-squares estimate of one parameter. Tilt turns the image a little too, slowly, so that
        # residuals are alike over many pairs: widened by what gentle flights of the simulator showed.
        sigma_s = _LIKENESS * _LAG_S * math.sqrt(2 * here / (len(inside) - 1) / curvature)
        if sigma_s > _MOST_SIGMA_S:
            return None
        return ClockOffset(float(lags[best] + 0.5 * (before - after) / curvature * _LAG_S), sigma_s)


def image_rotation_rad(before: Gray, after: Gray) -> float:
    """Rotation of what is seen from one thumbnail to the next, from x to y (clockwise on a screen).

    Corners are followed by optical flow and a similarity is fitted to them (RANSAC); NaN where too few are found.
    """
    corners = cv2.goodFeaturesToTrack(before, 80, 0.01, 6)
    if corners is None or len(corners) < 12:
        return math.nan
    moved, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.empty(0), winSize=(15, 15), maxLevel=3)
    kept = found.ravel().astype(bool)
    if kept.sum() < 12:
        return math.nan
    similarity, inliers = cv2.estimateAffinePartial2D(corners[kept], moved[kept], ransacReprojThreshold=1.0)
    if similarity is None or inliers.sum() < 10:
        return math.nan
    return math.atan2(similarity[1, 0], similarity[0, 0])
