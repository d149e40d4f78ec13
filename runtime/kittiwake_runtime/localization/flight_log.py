"""A flight on disk: ``frames.csv`` read, checked and written, and the odometry steps between its frames.

One row a frame, times strictly increasing (UTC seconds)::

    file,time_s,roll_deg,pitch_deg,yaw_deg,height_agl_m,odom_x_m,odom_y_m,odom_yaw_deg,truth_lat_deg,truth_lon_deg

- ``file``: the image, relative to the CSV's folder.
- attitude: body FRD in NED, aerospace ZYX; yaw clockwise from true north, empty when unknown.
- ``height_agl_m``: above the ground below; or ``height_above_takeoff_m``; absent or empty when unknown.
- odometry (all three columns or none): pose in a local FLU frame of any origin, so yaw is counter-clockwise.
- truth (both columns or none): WGS84, for the scorer alone.
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.errors import FrameError

Floats = NDArray[np.float64]

_REQUIRED = ("file", "time_s", "roll_deg", "pitch_deg", "yaw_deg")
_HEIGHTS = ("height_agl_m", "height_above_takeoff_m")
_ODOMETRY = ("odom_x_m", "odom_y_m", "odom_yaw_deg")
_TRUTH = ("truth_lat_deg", "truth_lon_deg")

SIGMA_SHARE = 0.02
SIGMA_TURN_RAD = math.radians(1.5)
MAX_SPEED_M_S = 100.0


@dataclass(frozen=True)
class Odometry:
    """A pose in a local FLU frame of any origin; yaw in degrees counter-clockwise from its x axis."""

    x_m: float
    y_m: float
    yaw_deg: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """What the vehicle says about itself at one time; see the module's head for frames and units.

    Attributes:
        yaw_deg: NaN when unknown.
        height_agl_m, height_above_takeoff_m, odometry: None when unknown.
    """

    time_s: float
    roll_deg: float
    pitch_deg: float
    yaw_deg: float = math.nan
    height_agl_m: float | None = None
    height_above_takeoff_m: float | None = None
    odometry: Odometry | None = None

    @property
    def attitude_rad(self) -> tuple[float, float, float]:
        """Roll, pitch and yaw in radians."""
        return math.radians(self.roll_deg), math.radians(self.pitch_deg), math.radians(self.yaw_deg)


@dataclass(frozen=True, kw_only=True)
class Frame(Pose):
    """An image and the pose it was taken from.

    Attributes:
        file: the image.
        truth: WGS84 ``(lat_deg, lon_deg)``, None when unknown.
    """

    file: Path
    truth: tuple[float, float] | None = None


@dataclass(frozen=True)
class OdometryStep:
    """Motion from one frame to the next, in the body's FLU frame at the earlier one.

    Attributes:
        forward_m, left_m, turn_rad: the motion; the turn is counter-clockwise.
        sigma_m: standard deviation of the position, per axis.
        sigma_turn_rad: standard deviation of the turn.
        dt_s: time between the frames.
        note: why the step is not what was measured; empty for a plain step.
    """

    forward_m: float
    left_m: float
    turn_rad: float
    sigma_m: float
    sigma_turn_rad: float
    dt_s: float = 0.0
    note: str = ""


def read_frames(path: str | Path) -> list[Frame]:
    """Read and check ``frames.csv``.

    Raises:
        FrameError: a column is missing; a number is missing, malformed or not finite; a height is not
            positive; time stands still or goes backwards. The message names file, row and column.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = _check_columns(path, [name.strip() for name in reader.fieldnames or ()])
            rows = [(reader.line_num, _Row(path, reader.line_num, values).frame()) for values in reader]
    except OSError as error:
        raise FrameError(f"{path}: {error.strerror}", "give the frames.csv of a flight") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise FrameError(f"{path}: not a CSV file: {error}") from error
    if not rows:
        raise FrameError(f"{path}: no frames")
    for (_, earlier), (number, later) in itertools.pairwise(rows):
        if later.time_s <= earlier.time_s:
            raise FrameError(
                f"{path}, row {number}, time_s: {later.time_s} does not come after {earlier.time_s}",
                "sort the rows by capture time, and drop repeated frames",
            )
    return [frame for _, frame in rows]


