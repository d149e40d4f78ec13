"""Stand-ins for `px4_msgs`: classes with the fields, types and constants of PX4's message definitions.

Messages can't be built from wheels, so these are Python only; they check what is assigned as rclpy's own do.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import pytest

STAMPS = "uint64 timestamp\nuint64 timestamp_sample\n"

# PX4 1.16: a position from outside is a VehicleGlobalPosition.
VEHICLE_GLOBAL_POSITION = (
    "uint32 MESSAGE_VERSION = 0\n"
    + STAMPS
    + """
float64 lat
float64 lon
float32 alt
float32 alt_ellipsoid
bool lat_lon_valid
bool alt_valid
float32 delta_alt
float32 delta_terrain
uint8 lat_lon_reset_counter
uint8 alt_reset_counter
uint8 terrain_reset_counter
float32 eph
float32 epv
float32 terrain_alt
bool terrain_alt_valid
bool dead_reckoning
"""
)
# After 1.17: a message of its own.
AUX_GLOBAL_POSITION = (
    "uint32 MESSAGE_VERSION = 1\n"
    + STAMPS
    + """
uint8 id
uint8 source
uint8 SOURCE_UNKNOWN = 0
uint8 SOURCE_VISION = 2
float64 lat
float64 lon
float32 alt
float32 eph
float32 epv
uint8 lat_lon_reset_counter
"""
)
VEHICLE_ATTITUDE = (
    "uint32 MESSAGE_VERSION = 0\n" + STAMPS + "float32[4] q\nfloat32[4] delta_q_reset\nuint8 quat_reset_counter\n"
)
VEHICLE_ODOMETRY = (
    "uint32 MESSAGE_VERSION = 0\n"
    + STAMPS
    + """
uint8 pose_frame
uint8 POSE_FRAME_UNKNOWN = 0
uint8 POSE_FRAME_NED = 1
uint8 POSE_FRAME_FRD = 2
float32[3] position
float32[4] q
uint8 velocity_frame
uint8 VELOCITY_FRAME_UNKNOWN = 0
uint8 VELOCITY_FRAME_NED = 1
uint8 VELOCITY_FRAME_FRD = 2
uint8 VELOCITY_FRAME_BODY_FRD = 3
float32[3] velocity
float32[3] angular_velocity
float32[3] position_variance
float32[3] orientation_variance
float32[3] velocity_variance
uint8 reset_counter
int8 quality
"""
)
VEHICLE_LOCAL_POSITION = (
    STAMPS
    + """
bool xy_valid
bool z_valid
bool v_xy_valid
bool v_z_valid
float32 x
float32 y
float32 z
float32[2] delta_xy
uint8 xy_reset_counter
float32 vx
float32 vy
float32 vz
float32[2] delta_vxy
uint8 vxy_reset_counter
float32 heading
float32 unaided_heading
float32 delta_heading
uint8 heading_reset_counter
bool dist_bottom_valid
float32 dist_bottom
float32 eph
"""
)
GIMBAL_DEVICE_ATTITUDE_STATUS = """
uint64 timestamp
uint16 device_flags
float32[4] q
float32 delta_yaw
uint8 gimbal_device_id
"""
ESTIMATOR_STATUS_FLAGS = (
    STAMPS + "bool cs_tilt_align\nbool cs_yaw_align\nbool cs_gps\nbool cs_aux_gpos\nbool reject_hor_pos\n"
)
ESTIMATOR_AID_SOURCE_2D = (
    STAMPS
    + """
uint8 estimator_instance
uint32 device_id
uint64 time_last_fuse
float64[2] observation
float32[2] observation_variance
float32[2] innovation
float32[2] innovation_variance
float32[2] test_ratio
bool innovation_rejected
bool fused
"""
)

COMMON = {
    "VehicleAttitude": VEHICLE_ATTITUDE,
    "VehicleOdometry": VEHICLE_ODOMETRY,
    "GimbalDeviceAttitudeStatus": GIMBAL_DEVICE_ATTITUDE_STATUS,
    "EstimatorStatusFlags": ESTIMATOR_STATUS_FLAGS,
    "EstimatorAidSource2d": ESTIMATOR_AID_SOURCE_2D,
    "VehicleGlobalPosition": VEHICLE_GLOBAL_POSITION,
}
GENERATIONS = {
    "1.16": COMMON | {"VehicleLocalPosition": "uint32 MESSAGE_VERSION = 0\n" + VEHICLE_LOCAL_POSITION},
    "after 1.17": COMMON
    | {
        "VehicleLocalPosition": "uint32 MESSAGE_VERSION = 1\n" + VEHICLE_LOCAL_POSITION,
        "AuxGlobalPosition": AUX_GLOBAL_POSITION,
    },
}


class Message:
    """What a generated message is: slots with defaults, and an error for a field or a value that does not fit."""

    fields: dict[str, str]

    def __init__(self) -> None:
        for name, kind in self.fields.items():
            setattr(self, name, [0.0] * int(kind.split("[")[1][:-1]) if "[" in kind else 0)

    def __setattr__(self, name: str, value: Any) -> None:
        kind, _, size = self.fields[name].partition("[")  # a field that is not there is a KeyError
        if size:
            assert len(value) == int(size[:-1])
            object.__setattr__(self, name, np.asarray(value, kind))
        elif kind == "bool":
            object.__setattr__(self, name, bool(value))
        elif kind.startswith("float"):
            assert isinstance(value, float | int)
            object.__setattr__(self, name, np.dtype(kind).type(value))
        else:
            assert isinstance(value, int)
            limits = np.iinfo(kind)
            assert limits.min <= value <= limits.max, f"{name} = {value} is no {kind}"
            object.__setattr__(self, name, value)


def make_messages(definitions: dict[str, str]) -> ModuleType:
    """A module as `px4_msgs.msg` from ``.msg`` definitions."""
    module = ModuleType("px4_msgs.msg")
    for type_name, text in definitions.items():
        constants = {name: int(value) for name, value in re.findall(r"^\w+ ([A-Z_0-9]+) = (\d+)$", text, re.MULTILINE)}
        fields = {name: kind for kind, name in re.findall(r"^(\S+) ([a-z_0-9]+)$", text, re.MULTILINE)}
        setattr(module, type_name, type(type_name, (Message,), {"fields": fields, **constants}))
    return module


@pytest.fixture(params=sorted(GENERATIONS))
def px4_msgs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`px4_msgs.msg` of each generation, importable as such."""
    messages = make_messages(GENERATIONS[request.param])
    package = ModuleType("px4_msgs")
    package.msg = messages  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "px4_msgs", package)
    monkeypatch.setitem(sys.modules, "px4_msgs.msg", messages)
    yield messages


@pytest.fixture
def generation(request: pytest.FixtureRequest) -> str:
    """Which one `px4_msgs` is now."""
    return str(request.node.callspec.params["px4_msgs"])
