"""What the vehicle's sensors said at the stamp of an image: buffers that interpolate, and never guess.

Between two samples at most 100 ms apart a value is interpolated; elsewhere there is none, and it is said why. All
times are stamps in seconds; nothing here looks at a clock.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

from kittiwake_runtime.localization.flight_log import MAX_SPEED_M_S, Odometry, OdometryStep, Pose, odometry_steps

from .geometry import Quaternion, slerp, unit

T = TypeVar("T")

MAX_GAP_S = 0.1
MAX_WAIT_S = 0.2
KEEP_S = 30.0
STARTED_AGAIN_S = 1.0
"""A stamp this far before the last one is another recording, not a message that came late."""

_STAMP_NOISE_S = 1e-6


class SampleBuffer(Generic[T]):
    """The last samples of one sensor, in order of time.

    Args:
        name: for messages, as ``attitude``.
        between: value at a share (0 to 1) of the way from one sample's value to the next one's.
        max_gap_s: between two samples that are interpolated.
        keep_s: how far it looks back.
    """

    def __init__(
        self, name: str, between: Callable[[T, T, float], T], max_gap_s: float = MAX_GAP_S, keep_s: float = KEEP_S
    ) -> None:
        self.name, self.max_gap_s, self.keep_s = name, max_gap_s, keep_s
        self._between = between
        self._times: list[float] = []
        self._values: list[T] = []

    def __len__(self) -> int:
        return len(self._times)

    @property
    def newest_s(self) -> float:
        """Time of the newest sample; minus infinity when there is none."""
        return self._times[-1] if self._times else -math.inf

    @property
    def newest(self) -> T | None:
        """The newest value."""
        return self._values[-1] if self._values else None

    def add(self, time_s: float, value: T) -> str:
        """Take a sample; returns why it was refused, or an empty text."""
        if not (math.isfinite(time_s) and time_s > 0):
            return f"its stamp is {time_s:g} s: the driver has to set header.stamp"
        if self._times and time_s <= self._times[-1]:
            back_s = self._times[-1] - time_s
            if back_s < STARTED_AGAIN_S:
                return f"its stamp is {1e3 * back_s:.0f} ms before the last one's: out of order"
            self.clear()
        self._times.append(time_s)
        self._values.append(value)
        if self._times[-1] - self._times[0] > 1.5 * self.keep_s:  # now and then, not at every sample
            first = bisect_left(self._times, time_s - self.keep_s)
            del self._times[:first], self._values[:first]
        return ""

    def clear(self) -> None:
        """Forget all samples."""
        self._times.clear()
        self._values.clear()

    def status(self, time_s: float) -> Literal["ready", "waiting", "missing"]:
        """Whether there is a value at a time, one may still come, or none ever will."""
        if time_s > self.newest_s + _STAMP_NOISE_S:
            return "waiting"
        return "ready" if self._pair(time_s) is not None else "missing"

    def at(self, time_s: float) -> T:
        """The value at a time for which `status` is ready.

        Raises:
            LookupError: it is not.
        """
        pair = self._pair(time_s)
        if pair is None:
            raise LookupError(self.why_not(time_s))
        a, b = pair
        span = self._times[b] - self._times[a]
        share = 0.0 if span == 0 else (time_s - self._times[a]) / span
        return self._between(self._values[a], self._values[b], min(max(share, 0.0), 1.0))

    def why_not(self, time_s: float) -> str:
        """Why there is no value at a time, for a person."""
        if not self._times:
            return f"no {self.name} came"
        if time_s > self._times[-1]:
            return f"no {self.name} came within {1e3 * MAX_WAIT_S:.0f} ms after the image"
        if time_s < self._times[0]:
            return f"the image is older than all {self.name} samples"
        i = bisect_left(self._times, time_s)
        gap_s = self._times[i] - self._times[i - 1]
        return f"{self.name} samples lie {1e3 * gap_s:.0f} ms apart there, at most {1e3 * self.max_gap_s:.0f} are good"

    def since(self, time_s: float) -> list[tuple[float, T]]:
        """Samples at and after a time."""
        first = bisect_left(self._times, time_s)
        return list(zip(self._times[first:], self._values[first:], strict=True))

    def _pair(self, time_s: float) -> tuple[int, int] | None:
        """Indices of the samples about a time; the same one twice when it has that very stamp."""
        i = bisect_left(self._times, time_s - _STAMP_NOISE_S)
        if i < len(self._times) and abs(self._times[i] - time_s) <= _STAMP_NOISE_S:
            return i, i
        if not 0 < i < len(self._times) or self._times[i] - self._times[i - 1] > self.max_gap_s + _STAMP_NOISE_S:
            return None
        return i - 1, i


@dataclass
class Odometer:
    """Odometry without its resets: a jump of its source never moves the belief.

    A sample that no vehicle's motion explains, or that comes with another reset count, is joined to the last one by
    the last velocity; all later samples are moved along. What that may be wrong by goes into the step that holds it.

    Attributes:
        poses: continuous poses in a local frame, yaw in radians.
        newest_raw: x, y and yaw of the newest sample as it came.
        note: what was last taken out; resets: how often.
    """

    max_gap_s: float = MAX_GAP_S
    sigma_share: float = 0.02
    sigma_turn_rad: float = math.radians(1.5)
    poses: SampleBuffer[tuple[float, float, float]] = field(init=False)
    newest_raw: tuple[float, float, float] = (0.0, 0.0, 0.0)
    note: str = ""
    resets: int = 0

    def __post_init__(self) -> None:
        self.poses = SampleBuffer("odometry", _between_poses, self.max_gap_s, keep_s=120.0)
        self._joints: deque[tuple[float, float]] = deque(maxlen=64)
        self.clear()

    def clear(self) -> None:
        """Start another flight."""
        self.poses.clear()
        self._joints.clear()
        self._turn, self._shift = 0.0, 0j
        self._velocity, self._rate = 0j, 0.0
        self._count: int | None = None

    def add(self, time_s: float, x_m: float, y_m: float, yaw_rad: float, reset_count: int | None = None) -> str:
        """Take a pose of a local frame (FLU); returns why it was refused, or an empty text.

        Args:
            reset_count: of the estimator, where it counts its resets; None where it does not.
        """
        if not all(math.isfinite(value) for value in (x_m, y_m, yaw_rad)):
            return f"its pose is not finite: {x_m}, {y_m}, yaw {yaw_rad}"
        before_s, before = self.poses.newest_s, self.poses.newest
        if before_s - time_s >= STARTED_AGAIN_S:
            self.clear()
            before = None
        position = complex(x_m, y_m) * _unit(self._turn) + self._shift
        yaw = yaw_rad + self._turn
        if before is not None and time_s > before_s:
            position, yaw = self._continued(before, time_s - before_s, time_s, position, yaw, reset_count)
        if why := self.poses.add(time_s, (position.real, position.imag, yaw)):
            return why
        self.newest_raw, self._count = (x_m, y_m, yaw_rad), reset_count
        return ""

    def _continued(
        self, before: tuple[float, float, float], dt_s: float, time_s: float, position: complex, yaw: float,
        reset_count: int | None,
    ) -> tuple[complex, float]:  # fmt: skip
        """The pose after the last one, with a reset taken out of it and of all that follow."""
        last, last_yaw = complex(*before[:2]), before[2]
        moved, turned = position - last, math.remainder(yaw - last_yaw, math.tau)
        expected, expected_turn = self._velocity * dt_s, self._rate * dt_s
        jump_m, jump_rad = abs(moved - expected), abs(math.remainder(turned - expected_turn, math.tau))
        counted = reset_count is not None and self._count is not None and reset_count != self._count
        too_far = abs(moved) > max(MAX_SPEED_M_S * dt_s, 1.0) or jump_m > 1.5 * abs(expected) + 20.0 * dt_s + 10.0
        too_sharp = jump_rad > 10.0 * dt_s + 0.1
        if not (counted or too_far or too_sharp):
            self._velocity, self._rate = moved / dt_s, turned / dt_s
            return position, last_yaw + turned
        self.resets += 1
        self.note = f"odometry jumped by {jump_m:.0f} m and {math.degrees(jump_rad):.0f}°: a reset, taken out"
        self._joints.append((time_s, min(0.25 * jump_m, 0.5 * max(abs(self._velocity), 10.0) * dt_s + 1.0)))
        joined, joined_yaw = last + expected, last_yaw + expected_turn
        turn = joined_yaw - yaw
        self._shift = joined - (position - self._shift) * _unit(turn)
        self._turn += turn
        return joined, joined_yaw

    def pose(self, time_s: float) -> Pose:
        """The pose at a time, as a flight log has it; LookupError where there is none."""
        x, y, yaw = self.poses.at(time_s)
        return Pose(time_s=time_s, roll_deg=0.0, pitch_deg=0.0, odometry=Odometry(x, y, math.degrees(yaw)))

    def step(self, from_s: float, to_s: float) -> OdometryStep:
        """The motion between two times, by the code that reads flight logs; LookupError where it is not known."""
        if from_s == to_s:
            return OdometryStep(0.0, 0.0, 0.0, 0.0, 0.0)
        measured = odometry_steps(
            [self.pose(from_s), self.pose(to_s)], sigma_share=self.sigma_share, sigma_turn_rad=self.sigma_turn_rad
        )[0]
        joints = [sigma for time_s, sigma in self._joints if from_s < time_s <= to_s]
        if not joints and not measured.note:
            return measured
        a, b = self.poses.at(from_s), self.poses.at(to_s)
        moved = complex(b[0] - a[0], b[1] - a[1]) * _unit(-a[2])
        sigma = math.hypot(self.sigma_share * abs(moved), *joints)
        return OdometryStep(
            moved.real, moved.imag, measured.turn_rad, sigma, self.sigma_turn_rad, to_s - from_s, self.note
        )


def _between_poses(
    a: tuple[float, float, float], b: tuple[float, float, float], share: float
) -> tuple[float, float, float]:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1]), a[2] + share * (b[2] - a[2])


def _between_numbers(a: float, b: float, share: float) -> float:
    return a + share * (b - a)


def _between_vectors(
    a: tuple[float, float, float], b: tuple[float, float, float], share: float
) -> tuple[float, float, float]:
    return _between_poses(a, b, share)


def _unit(angle_rad: float) -> complex:
    return complex(math.cos(angle_rad), math.sin(angle_rad))


class Sensors:
    """All that a vehicle says of itself; every ``add_`` returns why a sample was refused, or an empty text.

    Args:
        max_gap_s: between two samples that are interpolated.
        sigma_share, sigma_turn_rad: noise of the odometry, as `odometry_steps` takes it.

    Attributes:
        attitude: body FLU in ENU. gimbal: as its source has it.
        height: metres, of the datum that the node was told. rates: angular velocity in FLU, rad/s.
        odometry: poses in a local frame.
    """

    def __init__(
        self, max_gap_s: float = MAX_GAP_S, sigma_share: float = 0.02, sigma_turn_rad: float = math.radians(1.5)
    ) -> None:
        self.attitude: SampleBuffer[Quaternion] = SampleBuffer("attitude", slerp, max_gap_s)
        self.gimbal: SampleBuffer[Quaternion] = SampleBuffer("gimbal", slerp, max_gap_s)
        self.height: SampleBuffer[float] = SampleBuffer("height", _between_numbers, max_gap_s)
        self.rates: SampleBuffer[tuple[float, float, float]] = SampleBuffer("gyro", _between_vectors, max_gap_s)
        self.odometry = Odometer(max_gap_s, sigma_share, sigma_turn_rad)

    def add_attitude(self, time_s: float, q: Quaternion) -> str:
        """Body FLU in ENU, ``(w, x, y, z)``."""
        orientation = unit(q)
        return (
            "its orientation is no unit quaternion" if orientation is None else self.attitude.add(time_s, orientation)
        )

    def add_gimbal(self, time_s: float, q: Quaternion) -> str:
        """The gimbal's FLU in the frame that the parameter ``gimbal_frame`` names."""
        orientation = unit(q)
        return "its orientation is no unit quaternion" if orientation is None else self.gimbal.add(time_s, orientation)

    def add_height(self, time_s: float, height_m: float) -> str:
        """Metres above the datum that the parameter ``height_source`` names."""
        if not (math.isfinite(height_m) and height_m > 0):
            return f"a height of {height_m:g} m is not positive"
        return self.height.add(time_s, height_m)

    def add_rates(self, time_s: float, rates_rad_s: tuple[float, float, float]) -> str:
        """Angular velocity of the body in FLU."""
        if not all(math.isfinite(value) for value in rates_rad_s):
            return f"its angular velocity is not finite: {rates_rad_s}"
        return self.rates.add(time_s, rates_rad_s)

    def add_odometry(
        self, time_s: float, x_m: float, y_m: float, yaw_rad: float, reset_count: int | None = None
    ) -> str:
        """A pose in a local frame of any origin, x forward or east, y to the left of it."""
        return self.odometry.add(time_s, x_m, y_m, yaw_rad, reset_count)

    def clear(self) -> None:
        """Start another flight."""
        for buffer in (self.attitude, self.gimbal, self.height, self.rates, self.odometry):
            buffer.clear()