def write_frames(path: str | Path, frames: Sequence[Frame]) -> None:
    """Write ``frames.csv``: images relative to its folder, without the columns that no frame fills."""
    path = Path(path)
    rows = [_to_row(frame, path.parent) for frame in frames]
    used = [key for key in (*_REQUIRED, *_HEIGHTS, *_ODOMETRY, *_TRUTH) if any(key in row for row in rows)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, used, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """An image file as (H, W, 3) uint8 RGB, as the sensor saw it (the orientation tag is not applied).

    Raises:
        FrameError: the file is missing or not an image.
    """
    if not Path(path).is_file():
        raise FrameError(f"{path}: no such image", "file names in frames.csv are relative to its folder")
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise FrameError(f"{path}: not an image that OpenCV reads, or damaged")
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def pose_at(frames: Sequence[Pose], time_s: float) -> Pose:
    """The pose at a time between the first and the last, interpolated linearly, angles the short way round.

    A height or odometry that one of the two neighbours lacks is None.

    Raises:
        FrameError: the time is outside the flight.
    """
    times = [frame.time_s for frame in frames]
    if not times or not times[0] <= time_s <= times[-1]:
        span = f"{times[0]} to {times[-1]} s" if times else "no frames"
        raise FrameError(f"no pose at {time_s} s: the log holds {span}", "compare the clocks of camera and log")
    last = max(1, min(int(np.searchsorted(times, time_s)), len(times) - 1))
    a, b = frames[max(last - 1, 0)], frames[min(last, len(times) - 1)]
    share = 0.0 if b.time_s == a.time_s else (time_s - a.time_s) / (b.time_s - a.time_s)

    def number(x: float | None, y: float | None) -> float | None:
        return None if x is None or y is None else x + share * (y - x)

    def angle(x: float, y: float) -> float:
        return x + share * math.remainder(y - x, 360.0)

    odometry = None
    if a.odometry is not None and b.odometry is not None:
        p, q = a.odometry, b.odometry
        yaw = angle(p.yaw_deg, q.yaw_deg)
        odometry = Odometry(p.x_m + share * (q.x_m - p.x_m), p.y_m + share * (q.y_m - p.y_m), yaw)
    return Pose(
        time_s=time_s,
        roll_deg=angle(a.roll_deg, b.roll_deg),
        pitch_deg=angle(a.pitch_deg, b.pitch_deg),
        yaw_deg=angle(a.yaw_deg, b.yaw_deg) % 360.0,
        height_agl_m=number(a.height_agl_m, b.height_agl_m),
        height_above_takeoff_m=number(a.height_above_takeoff_m, b.height_above_takeoff_m),
        odometry=odometry,
    )


def odometry_steps(
    frames: Sequence[Pose],
    *,
    sigma_share: float = SIGMA_SHARE,
    sigma_turn_rad: float = SIGMA_TURN_RAD,
    max_speed_m_s: float = MAX_SPEED_M_S,
) -> list[OdometryStep]:
    """The steps between consecutive frames, with resets of the estimator taken out.

    A reset never moves the belief: a step that no neighbour's velocity explains is replaced by the previous
    velocity carried on, with a sigma of a quarter of what was thrown away, and says so in its ``note``.

    Args:
        sigma_share: standard deviation of a step's position per axis, as a share of its length.
        sigma_turn_rad: standard deviation of a step's turn.
        max_speed_m_s: no vehicle here is faster.

    Returns:
        ``len(frames) - 1`` steps.

    Raises:
        FrameError: a frame has no odometry.
    """
    poses = [frame.odometry for frame in frames]
    known = [pose for pose in poses if pose is not None]
    if len(known) < len(poses):
        missing = next(i for i, pose in enumerate(poses) if pose is None)
        hint = "leave the odometry columns out to take the motion from the images"
        raise FrameError(f"frame {missing + 1} of {len(poses)} has no odometry", hint)
    if len(known) < 2:
        return []
    position = np.array([complex(pose.x_m, pose.y_m) for pose in known])
    yaw = np.radians([pose.yaw_deg for pose in known])
    dt = np.diff([frame.time_s for frame in frames])
    velocity = np.diff(position) / dt
    turn = np.remainder(np.diff(yaw) + np.pi, 2.0 * np.pi) - np.pi
    # Seen over ground, from the body before the step, or from the one after it (which flies where it turned to):
    # the vehicle's habit is the frame in which its velocity changes least from step to step.
    facing = min((0.0 * turn, yaw[:-1], yaw[1:]), key=lambda angle: _restlessness(velocity * np.exp(-1j * angle)))
    steady, to_body = velocity * np.exp(-1j * facing), np.exp(1j * (facing - yaw[:-1]))
    resets = _resets(steady, dt, max_speed_m_s)
    steps = []
    for i, moved in enumerate(steady * to_body * dt):
        sigma, note = sigma_share * abs(moved), ""
        if resets[i]:
            nearest = min(np.flatnonzero(~resets), key=lambda j: (j > i, abs(j - i)), default=None)
            carried = 0j if nearest is None else steady[nearest] * to_body[i] * dt[i]
            jump = abs(moved - carried)
            moved, sigma = carried, 0.25 * jump
            note = f"odometry jumped by {jump:.0f} m: taken as a reset, the previous velocity carried on"
        motion = (float(moved.real), float(moved.imag), float(turn[i]))
        steps.append(OdometryStep(*motion, float(sigma), sigma_turn_rad, float(dt[i]), note))
    return steps


def _restlessness(velocity: NDArray[np.complex128]) -> float:
    """Usual change of a velocity from step to step."""
    return float(np.median(np.abs(np.diff(velocity)))) if len(velocity) > 1 else 0.0


def _resets(steady: NDArray[np.complex128], dt: Floats, max_speed_m_s: float) -> NDArray[np.bool_]:
    """(n,) which of the steps are resets of the estimator and not motion, from their velocities.

    A step is compared with two on either side, and is motion if some neighbour has about its velocity. The margin
    of 1.5 steps lets the corners of a survey pass that is flown with one yaw.
    """
    speed = np.abs(steady)
    resets = speed > max_speed_m_s
    too_fast = resets.copy()
    for i in range(len(dt)):
        around = [j for j in (i - 2, i - 1, i + 1, i + 2) if 0 <= j < len(dt) and not too_fast[j]]
        if too_fast[i] or not around:
            continue
        apart = float(np.abs(steady[i] - steady[around]).min()) * dt[i]
        usual = float(np.median(speed[around])) * dt[i]
        longer = (speed[i] - speed[around].max()) * dt[i]
        resets[i] = apart > 1.5 * usual + 10.0 or longer > 0.5 * usual + 20.0
    return np.asarray(resets)


def _check_columns(path: Path, columns: list[str]) -> list[str]:
    for name in _REQUIRED:
        if name not in columns:
            raise FrameError(f"{path}: column {name} is missing", f"expected at least {','.join(_REQUIRED)}")
    for group in (_ODOMETRY, _TRUTH):
        present = [name for name in group if name in columns]
        if present and len(present) < len(group):
            missing = next(name for name in group if name not in present)
            raise FrameError(f"{path}: column {missing} is missing beside {present[0]}", "give all or none")
    return columns


def _to_row(frame: Frame, folder: Path) -> dict[str, Any]:
    file = frame.file.relative_to(folder) if frame.file.is_relative_to(folder) else frame.file
    row: dict[str, Any] = {"file": file.as_posix(), "time_s": repr(float(frame.time_s))}
    values = {key: getattr(frame, key) for key in (*_REQUIRED[2:], *_HEIGHTS)}
    if frame.odometry is not None:
        odometry = frame.odometry
        values |= dict(zip(_ODOMETRY, (odometry.x_m, odometry.y_m, odometry.yaw_deg), strict=True))
    if frame.truth is not None:
        values |= dict(zip(_TRUTH, frame.truth, strict=True))
    return row | {
        key: "" if math.isnan(value) else repr(float(value)) for key, value in values.items() if value is not None
    }


class _Row:
    """Typed access to one row; every error names file, row and column."""

    def __init__(self, path: Path, line: int, values: dict[str, Any]) -> None:
        self.where, self.folder, self.values = f"{path}, row {line}", path.parent, values

    def frame(self) -> Frame:
        name = self.text("file")
        if not name:
            raise self.fail("file", "is empty")
        odometry = self.group(_ODOMETRY)
        truth = self.group(_TRUTH)
        return Frame(
            file=self.folder / name,
            time_s=self.number("time_s"),
            roll_deg=self.number("roll_deg", 180.0),
            pitch_deg=self.number("pitch_deg", 90.0),
            yaw_deg=self.number("yaw_deg", 360.0) if self.known("yaw_deg") else math.nan,
            height_agl_m=self.height(),
            height_above_takeoff_m=self.optional("height_above_takeoff_m"),
            odometry=None if odometry is None else Odometry(*odometry),
            truth=None if truth is None else (truth[0], truth[1]),
        )

    def fail(self, column: str, problem: str, hint: str = "") -> FrameError:
        return FrameError(f"{self.where}, {column}: {problem}", hint)

    def text(self, column: str) -> str:
        value = self.values.get(column)
        return value.strip() if isinstance(value, str) else ""

    def known(self, column: str) -> bool:
        return self.text(column).lower() not in ("", "nan")

    def number(self, column: str, limit: float = math.inf) -> float:
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            raise self.fail(column, f"expected a number, got {text!r}", "fill it in, or drop the frame") from None
        if not math.isfinite(value):
            raise self.fail(column, f"is {text}", "drop the frame, or fill the gap from its neighbours")
        if abs(value) > limit:
            raise self.fail(column, f"{value} is beyond ±{limit:g}", "angles are in degrees")
        return value

    def optional(self, column: str) -> float | None:
        return self.number(column) if self.known(column) else None

    def height(self) -> float | None:
        value = self.optional("height_agl_m")
        if value is not None and value <= 0.0:
            raise self.fail("height_agl_m", f"{value} is not positive", "leave it empty when it is unknown")
        return value

    def group(self, columns: tuple[str, ...]) -> list[float] | None:
        """All of a group's numbers, or None when the row leaves all of them empty."""
        if not any(self.known(column) for column in columns):
            return None
        return [self.number(column) for column in columns]
