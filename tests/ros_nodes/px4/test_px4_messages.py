"""Both generations of PX4's messages: names read from the package, golden field values, frames against scipy."""

from __future__ import annotations

import math
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from kittiwake_ros import px4_messages as px4

NED_TO_ENU = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])
FLU_TO_FRD = np.diag([1, -1, -1])

angles = st.floats(-math.pi, math.pi)
tilts = st.floats(-1.5, 1.5)


def frd_in_ned(roll: float, pitch: float, yaw: float) -> Rotation:
    return Rotation.from_euler("ZYX", [yaw, pitch, roll])


def wxyz(rotation: Rotation) -> list[float]:
    x, y, z, w = rotation.as_quat()
    return [w, x, y, z]


def matrix(q: px4.Quaternion) -> Any:
    return Rotation.from_quat([q[1], q[2], q[3], q[0]]).as_matrix()


def test_names_and_types_are_read_from_the_package(px4_msgs: ModuleType, generation: str) -> None:
    messages = px4.installed_messages()
    assert messages is px4_msgs
    found = px4.position_input(messages)
    outs = [
        px4.endpoint(messages, "out", name, kind)
        for name, kind in (("vehicle_attitude", "VehicleAttitude"), ("vehicle_local_position", "VehicleLocalPosition"))
    ]
    if generation == "1.16":
        assert (found.topic, found.type) == ("/fmu/in/aux_global_position", px4_msgs.VehicleGlobalPosition)
        assert [out.topic for out in outs if out] == ["/fmu/out/vehicle_attitude", "/fmu/out/vehicle_local_position"]
    else:
        assert (found.topic, found.type) == ("/fmu/in/aux_global_position_v1", px4_msgs.AuxGlobalPosition)
        assert [out.topic for out in outs if out] == ["/fmu/out/vehicle_attitude", "/fmu/out/vehicle_local_position_v1"]
    assert px4.endpoint(messages, "out", "gimbal", "NoSuchMessage") is None


def test_the_positions_fields(px4_msgs: ModuleType, generation: str) -> None:
    message = px4.position_message(
        px4.position_input(px4_msgs).type,
        time_us=1_750_000_000_120_000,
        sample_us=1_750_000_000_000_000,
        lat_deg=60.0123456789,
        lon_deg=17.9876543211,
        alt_amsl_m=math.nan,
        eph_m=7.5,
        reset_counter=258,
        source_id=3,
    )
    assert (message.timestamp, message.timestamp_sample) == (1_750_000_000_120_000, 1_750_000_000_000_000)
    assert (message.lat, message.lon) == (60.0123456789, 17.9876543211)
    assert (message.eph, message.lat_lon_reset_counter) == (7.5, 2)
    assert math.isnan(message.alt)
    assert math.isnan(message.epv)
    if generation == "1.16":
        assert (message.lat_lon_valid, message.alt_valid, message.dead_reckoning) == (True, False, False)
        assert math.isnan(message.alt_ellipsoid)
        assert message.terrain_alt_valid is False
    else:
        assert (message.id, message.source) == (3, px4_msgs.AuxGlobalPosition.SOURCE_VISION)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lat_deg": math.nan}, "finite"),
        ({"eph_m": math.inf}, "eph"),
        ({"eph_m": 0.0}, "eph"),
        ({"sample_us": 0}, "stamp"),
        ({"source_id": 0}, "source id 0"),
        ({"source_id": 256}, "source id 256"),
    ],
)
def test_what_px4_would_misread_is_not_sent(px4_msgs: ModuleType, wrong: dict[str, Any], said: str) -> None:
    right = {"time_us": 9, "sample_us": 8, "lat_deg": 1.0, "lon_deg": 2.0, "alt_amsl_m": 3.0, "eph_m": 4.0}
    more = {"reset_counter": 0, "source_id": 1}
    with pytest.raises(px4.Px4Error, match=said):
        px4.position_message(px4.position_input(px4_msgs).type, **{**right, **more, **wrong})


