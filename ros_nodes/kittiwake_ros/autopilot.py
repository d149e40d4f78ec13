"""When an autopilot may be told a position, and what it is told: no ROS, no clock.

An estimator takes every sample for new and independent, and its first one may reset it: a sample that is late, that
comes after a hole, or that is believed more than it should be does harm. So it gets poses of a converged belief alone,
never older than 150 ms, and after a hole of more than 1 s none until the map has been matched again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kittiwake_runtime.localization.outputs import Fix

MAX_AGE_S = 0.15
MAX_GAP_S = 1.0


@dataclass(frozen=True)
class AutopilotPose:
    """One position for an estimator.

    Attributes:
        stamp_s: the time that the position is of, in the node's clock.
        lat_deg, lon_deg: WGS84.
        altitude_m: above mean sea level; NaN when unknown.
        eph_m: standard deviation on each axis, the larger one; inflated for what samples have in common.
        reset_counter: how often the belief was found anew; a step of the position comes with a step of it.
    """

    stamp_s: float
    lat_deg: float
    lon_deg: float
    altitude_m: float
    eph_m: float
    reset_counter: int


@dataclass(frozen=True)
class GateConfig:
    """What an estimator may be given.

    Attributes:
        shadow: compute and record, and send nothing.
        max_age_s: of a sample when it is sent.
        max_gap_s: between two samples while converged; past it nothing is sent until the next match.
        rate_hz: of the samples.
        correlation_s: for how long the errors of the poses have a common cause; `rate_hz` times this is how many
            samples say the same, and the variance sent is that many times the pose's own.
        max_eph_m: above it a position is of no use to an estimator.
    """

    shadow: bool = False
    max_age_s: float = MAX_AGE_S
    max_gap_s: float = MAX_GAP_S
    rate_hz: float = 10.0
    correlation_s: float = 5.0
    max_eph_m: float = 400.0


class AutopilotGate:
    """Decides over each pose whether the estimator gets it.

    Attributes:
        reason: why nothing is sent now; empty while samples flow.
        sent, refused: counts of poses.
        longest_gap_s: between two samples of one converged stretch.
        oldest_s: age of the oldest sample that was sent.
    """

    def __init__(self, config: GateConfig | None = None) -> None:
        self.config = config or GateConfig()
        self.reason = "nothing was found yet"
        self.sent = self.refused = 0
        self.longest_gap_s = self.oldest_s = 0.0
        self._reset_counter = 0
        self._was_believed = False
        self._last_s = -math.inf
        self._held_since_s = math.nan

    def consider(self, pose: Fix | None, now_s: float, *, altitude_m: float = math.nan) -> AutopilotPose | None:
        """The sample to send for the newest pose, or None; `reason` then says why.

        Args:
            pose: a fix carried forward to the newest odometry; None while there is none.
            now_s: the node's clock.
            altitude_m: above mean sea level, NaN when unknown.
        """
        self.reason = self._why_not(pose, now_s)
        if pose is None or self.reason:
            self.refused += 1
            return None
        self.sent += 1
        if math.isfinite(self._last_s):
            self.longest_gap_s = max(self.longest_gap_s, pose.time_s - self._last_s)
        self.oldest_s = max(self.oldest_s, now_s - pose.time_s)
        self._last_s = pose.time_s
        lat_deg, lon_deg = pose.wgs84()
        return AutopilotPose(pose.time_s, lat_deg, lon_deg, altitude_m, self.eph_m(pose), self._reset_counter)

    def values(self) -> dict[str, object]:
        """For the diagnostics."""
        return {
            "autopilot_sent": self.sent,
            "autopilot_held": self.reason,
            "autopilot_oldest_s": self.oldest_s,
            "autopilot_longest_gap_s": self.longest_gap_s,
        }

    def eph_m(self, pose: Fix) -> float:
        """Standard deviation on each axis as it is sent."""
        same = max(1.0, self.config.rate_hz * self.config.correlation_s)
        return math.sqrt(same * float(np.linalg.eigvalsh(pose.covariance)[-1]))

    def _why_not(self, pose: Fix | None, now_s: float) -> str:
        if pose is None or not pose.is_believed:
            self._was_believed, self._last_s = False, -math.inf
            return "not converged" if pose is None or not pose.reason else f"not converged: {pose.reason}"
        if not self._was_believed:
            self._was_believed, self._held_since_s = True, math.nan
            self._reset_counter += 1
        config, age_s = self.config, now_s - pose.time_s
        if config.shadow:
            return "mode is shadow: nothing is sent"
        if pose.time_s <= self._last_s:
            return self._held(now_s) or f"the odometry brought nothing newer for {now_s - self._last_s:.2f} s"
        if not -config.max_age_s <= age_s <= config.max_age_s:
            late = "old" if age_s > 0 else "ahead of the clock"
            return self._held(now_s) or f"the newest odometry is {1e3 * abs(age_s):.0f} ms {late}"
        if self.eph_m(pose) > config.max_eph_m:
            return self._held(now_s) or f"its standard deviation, {self.eph_m(pose):.0f} m, is too large to be of use"
        return self._held(pose.time_s, pose)

    def _held(self, until_s: float, pose: Fix | None = None) -> str:
        """After a hole: nothing before the map was matched again."""
        if until_s - self._last_s > self.config.max_gap_s and math.isnan(self._held_since_s):
            self._held_since_s = until_s if math.isfinite(self._last_s) else math.nan
        if math.isnan(self._held_since_s):
            return ""
        if pose is not None and pose.time_s - pose.age_s > self._held_since_s:
            self._held_since_s, self._last_s = math.nan, -math.inf
            self._reset_counter += 1
            return ""
        return f"after a hole of more than {self.config.max_gap_s:g} s it waits for the next match with the map"
