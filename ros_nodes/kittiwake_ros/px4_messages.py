"""PX4's messages as values, and values as PX4's messages: no ROS, no clock, no node.

Which messages there are, and what their topics are called, is read from the installed `px4_msgs`, since both change
between releases: up to PX4 1.17 an outside position is a ``VehicleGlobalPosition`` on ``/fmu/in/aux_global_position``;
later it is an ``AuxGlobalPosition``, and a topic ends in its message's version (``/fmu/in/aux_global_position_v1``).

PX4's world is NED and its body FRD; ROS's are ENU and FLU (REP-103). Quaternions here are ``(w, x, y, z)`` as in PX4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from kittiwake_runtime.errors import KittiwakeError

from .geometry import Quaternion, rotation, unit, yaw_of

SOURCE_VISION = 2
"""``AuxGlobalPosition.SOURCE_VISION``."""

_NEEDED = ("timestamp", "timestamp_sample", "lat", "lon", "alt", "eph", "epv")
_YAW_LOCK, _YAW_IN_VEHICLE_FRAME, _YAW_IN_EARTH_FRAME = 16, 32, 64


class Px4Error(KittiwakeError):
    """`px4_msgs` is missing, or is not what this bridge can speak to."""


@dataclass(frozen=True)
class Endpoint:
    """A topic of the bridge to PX4.

    Attributes:
        name: without version, below the vehicle's namespace, as ``/fmu/in/aux_global_position``.
        version: of the message; 0 is not written.
        type: the message's class.
    """

    name: str
    version: int
    type: Any

    @property
    def topic(self) -> str:
        """The name as it is used, such as ``/fmu/in/aux_global_position_v1``."""
        return self.name + (f"_v{self.version}" if self.version else "")


@dataclass(frozen=True)
class AttitudeSample:
    """Attitude of the body.

    Attributes:
        time_us: PX4's stamp.
        orientation: rotation from the body's FLU to ENU, ``(w, x, y, z)``.
    """

    time_us: int
    orientation: Quaternion


@dataclass(frozen=True)
class MotionSample:
    """How the vehicle moves, as PX4's estimator says it.

    Attributes:
        time_us: PX4's stamp.
        forward_m_s, left_m_s: velocity along the horizontal heading and to its left; NaN when not valid.
        heading_rad: counter-clockwise from east; NaN when unknown.
        heading_resets: PX4's count of what made the heading jump.
        heading_jump_rad: how far the last of them moved it, counter-clockwise; NaN when PX4 does not say.
        turn_rate_rad_s: about the vertical, counter-clockwise; NaN when PX4 does not say.
        height_agl_m: above the ground as PX4's terrain estimator has it; NaN when it has none.
        body_rates_rad_s: angular velocity in FLU, None when PX4 does not say.
    """

    time_us: int
    forward_m_s: float
    left_m_s: float
    heading_rad: float
    heading_resets: int
    heading_jump_rad: float = math.nan
    turn_rate_rad_s: float = math.nan
    height_agl_m: float = math.nan
    body_rates_rad_s: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class GimbalSample:
    """Attitude of a gimbal.

    Attributes:
        time_us: PX4's stamp.
        orientation: ``(w, x, y, z)`` from the gimbal's FLU; roll and pitch are against the horizon.
        yaw_frame: what its yaw is against: ``earth`` (then it rotates into ENU) or ``vehicle`` (the vehicle's heading).
    """

    time_us: int
    orientation: Quaternion
    yaw_frame: Literal["earth", "vehicle"]


def installed_messages() -> Any:
    """The module `px4_msgs.msg`.

    Raises:
        Px4Error: it is not installed.
    """
    try:
        return import_module("px4_msgs.msg")
    except ImportError as error:
        raise Px4Error(
            f"px4_msgs can't be imported ({error}), and autopilot is px4",
            "build px4_msgs from the branch of your firmware (release/1.16 …) and source its workspace, "
            "or set the parameter autopilot to none",
        ) from error


def endpoint(messages: Any, direction: Literal["in", "out"], name: str, type_name: str) -> Endpoint | None:
    """The topic ``/fmu/<direction>/<name>`` with its version, or None when `px4_msgs` has no such message."""
    message = getattr(messages, type_name, None)
    if message is None:
        return None
    return Endpoint(f"/fmu/{direction}/{name}", int(getattr(message, "MESSAGE_VERSION", 0)), message)


def position_input(messages: Any) -> Endpoint:
    """Where an outside position goes: the newer message where it exists, else the older one on the same topic.

    Raises:
        Px4Error: neither exists, or it lacks a field that is needed.
    """
    for type_name in ("AuxGlobalPosition", "VehicleGlobalPosition"):
        found = endpoint(messages, "in", "aux_global_position", type_name)
        if found is None:
            continue
        sample = found.type()
        missing = [name for name in _NEEDED if not hasattr(sample, name)]
        if missing:
            raise Px4Error(
                f"px4_msgs/{type_name} has no field {', '.join(missing)}",
                "auxiliary global positions came with PX4 1.15: use px4_msgs of that release or a later one",
            )
        return found
    raise Px4Error(
        "px4_msgs has neither AuxGlobalPosition nor VehicleGlobalPosition",
        "is the package that Python finds really PX4's? python3 -c 'import px4_msgs; print(px4_msgs.__path__)'",
    )


def position_message(
    message_type: Any,
    *,
    time_us: int,
    sample_us: int,
    lat_deg: float,
    lon_deg: float,
    alt_amsl_m: float,
    eph_m: float,
    reset_counter: int,
    source_id: int,
) -> Any:
    """Fill the message of `position_input`.

    Args:
        message_type: its class, of either generation.
        time_us, sample_us: now and the time the position is of, in microseconds as PX4 is to read them; not 0, which
            PX4 takes for "now".
        lat_deg, lon_deg: WGS84.
        alt_amsl_m: above mean sea level, NaN when unknown; PX4 does not fuse it.
        eph_m: standard deviation per axis, finite and positive.
        reset_counter: how often the position jumped; taken modulo 256.
        source_id: the vehicle's ``EKF2_AGPn_ID``, 1 to 255; the older message has no field for it.

    Returns:
        The message.

    Raises:
        Px4Error: a position or a standard deviation that is not finite, a time or an id that PX4 takes for none.
    """
    if not (math.isfinite(lat_deg) and math.isfinite(lon_deg) and math.isfinite(eph_m) and eph_m > 0):
        raise Px4Error(f"latitude {lat_deg}, longitude {lon_deg}, eph {eph_m} m: PX4 needs finite ones, and eph > 0")
    if time_us <= 0 or sample_us <= 0:
        raise Px4Error(f"a sample at {sample_us} µs, sent at {time_us} µs: PX4 would stamp it with its arrival")
    if not 1 <= source_id <= 255:
        raise Px4Error(f"source id {source_id} is not in 1 to 255", "give the vehicle's EKF2_AGP0_ID")
    message = message_type()
    message.timestamp, message.timestamp_sample = int(time_us), int(sample_us)
    message.lat, message.lon, message.alt = float(lat_deg), float(lon_deg), float(alt_amsl_m)
    message.eph, message.epv = float(eph_m), math.nan
    more = {
        "id": source_id,
        "source": SOURCE_VISION,
        "lat_lon_reset_counter": reset_counter % 256,
        "lat_lon_valid": True,
        "alt_valid": False,
        "alt_ellipsoid": math.nan,
        "terrain_alt": math.nan,
    }
    for name, value in more.items():
        if hasattr(message, name):
            setattr(message, name, value)
    return message


def attitude_sample(message: Any) -> AttitudeSample | None:
    """A ``VehicleAttitude``; None when its quaternion is not one."""
    q = _unit(message.q)
    return None if q is None else AttitudeSample(_sample_time(message), ned_to_enu(q))


def motion_of_local_position(message: Any) -> MotionSample:
    """A ``VehicleLocalPosition``: velocity, heading and its resets, height over ground. The position is not taken.

    A position that the estimator corrects, above all with what is sent to it from here, is no odometry.
    """
    yaw = float(message.heading)
    north, east = float(message.vx), float(message.vy)
    if not message.v_xy_valid:
        north = east = math.nan
    seen = bool(message.dist_bottom_valid) and float(message.dist_bottom) > 0
    return MotionSample(
        time_us=_sample_time(message),
        forward_m_s=north * math.cos(yaw) + east * math.sin(yaw),
        left_m_s=north * math.sin(yaw) - east * math.cos(yaw),
        heading_rad=math.pi / 2 - yaw,
        heading_resets=int(message.heading_reset_counter),
        heading_jump_rad=-float(message.delta_heading),
        height_agl_m=float(message.dist_bottom) if seen else math.nan,
    )


def motion_of_odometry(message: Any) -> MotionSample:
    """A ``VehicleOdometry``: velocity from whichever frame it comes in, heading, and the body's rates."""
    q = _unit(message.q)
    yaw, forward, right = math.nan, math.nan, math.nan
    if q is not None:
        yaw = yaw_of(q)
        velocity = np.asarray(message.velocity, np.float64)
        if message.velocity_frame == message.VELOCITY_FRAME_BODY_FRD:
            velocity = rotation(q) @ velocity
        elif message.velocity_frame != message.pose_frame:
            velocity = np.full(3, math.nan)  # unknown, or against another north than the heading
        forward = float(velocity[0] * math.cos(yaw) + velocity[1] * math.sin(yaw))
        right = float(velocity[1] * math.cos(yaw) - velocity[0] * math.sin(yaw))
    rates = np.asarray(message.angular_velocity, np.float64)
    known = bool(np.isfinite(rates).all())
    turn = float((rotation(q) @ rates)[2]) if known and q is not None else math.nan
    return MotionSample(
        time_us=_sample_time(message),
        forward_m_s=forward,
        left_m_s=-right,
        heading_rad=math.pi / 2 - yaw,
        heading_resets=int(message.reset_counter),
        turn_rate_rad_s=-turn,
        body_rates_rad_s=(float(rates[0]), -float(rates[1]), -float(rates[2])) if known else None,
    )


def gimbal_sample(message: Any) -> GimbalSample | None:
    """A ``GimbalDeviceAttitudeStatus``; None when its quaternion is not one.

    What the yaw is against is in the flags; gimbals older than those say it with the lock (MAVLink's gimbal protocol).
    """
    q = _unit(message.q)
    if q is None:
        return None
    flags = int(message.device_flags)
    in_earth = bool(flags & _YAW_IN_EARTH_FRAME)
    if not flags & (_YAW_IN_EARTH_FRAME | _YAW_IN_VEHICLE_FRAME):
        in_earth = bool(flags & _YAW_LOCK)
    if in_earth:
        return GimbalSample(_sample_time(message), ned_to_enu(q), "earth")
    w, x, y, z = q
    return GimbalSample(_sample_time(message), (w, x, -y, -z), "vehicle")


def fusion_problem(flags: Any) -> str:
    """Why ``EstimatorStatusFlags`` says that PX4 does not fuse auxiliary global positions; empty when it does."""
    if not getattr(flags, "cs_yaw_align", True):
        return "PX4's estimator has no heading yet: it needs a compass, GNSS heading or vision yaw before it fuses"
    if not hasattr(flags, "cs_aux_gpos"):
        return ""
    if not flags.cs_aux_gpos:
        return "PX4 does not fuse auxiliary global positions: see EKF2_AGP0_ID and EKF2_AGP0_CTRL (EKF2_AGP_CTRL)"
    if getattr(flags, "reject_hor_pos", False):
        return "PX4 rejects horizontal positions: they disagree with its other sources"
    return ""


def rejection(aid: Any) -> str:
    """Why an ``EstimatorAidSource2d`` of the auxiliary global position was not fused; empty when it was."""
    if aid.fused:
        return ""
    worst = max(float(ratio) for ratio in aid.test_ratio)
    if aid.innovation_rejected:
        north, east = (float(value) for value in aid.innovation)
        return f"PX4 rejects our position: {math.hypot(north, east):.0f} m from its own, test ratio {worst:.1f}"
    return "PX4 takes our positions and does not fuse them"


def ned_to_enu(q: Quaternion) -> Quaternion:
    """A rotation from FRD to NED as one from FLU to ENU, ``(w, x, y, z)``.

    NED to ENU is half a turn about north-east, FLU to FRD half a turn about x: the product of the three is written
    out here.
    """
    w, x, y, z = q
    half = math.sqrt(0.5)
    return half * (w + z), half * (x + y), half * (x - y), half * (w - z)


def turned(q: Quaternion, yaw_rad: float) -> Quaternion:
    """A rotation followed by a turn about the world's third axis."""
    w, x, y, z = q
    c, s = math.cos(yaw_rad / 2), math.sin(yaw_rad / 2)
    return c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w


def _unit(values: Any) -> Quaternion | None:
    w, x, y, z = (float(value) for value in values)
    return unit((w, x, y, z))


def _sample_time(message: Any) -> int:
    """When the sample was taken; some messages have only the time that they were published."""
    return int(getattr(message, "timestamp_sample", 0) or message.timestamp)
