"""frames.csv, interpolation, and odometry with resets."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.flight_log import (
    Frame,
    Odometry,
    Pose,
    odometry_steps,
    pose_at,
    read_frames,
    read_image,
    write_frames,
)

HEADER = "file,time_s,roll_deg,pitch_deg,yaw_deg,height_agl_m,odom_x_m,odom_y_m,odom_yaw_deg"


def log(tmp_path: Path, *rows: str, header: str = HEADER) -> Path:
    path = tmp_path / "frames.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_reading(tmp_path: Path) -> None:
    path = log(tmp_path, "a.jpg,10,1,-2,270,120,0,0,0", "b.jpg, 10.5 ,0,0,,,5,1,3.5")
    first, second = read_frames(path)
    assert first == Frame(
        file=tmp_path / "a.jpg",
        time_s=10.0,
        roll_deg=1.0,
        pitch_deg=-2.0,
        yaw_deg=270.0,
        height_agl_m=120.0,
        odometry=Odometry(0.0, 0.0, 0.0),
    )
    assert second.time_s == 10.5
    assert math.isnan(second.yaw_deg)
    assert second.height_agl_m is None
    assert second.odometry == Odometry(5.0, 1.0, 3.5)
    assert first.attitude_rad == pytest.approx(np.radians([1.0, -2.0, 270.0]))


def test_only_what_is_needed(tmp_path: Path) -> None:
    header = "file,time_s,roll_deg,pitch_deg,yaw_deg,height_above_takeoff_m,truth_lat_deg,truth_lon_deg"
    (frame,) = read_frames(log(tmp_path, "a.jpg,1,0,0,0,80,47.1,-98.2", header=header))
    assert frame.odometry is None
    assert frame.height_agl_m is None
    assert frame.height_above_takeoff_m == 80.0
    assert frame.truth == (47.1, -98.2)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (["a.jpg,1,nan,0,0,120,0,0,0"], "row 2, roll_deg: is nan"),
        (["a.jpg,1,0,,0,120,0,0,0"], "row 2, pitch_deg: expected a number, got ''"),
        (["a.jpg,1,0,95,0,120,0,0,0"], "row 2, pitch_deg: 95.0 is beyond ±90"),
        (["a.jpg,1,0,0,0,0,0,0,0"], "row 2, height_agl_m: 0.0 is not positive"),
        (["a.jpg,1,0,0,0,-5,0,0,0"], "row 2, height_agl_m: -5.0 is not positive"),
        (["a.jpg,1,0,0,0,120,0,,0"], "row 2, odom_y_m: expected a number"),
        (["a.jpg,1,0,0,0,120,0,inf,0"], "row 2, odom_y_m: is inf"),
        (["a.jpg,1,0"], "row 2, pitch_deg: expected a number, got ''"),
        ([",1,0,0,0,120,0,0,0"], "row 2, file: is empty"),
        (
            ["a.jpg,2,0,0,0,120,0,0,0", "", "b.jpg,1,0,0,0,120,0,0,0"],
            "row 4, time_s: 1.0 does not come after",
        ),
        (["a.jpg,2,0,0,0,120,0,0,0", "b.jpg,2,0,0,0,120,0,0,0"], "row 3, time_s"),
        ([], "no frames"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[str], reason: str) -> None:
    with pytest.raises(FrameError) as error:
        read_frames(log(tmp_path, *rows))
    assert reason in error.value.message


@pytest.mark.parametrize("missing", ["file", "time_s", "roll_deg", "pitch_deg", "yaw_deg", "odom_y_m"])
def test_a_missing_column_is_named(tmp_path: Path, missing: str) -> None:
    header = ",".join(name for name in HEADER.split(",") if name != missing)
    with pytest.raises(FrameError, match=f"column {missing} is missing"):
        read_frames(log(tmp_path, "x", header=header))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FrameError, match="No such file"):
        read_frames(tmp_path / "frames.csv")
    (tmp_path / "frames.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FrameError, match="not a CSV file"):
        read_frames(tmp_path / "frames.csv")


finite = st.floats(-1e6, 1e6)
frames_of_a_flight = st.builds(
    Frame,
    file=st.just(Path("img/1.png")),
    time_s=st.floats(0.0, 2e9),
    roll_deg=st.floats(-180.0, 180.0),
    pitch_deg=st.floats(-90.0, 90.0),
    yaw_deg=st.floats(0.0, 360.0),
    height_agl_m=st.none() | st.floats(0.1, 1e4),
    height_above_takeoff_m=st.none() | finite,
    odometry=st.none() | st.builds(Odometry, finite, finite, finite.map(lambda v: math.remainder(v, 360.0))),
    truth=st.none() | st.tuples(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0)),
)


@given(frame=frames_of_a_flight)
def test_file_round_trip(tmp_path_factory: pytest.TempPathFactory, frame: Frame) -> None:
    folder = tmp_path_factory.mktemp("flight")
    placed = Frame(**{**frame.__dict__, "file": folder / frame.file})
    write_frames(folder / "frames.csv", [placed])
    assert read_frames(folder / "frames.csv") == [placed]
    assert "img/1.png" in (folder / "frames.csv").read_text()


def test_interpolation_goes_the_short_way_round() -> None:
    a = Pose(time_s=0.0, roll_deg=0.0, pitch_deg=0.0, yaw_deg=350.0, height_agl_m=100.0)
    b = Pose(time_s=2.0, roll_deg=4.0, pitch_deg=-2.0, yaw_deg=20.0, height_agl_m=104.0)
    c = Pose(time_s=3.0, roll_deg=0.0, pitch_deg=0.0, yaw_deg=20.0)
    middle = pose_at([a, b, c], 1.0)
    assert (middle.roll_deg, middle.pitch_deg, middle.height_agl_m) == (2.0, -1.0, 102.0)
    assert middle.yaw_deg == pytest.approx(5.0)
    assert pose_at([a, b, c], 2.5).height_agl_m is None
    assert pose_at([a, b, c], 0.0).yaw_deg == pytest.approx(350.0)
    assert pose_at([a, b, c], 3.0).roll_deg == 0.0
    for outside in (-0.1, 3.1):
        with pytest.raises(FrameError, match="no pose at"):
            pose_at([a, b, c], outside)


def test_interpolated_odometry() -> None:
    at = [
        Pose(time_s=float(t), roll_deg=0, pitch_deg=0, odometry=Odometry(10.0 * t, 0.0, yaw))
        for t, yaw in ((0, 170.0), (1, -170.0))
    ]
    odometry = pose_at(at, 0.25).odometry
    assert odometry is not None
    assert (odometry.x_m, odometry.y_m, odometry.yaw_deg) == pytest.approx((2.5, 0.0, 175.0))


def flight(xy: list[complex], yaw_deg: list[float] | None = None, dt_s: float = 5.0) -> list[Pose]:
    yaws = yaw_deg or [0.0] * len(xy)
    return [
        Pose(time_s=dt_s * i, roll_deg=0, pitch_deg=0, odometry=Odometry(z.real, z.imag, yaw))
        for i, (z, yaw) in enumerate(zip(xy, yaws, strict=True))
    ]


def test_steps_are_in_the_body_at_the_earlier_frame() -> None:
    (step,) = odometry_steps(flight([10 + 10j, 10 + 110j], [80.0, 95.0]))
    # The body looks 80 degrees left of x and moves along y: mostly forward, a little left.
    assert step.forward_m == pytest.approx(100.0 * math.cos(math.radians(10.0)))
    assert step.left_m == pytest.approx(100.0 * math.sin(math.radians(10.0)))
    assert math.degrees(step.turn_rad) == pytest.approx(15.0)
    assert (step.sigma_m, step.sigma_turn_rad) == pytest.approx((2.0, math.radians(1.5)))
    assert (step.dt_s, step.note) == (5.0, "")


@given(
    steps=st.lists(st.tuples(st.floats(80.0, 120.0), st.floats(-0.7, 0.7)), min_size=1, max_size=12),
    start=st.tuples(finite, finite, st.floats(-180.0, 180.0)),
)
def test_steps_rebuild_the_flight(steps: list[tuple[float, float]], start: tuple[float, float, float]) -> None:
    z, yaw = complex(start[0], start[1]), math.radians(start[2])
    path, yaws = [z], [yaw]
    for length, turn in steps:
        z += length * complex(math.cos(yaw), math.sin(yaw))
        yaw += turn
        path.append(z)
        yaws.append(yaw)
    found = odometry_steps(flight(path, [math.degrees(math.remainder(y, 2 * math.pi)) for y in yaws]))
    assert [step.note for step in found] == [""] * len(steps)
    for step, (length, turn) in zip(found, steps, strict=True):
        assert (step.forward_m, step.left_m, step.turn_rad) == pytest.approx((length, 0.0, turn), abs=1e-6)


@pytest.mark.parametrize("length_m", [0.0, 2.0, 30.0, 100.0])
@pytest.mark.parametrize("direction_deg", [0.0, 70.0, 180.0, 240.0])
@pytest.mark.parametrize("at", [0, 4, 8])
def test_a_reset_does_not_move_the_belief(length_m: float, direction_deg: float, at: int) -> None:
    path = [length_m * (1.0 + 0.0j) * i for i in range(10)]
    jump = 200.0 * np.exp(1j * math.radians(direction_deg))
    reset = [z + (complex(jump) if i > at else 0.0) for i, z in enumerate(path)]
    clean, found = odometry_steps(flight(path)), odometry_steps(flight(reset))
    for i, (step, expected) in enumerate(zip(found, clean, strict=True)):
        assert math.hypot(step.forward_m - expected.forward_m, step.left_m - expected.left_m) < 1e-6
        assert ("200 m" in step.note) == (i == at)
    assert found[at].sigma_m == pytest.approx(50.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_reset_is_told_from_the_turns_of_a_flight(seed: int) -> None:
    rng = np.random.default_rng(seed)
    yaw = np.cumsum(rng.normal(0, math.radians(15), 20))
    path = np.concatenate([[0], np.cumsum(100.0 * np.exp(1j * yaw[1:]))])  # turns, then flies where it looks
    at = int(rng.integers(1, 19))
    reset = path + np.where(np.arange(20) > at, 200 * np.exp(1j * rng.uniform(-math.pi, math.pi)), 0)
    yaws = [math.degrees(math.remainder(y, 2 * math.pi)) for y in yaw]
    clean, found = (odometry_steps(flight(list(track), yaws)) for track in (path, reset))
    for i, (step, expected) in enumerate(zip(found, clean, strict=True)):
        assert (step.note != "") == (i == at)
        assert (step.forward_m, step.left_m) == pytest.approx((expected.forward_m, expected.left_m), abs=1e-6)


def test_what_is_faster_than_any_vehicle_is_a_reset() -> None:
    (step,) = odometry_steps(flight([0j, 600 + 0j]))
    assert (step.forward_m, step.left_m) == (0.0, 0.0)
    assert step.sigma_m == pytest.approx(150.0)
    assert "reset" in step.note


def test_motion_is_not_a_reset() -> None:
    hover_then_go = [0j] * 4 + [100.0 * i + 0j for i in range(1, 5)]
    survey = [0j, 100, 200, 300, 300 + 100j, 200 + 100j, 100 + 100j, 100 + 200j, 200 + 200j]  # yaw kept
    for path in (hover_then_go, survey):
        assert [step.note for step in odometry_steps(flight(path))] == [""] * (len(path) - 1)


def test_steps_need_odometry() -> None:
    poses = [*flight([0j, 1 + 0j]), Pose(time_s=99.0, roll_deg=0, pitch_deg=0)]
    with pytest.raises(FrameError, match="frame 3 of 3 has no odometry"):
        odometry_steps(poses)
    assert odometry_steps(flight([0j])) == []


def test_images_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    cv2.imwrite(str(tmp_path / "red.png"), red)
    image = read_image(tmp_path / "red.png")
    assert image.shape == (4, 6, 3)
    assert image[0, 0].tolist() == [255, 0, 0]
    (tmp_path / "broken.png").write_bytes(b"no image")
    for name, reason in (("broken.png", "not an image"), ("absent.png", "no such image")):
        with pytest.raises(FrameError, match=reason):
            read_image(tmp_path / name)