def test_an_absent_package_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "px4_msgs", None)
    with pytest.raises(px4.Px4Error, match="px4_msgs can't be imported") as caught:
        px4.installed_messages()
    assert "source its workspace" in caught.value.hint


def test_a_wrong_package_is_a_clear_error(px4_msgs: ModuleType) -> None:
    with pytest.raises(px4.Px4Error, match="neither AuxGlobalPosition nor VehicleGlobalPosition"):
        px4.position_input(ModuleType("px4_msgs.msg"))
    old = ModuleType("px4_msgs.msg")
    old.VehicleGlobalPosition = type("VehicleGlobalPosition", (), {"timestamp": 0, "lat": 0.0, "lon": 0.0})  # type: ignore[attr-defined]
    with pytest.raises(px4.Px4Error, match="no field timestamp_sample, alt, eph, epv"):
        px4.position_input(old)


@given(roll=tilts, pitch=tilts, yaw=angles)
def test_ned_to_enu_is_three_rotations(roll: float, pitch: float, yaw: float) -> None:
    frd = frd_in_ned(roll, pitch, yaw)
    expected = NED_TO_ENU @ frd.as_matrix() @ FLU_TO_FRD
    np.testing.assert_allclose(matrix(px4.ned_to_enu(tuple(wxyz(frd)))), expected, atol=1e-12)


def test_an_attitude(px4_msgs: ModuleType) -> None:
    message = px4_msgs.VehicleAttitude()
    message.timestamp, message.timestamp_sample = 2_000, 1_000
    message.q = wxyz(frd_in_ned(0.0, 0.0, math.pi / 2))  # facing east
    sample = px4.attitude_sample(message)
    assert sample is not None
    assert sample.time_us == 1_000
    np.testing.assert_allclose(matrix(sample.orientation), np.eye(3), atol=1e-6)  # forward is east, left is north
    message.q = [math.nan, 0, 0, 0]
    assert px4.attitude_sample(message) is None


@given(yaw=angles, forward=st.floats(-30, 30), right=st.floats(-30, 30))
def test_velocity_along_the_heading(yaw: float, forward: float, right: float) -> None:
    # A namespace is enough here: hypothesis and the parametrized package don't mix.
    message = type("VehicleLocalPosition", (), {})()
    message.timestamp = message.timestamp_sample = 5
    message.heading, message.delta_heading, message.heading_reset_counter = yaw, 0.1, 4
    north, east = (Rotation.from_euler("Z", yaw).as_matrix() @ [forward, right, 0])[:2]
    message.vx, message.vy, message.v_xy_valid = north, east, True
    message.dist_bottom, message.dist_bottom_valid = 80.0, True
    sample = px4.motion_of_local_position(message)
    np.testing.assert_allclose([sample.forward_m_s, sample.left_m_s], [forward, -right], atol=1e-9)
    assert sample.heading_rad == math.pi / 2 - yaw
    assert (sample.heading_jump_rad, sample.heading_resets, sample.height_agl_m) == (-0.1, 4, 80.0)


def test_what_the_estimator_calls_invalid_is_not_taken(px4_msgs: ModuleType) -> None:
    message = px4_msgs.VehicleLocalPosition()
    message.timestamp = 7
    message.vx, message.dist_bottom = 3.0, 80.0
    sample = px4.motion_of_local_position(message)
    assert sample.time_us == 7  # no time of its own
    assert math.isnan(sample.forward_m_s)
    assert math.isnan(sample.height_agl_m)


