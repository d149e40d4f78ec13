"""A flight in continuous time: what is true at each moment, and what gyro, rangefinder and odometry measure of it.

`kittiwake_runtime.localization.simulate` flies from update to update; a node needs every moment in between. World,
camera, motion and sensors are the same, and so is the noise for each step of 100 m.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.localization.frames import Grid, body_to_ned, wrap_angle
from kittiwake_runtime.localization.simulate import Motion, Sensors, Truth
from kittiwake_runtime.localization.world import CRS, ORIGIN_EASTING_M, ORIGIN_NORTHING_M, Bounds

Floats = npt.NDArray[np.float64]

STEP_S = 0.01
GRAVITY_M_S2 = 9.80665

_TURN_CORRELATION_S = 4.0
_SWAY_CORRELATION_S = 1.5
_RESPONSE_S = 0.5
_HEIGHT_CORRELATION_S = 20.0
_RETURN_RAD_S = math.radians(12.0)
GYRO_NOISE_RAD_S = math.radians(0.2)


@dataclass(frozen=True)
class Measured:
    """What the sensors say at a moment.

    Attributes:
        time_s: since the start of the flight.
        truth: where the vehicle is, in the world's metres.
        attitude_rad: measured roll, pitch, yaw: body FRD in NED, yaw clockwise from true north.
        gyro_rad_s: (3,) measured angular velocity of the body, FLU.
        range_m: measured along the body's down axis.
        odometry: x, y (metres) and yaw (radians, counter-clockwise) in a local frame that starts at zero.
        speed_m_s, turn_rate_rad_s: as odometry has them.
    """

    time_s: float
    truth: Truth
    attitude_rad: tuple[float, float, float]
    gyro_rad_s: Floats
    range_m: float
    odometry: tuple[float, float, float]
    speed_m_s: float
    turn_rate_rad_s: float


class SimulatedFlight:
    """Flies a smooth random walk over the world, for ever; the same for the same arguments.

    Args:
        bounds: (x_min, y_min, x_max, y_max), the world's metres; it turns back `border_m` before them.
        motion, sensors: how it flies and what is measured, as for `simulate_flight`.
        seed: of all random numbers.
        start: in the world's metres; anywhere within when None.

    Raises:
        ValueError: the bounds leave no room inside their border.
    """

    def __init__(
        self,
        bounds: Bounds,
        motion: Motion,
        sensors: Sensors,
        seed: int,
        start: tuple[float, float] | None = None,
        border_m: float = 400.0,
    ) -> None:
        self.time_s = 0.0
        self._rng = np.random.default_rng(seed)
        self._motion, self._sensors = motion, sensors
        self._inner = (bounds[0] + border_m, bounds[1] + border_m, bounds[2] - border_m, bounds[3] - border_m)
        if self._inner[0] >= self._inner[2] or self._inner[1] >= self._inner[3]:
            raise ValueError(f"the bounds {bounds} leave no ground {border_m:.0f} m inside their border")
        x, y = start or (
            self._rng.uniform(self._inner[0], self._inner[2]),
            self._rng.uniform(self._inner[1], self._inner[3]),
        )
        heading = float(self._rng.uniform(-math.pi, math.pi))
        self._truth = Truth(x, y, heading, height_agl_m=sensors.height_agl_m)
        self._wander = self._lift = 0.0
        self._gusts = (0.0, 0.0)
        self._sway = (0.0, 0.0)
        self._turn_rate = 0.0
        self._odometry = (0.0, 0.0, 0.0)
        self._gyro: Floats = np.zeros(3)
        self._grid = Grid.from_crs(CRS)

    @property
    def grid(self) -> Grid:
        """The map's grid, on which the world lies."""
        return self._grid

    @property
    def truth(self) -> Truth:
        """Where it is now."""
        return self._truth

    def place(self) -> tuple[float, float]:
        """Easting and northing on the grid, metres."""
        return self._truth.x_m + ORIGIN_EASTING_M, self._truth.y_m + ORIGIN_NORTHING_M

    def fly_to(self, time_s: float) -> None:
        """Go on, in whole steps of 10 ms, up to a time since the start."""
        while self.time_s + STEP_S <= time_s + 1e-9:
            self._step()

    def measure(self) -> Measured:
        """What the sensors say now."""
        truth, sensors, rng = self._truth, self._sensors, self._rng
        noise = rng.normal(0.0, sensors.attitude_noise_rad, 3)
        yaw = math.radians(float(self._grid.yaw_deg(truth.heading_rad, *self.place())))
        slant = truth.height_agl_m / (math.cos(truth.roll_rad) * math.cos(truth.pitch_rad))
        return Measured(
            time_s=self.time_s,
            truth=truth,
            attitude_rad=(truth.roll_rad + noise[0], truth.pitch_rad + noise[1], yaw + noise[2]),
            gyro_rad_s=self._gyro + rng.normal(0.0, GYRO_NOISE_RAD_S, 3),
            range_m=slant * (1 + sensors.height_noise_share * rng.normal()),
            odometry=self._odometry,
            speed_m_s=self._motion.speed_m_s,
            turn_rate_rad_s=self._turn_rate,
        )

    def kidnap(self, distance_m: float) -> None:
        """Put the vehicle elsewhere, so far away if the area is large enough; no sensor notices."""
        west, south, east, north = self._inner
        angles = self._rng.uniform(-math.pi, math.pi) + np.linspace(0, math.tau, 16, endpoint=False)
        x = np.clip(self._truth.x_m + distance_m * np.cos(angles), west, east)
        y = np.clip(self._truth.y_m + distance_m * np.sin(angles), south, north)
        best = int(np.argmax(np.hypot(x - self._truth.x_m, y - self._truth.y_m)))
        self._truth = replace(self._truth, x_m=float(x[best]), y_m=float(y[best]))

    def jump_odometry(self, distance_m: float) -> None:
        """Move the odometry's origin, as a front end does that starts again."""
        x, y, yaw = self._odometry
        self._odometry = (x + distance_m, y, yaw)

    def _step(self) -> None:
        before, speed, dt = self._truth, self._motion.speed_m_s, STEP_S
        turn_rate = self._next_turn_rate()
        heading = float(wrap_angle(before.heading_rad + turn_rate * dt))
        roll, pitch = self._next_sway()
        self._lift = self._drift(self._lift, self._sensors.height_walk_share, _HEIGHT_CORRELATION_S)
        # A coordinated turn: to the left, which is counter-clockwise, the right wing goes up.
        bank = -math.atan(speed * turn_rate / GRAVITY_M_S2)
        self._truth = Truth(
            before.x_m + speed * dt * math.cos(heading),
            before.y_m + speed * dt * math.sin(heading),
            heading,
            bank + roll,
            pitch,
            self._sensors.height_agl_m * (1 + self._lift),
        )
        self._gyro = _body_rates(before, self._truth, dt)
        self._turn_rate = turn_rate
        self._reckon(turn_rate * dt)
        self.time_s += dt

    def _next_turn_rate(self) -> float:
        """A wandering turn rate that spreads the heading by `walk_rad` a step; at the border, back to the middle."""
        steps_per_s = self._motion.speed_m_s / self._motion.step_m
        spread = self._motion.walk_rad * math.sqrt(steps_per_s / (2 * _TURN_CORRELATION_S))
        self._wander = self._drift(self._wander, spread, _TURN_CORRELATION_S)
        west, south, east, north = self._inner
        x, y = self._truth.x_m, self._truth.y_m
        if west <= x <= east and south <= y <= north:
            return self._follow(self._turn_rate, self._wander)
        home = math.atan2((south + north) / 2 - y, (west + east) / 2 - x)
        off = float(wrap_angle(home - self._truth.heading_rad))
        return self._follow(self._turn_rate, math.copysign(min(_RETURN_RAD_S, abs(off)), off))

    def _next_sway(self) -> tuple[float, float]:
        """Roll and pitch about the turn's: gusts, which the body follows smoothly, so that it has angular rates."""
        spread = self._sensors.tilt_rad * math.sqrt(1 + _RESPONSE_S / _SWAY_CORRELATION_S)
        roll, pitch = (self._drift(gust, spread, _SWAY_CORRELATION_S) for gust in self._gusts)
        self._gusts = (roll, pitch)
        self._sway = (self._follow(self._sway[0], roll), self._follow(self._sway[1], pitch))
        return self._sway

    @staticmethod
    def _follow(value: float, wanted: float) -> float:
        """No vehicle rolls at once."""
        return value + (wanted - value) * STEP_S / _RESPONSE_S

    def _drift(self, value: float, spread: float, correlation_s: float) -> float:
        """One step of a first-order Gauss-Markov process."""
        keep = math.exp(-STEP_S / correlation_s)
        return keep * value + spread * math.sqrt(1 - keep * keep) * float(self._rng.normal())

    def _reckon(self, turn_rad: float) -> None:
        motion = self._motion
        moved = motion.speed_m_s * STEP_S
        share = math.sqrt(moved / motion.step_m)  # noise adds up to the protocol's after `step_m`
        sigma = motion.odometry_share * motion.step_m * share
        forward, left = moved + self._rng.normal(0.0, sigma), self._rng.normal(0.0, sigma)
        x, y, yaw = self._odometry
        yaw += turn_rad + self._rng.normal(0.0, motion.odometry_turn_rad * share)
        self._odometry = (
            x + forward * math.cos(yaw) - left * math.sin(yaw),
            y + forward * math.sin(yaw) + left * math.cos(yaw),
            float(wrap_angle(yaw)),
        )


def _body_rates(before: Truth, after: Truth, dt_s: float) -> Floats:
    """(3,) angular velocity of the body in FLU, rad/s, between two attitudes."""
    turns = [body_to_ned(t.roll_rad, t.pitch_rad, math.pi / 2 - t.heading_rad) for t in (before, after)]
    step = turns[0].T @ turns[1]
    frd = np.array([step[2, 1] - step[1, 2], step[0, 2] - step[2, 0], step[1, 0] - step[0, 1]]) / (2 * dt_s)
    return np.asarray(frd * (1, -1, -1))
