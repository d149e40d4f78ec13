"""What PX4's samples lack before they are odometry: one clock, and no jumps.

Both classes keep a state of a few numbers; neither knows ROS.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .px4_messages import MotionSample

SAME_CLOCK_S = 0.5
"""PX4's stamps within this of the companion's clock were brought to it by the bridge's time synchronization."""

_WINDOW_S = 10.0


class Px4Clock:
    """Brings PX4's microseconds to the node's clock and back.

    With ``UXRCE_DDS_SYNCT 1``, PX4's default, its stamps are in the clock of the machine that runs the agent, and what
    is sent to it is converted on arrival: nothing is left to do. Without it they count from PX4's start: the offset is
    then the smallest difference of arrival and stamp in the last 10 to 20 s, since a message can only come late.
    """

    def __init__(self) -> None:
        self._window_start_s = -math.inf
        self._least_s = math.inf
        self._least_before_s = math.inf

    def hear(self, time_us: int, arrival_s: float) -> None:
        """A message of a stamp came at a time of the node's clock, seconds."""
        if not 0 <= arrival_s - self._window_start_s <= _WINDOW_S:
            went_back = arrival_s < self._window_start_s
            self._least_before_s = math.inf if went_back else self._least_s
            self._window_start_s, self._least_s = arrival_s, math.inf
        self._least_s = min(self._least_s, arrival_s - 1e-6 * time_us)

    @property
    def offset_s(self) -> float:
        """The node's clock minus PX4's; NaN before the first message, 0 when they are the same clock."""
        least = min(self._least_s, self._least_before_s)
        if math.isinf(least):
            return math.nan
        return 0.0 if abs(least) < SAME_CLOCK_S else least

    @property
    def is_synchronized(self) -> bool:
        """Whether PX4's stamps are in the node's clock as they come."""
        return self.offset_s == 0.0

    def to_node_s(self, time_us: int) -> float:
        """A stamp of PX4 in the node's clock, seconds."""
        return 1e-6 * time_us + self.offset_s

    def to_px4_us(self, time_s: float) -> int:
        """A time of the node's clock as PX4 is to be told it, microseconds.

        Raises:
            ValueError: nothing was heard from PX4, so its clock is not known.
        """
        if math.isnan(self.offset_s):
            raise ValueError("PX4's clock is not known before its first message")
        return round(1e6 * (time_s - self.offset_s))


@dataclass(frozen=True)
class DeadReckoned:
    """A pose without jumps in a local frame of any origin, FLU.

    Attributes:
        time_us: PX4's stamp.
        x_m, y_m, yaw_rad: the pose; yaw counter-clockwise.
        forward_m_s, left_m_s: the velocity along and left of the heading.
        note: what had to be bridged since the sample before; empty otherwise.
    """

    time_us: int
    x_m: float
    y_m: float
    yaw_rad: float
    forward_m_s: float
    left_m_s: float
    note: str = ""


class DeadReckoning:
    """Odometry from PX4's velocity and heading, through the estimator's resets.

    The velocity is turned into the vehicle's own axes by the heading that comes with it, so a reset of the position
    does not show, and a reset of the heading only in the turn, where it is taken out: by the jump that PX4 states, or,
    when it states none or several came at once, by putting the turn rate in the heading's place for that one step.
    """

    max_gap_s = 0.5
    """A longer silence is not bridged: the pose stands still over it, and the sample says so."""

    def __init__(self) -> None:
        self._last: MotionSample | None = None
        self._x = self._y = self._yaw = 0.0

    def update(self, sample: MotionSample) -> DeadReckoned | None:
        """The pose at a sample; None when its velocity or heading is unknown, or it is not newer than the last."""
        last = self._last
        values = (sample.forward_m_s, sample.left_m_s, sample.heading_rad)
        if not all(math.isfinite(value) for value in values) or (last and sample.time_us <= last.time_us):
            return None
        note = ""
        if last is not None:
            dt_s = 1e-6 * (sample.time_us - last.time_us)
            if dt_s > self.max_gap_s:
                note = f"no odometry from PX4 for {dt_s:.1f} s"
            else:
                turn, note = _turn(last, sample, dt_s)
                forward = 0.5 * dt_s * (last.forward_m_s + sample.forward_m_s)
                left = 0.5 * dt_s * (last.left_m_s + sample.left_m_s)
                middle = self._yaw + 0.5 * turn
                self._x += forward * math.cos(middle) - left * math.sin(middle)
                self._y += forward * math.sin(middle) + left * math.cos(middle)
                self._yaw = math.remainder(self._yaw + turn, math.tau)
        else:
            self._yaw = math.remainder(sample.heading_rad, math.tau)
        self._last = sample
        return DeadReckoned(sample.time_us, self._x, self._y, self._yaw, sample.forward_m_s, sample.left_m_s, note)


def _turn(last: MotionSample, sample: MotionSample, dt_s: float) -> tuple[float, str]:
    """How far the vehicle turned between two samples, counter-clockwise, and what a reset made of it."""
    turn = math.remainder(sample.heading_rad - last.heading_rad, math.tau)
    resets = (sample.heading_resets - last.heading_resets) % 256
    if not resets:
        return turn, ""
    if resets == 1 and math.isfinite(sample.heading_jump_rad):
        jump = math.degrees(sample.heading_jump_rad)
        return math.remainder(turn - sample.heading_jump_rad, math.tau), f"PX4's heading was reset by {jump:.1f}°"
    rate = sample.turn_rate_rad_s if math.isfinite(sample.turn_rate_rad_s) else 0.0
    return rate * dt_s, "PX4's estimator was reset"