@pytest.mark.parametrize("frame", ["VELOCITY_FRAME_NED", "VELOCITY_FRAME_BODY_FRD"])
def test_an_odometry(px4_msgs: ModuleType, frame: str) -> None:
    message = px4_msgs.VehicleOdometry()
    attitude = frd_in_ned(0.2, -0.1, 2.0)
    velocity_ned = np.array([3.0, -4.0, 0.5])
    rates = np.array([0.01, 0.02, 0.3])
    message.timestamp_sample = 11
    message.q = wxyz(attitude)
    message.pose_frame = message.POSE_FRAME_NED
    message.velocity_frame = getattr(message, frame)
    in_body = frame.endswith("BODY_FRD")
    message.velocity = attitude.inv().apply(velocity_ned) if in_body else velocity_ned
    message.angular_velocity, message.reset_counter = rates, 9
    sample = px4.motion_of_odometry(message)
    forward, right, _ = Rotation.from_euler("Z", 2.0).inv().apply(velocity_ned)
    np.testing.assert_allclose([sample.forward_m_s, sample.left_m_s], [forward, -right], atol=1e-5)
    assert sample.heading_rad == pytest.approx(math.pi / 2 - 2.0, abs=1e-6)
    assert sample.turn_rate_rad_s == pytest.approx(-attitude.apply(rates)[2], abs=1e-6)
    np.testing.assert_allclose(sample.body_rates_rad_s, rates * [1, -1, -1], atol=1e-7)
    assert (sample.time_us, sample.heading_resets) == (11, 9)


def test_a_velocity_against_another_north_than_the_heading_is_not_taken(px4_msgs: ModuleType) -> None:
    message = px4_msgs.VehicleOdometry()
    message.q, message.velocity = [1, 0, 0, 0], [1, 0, 0]
    message.pose_frame, message.velocity_frame = message.POSE_FRAME_FRD, message.VELOCITY_FRAME_NED
    assert math.isnan(px4.motion_of_odometry(message).forward_m_s)


@pytest.mark.parametrize(
    ("flags", "frame"), [(64, "earth"), (32, "vehicle"), (16, "earth"), (0, "vehicle"), (16 | 32, "vehicle")]
)
def test_a_gimbal_says_what_its_yaw_is_against(px4_msgs: ModuleType, flags: int, frame: str) -> None:
    message = px4_msgs.GimbalDeviceAttitudeStatus()
    message.timestamp, message.device_flags = 5, flags
    turned = frd_in_ned(0.1, -1.2, 0.4)
    message.q = wxyz(turned)
    sample = px4.gimbal_sample(message)
    assert sample is not None
    assert (sample.time_us, sample.yaw_frame) == (5, frame)
    if frame == "earth":
        expected = NED_TO_ENU @ turned.as_matrix() @ FLU_TO_FRD
    else:
        expected = FLU_TO_FRD @ turned.as_matrix() @ FLU_TO_FRD
    np.testing.assert_allclose(matrix(sample.orientation), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cs_yaw_align": True, "cs_aux_gpos": True}, ""),
        ({"cs_yaw_align": False, "cs_aux_gpos": True}, "no heading yet"),
        ({"cs_yaw_align": True, "cs_aux_gpos": False}, "EKF2_AGP0_CTRL"),
        ({"cs_yaw_align": True, "cs_aux_gpos": True, "reject_hor_pos": True}, "rejects horizontal positions"),
    ],
)
def test_why_the_estimator_does_not_fuse(px4_msgs: ModuleType, values: dict[str, bool], said: str) -> None:
    flags = px4_msgs.EstimatorStatusFlags()
    for name, value in values.items():
        setattr(flags, name, value)
    problem = px4.fusion_problem(flags)
    assert said in problem if said else problem == ""


def test_a_rejected_sample_says_how_far_it_was_off(px4_msgs: ModuleType) -> None:
    aid = px4_msgs.EstimatorAidSource2d()
    aid.fused = True
    assert px4.rejection(aid) == ""
    aid.fused, aid.innovation_rejected = False, True
    aid.innovation, aid.test_ratio = [30.0, 40.0], [1.5, 2.5]
    assert px4.rejection(aid) == "PX4 rejects our position: 50 m from its own, test ratio 2.5"
