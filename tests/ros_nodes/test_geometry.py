"""Rotations against scipy, the map frame against pyproj."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod
from scipy.spatial.transform import Rotation

from kittiwake_ros.geometry import (
    MapFrame,
    MapPose,
    attitude_rad,
    from_attitude,
    from_yaw,
    odom_in_map,
    quaternion,
    rotation,
    slerp,
    unit,
    yaw_of,
)
from kittiwake_runtime.localization.frames import Enu, Grid

angles = st.floats(-math.pi, math.pi)
quaternions = (
    st.tuples(*[st.floats(-1, 1)] * 4)
    .filter(lambda q: np.linalg.norm(q) > 0.1)
    .map(lambda q: tuple(np.array(q) / np.linalg.norm(q)))
)


def of_scipy(turn: Rotation) -> np.ndarray:
    return np.roll(turn.as_quat(), 1)


def same_rotation(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return abs(float(np.dot(a, b))) == pytest.approx(1.0, abs=1e-9)


@given(q=quaternions)
def test_matrices_and_quaternions_agree_with_scipy(q: tuple[float, float, float, float]) -> None:
    expected = Rotation.from_quat([*q[1:], q[0]]).as_matrix()
    np.testing.assert_allclose(rotation(q), expected, atol=1e-12)
    assert same_rotation(quaternion(expected), q)


@given(a=quaternions, b=quaternions, share=st.floats(0, 1))
def test_the_way_between_two_rotations_is_scipys(a: tuple, b: tuple, share: float) -> None:
    first, second = (Rotation.from_quat([*q[1:], q[0]]) for q in (a, b))
    between = first.inv() * second
    if between.magnitude() > math.pi - 1e-3:  # two ways are equally short
        return
    expected = first * Rotation.from_rotvec(between.as_rotvec() * share)
    assert same_rotation(slerp(a, b, share), tuple(of_scipy(expected)))


@given(roll=st.floats(-1.5, 1.5), pitch=st.floats(-1.5, 1.5), yaw=angles)
def test_attitude_in_enu_is_aerospace_in_ned(roll: float, pitch: float, yaw: float) -> None:
    q = from_attitude((roll, pitch, yaw))
    found = attitude_rad(q)
    np.testing.assert_allclose(found[:2], (roll, pitch), atol=1e-9)
    assert math.remainder(found[2] - yaw, math.tau) == pytest.approx(0, abs=1e-9)
    ned = Rotation.from_euler("ZYX", [yaw, pitch, roll]).as_matrix()
    ahead_ned, ahead_enu = ned @ [1, 0, 0], rotation(q) @ [1, 0, 0]
    np.testing.assert_allclose(ahead_enu, [ahead_ned[1], ahead_ned[0], -ahead_ned[2]], atol=1e-12)
    up_in_body = rotation(q).T @ [0, 0, 1]
    np.testing.assert_allclose(up_in_body, (ned.T @ [0, 0, -1]) * [1, -1, -1], atol=1e-12)


def test_by_hand() -> None:
    assert attitude_rad(from_yaw(0.0)) == pytest.approx((0, 0, math.pi / 2)), "ahead is east"
    assert yaw_of(from_yaw(1.2)) == pytest.approx(1.2)
    assert unit((2.0, 0, 0, 0)) is None
    assert unit((math.nan, 0, 0, 1.0)) is None
    assert unit((1.01, 0, 0, 0)) == (1, 0, 0, 0)


def test_the_map_frame_measures_what_the_ellipsoid_does() -> None:
    grid, origin = Grid.from_crs("EPSG:32633"), Enu(60.0, 18.0)
    frame, geod = MapFrame(origin, grid), Geod(ellps="WGS84")
    for azimuth, distance_m in ((0, 3000), (90, 2000), (213, 5000)):
        lon, lat, _ = geod.fwd(18.0, 60.0, azimuth, distance_m)
        x, y = frame.from_grid(*(float(v) for v in grid.from_wgs84(lat, lon)))
        assert math.remainder(math.degrees(math.atan2(x, y)) - azimuth, 360) == pytest.approx(0, abs=1e-3)
        assert math.hypot(x, y) == pytest.approx(distance_m, rel=1e-5)
        assert frame.to_wgs84(x, y) == pytest.approx((lat, lon), abs=1e-5)


def test_the_grids_convergence_turns_a_step_east() -> None:
    grid = Grid.from_crs("EPSG:32633")
    frame = MapFrame(Enu(60.0, 18.0), grid)
    east, north = (float(v) for v in grid.from_wgs84(60.0, 18.0))
    turn = frame.turn_at(east, north)
    convergence = float(grid.convergence_rad(east, north))
    assert math.atan2(turn[1, 0], turn[0, 0]) == pytest.approx(-convergence, abs=1e-4)
    assert abs(np.linalg.det(turn)) == pytest.approx(float(grid.scale_factor(east, north)) ** -2, rel=1e-4)


@given(
    x=st.floats(-1e3, 1e3),
    y=st.floats(-1e3, 1e3),
    yaw=angles,
    ox=st.floats(-1e3, 1e3),
    oy=st.floats(-1e3, 1e3),
    oyaw=angles,
)
def test_map_to_odom_to_base_is_map_to_base(x: float, y: float, yaw: float, ox: float, oy: float, oyaw: float) -> None:
    tx, ty, tyaw = odom_in_map(MapPose(x, y, yaw, np.eye(2)), ox, oy, oyaw)
    placed = complex(tx, ty) + complex(ox, oy) * complex(math.cos(tyaw), math.sin(tyaw))
    assert (placed.real, placed.imag) == pytest.approx((x, y), abs=1e-6)
    assert math.remainder(tyaw + oyaw - yaw, math.tau) == pytest.approx(0, abs=1e-9)
