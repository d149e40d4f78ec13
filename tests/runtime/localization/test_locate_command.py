"""`kittiwake locate` as a user types it: a flight over the procedural world, and all that can be wrong with one."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from pyproj import Geod

from kittiwake_runtime.cli import main
from kittiwake_runtime.localization.camera import Camera, save_camera
from kittiwake_runtime.localization.filter import SCALES_UNKNOWN
from kittiwake_runtime.localization.flight import Observation, fly
from kittiwake_runtime.localization.flight_log import Frame, Odometry, read_frames, write_frames
from kittiwake_runtime.localization.orthorectify import orthorectify
from kittiwake_runtime.localization.outputs import Fix
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Motion, simulate_flight, write_flight
from kittiwake_runtime.localization.world import World, write_geotiff

Capture = pytest.CaptureFixture[str]
Write = Callable[..., Path]

GEOD = Geod(ellps="WGS84")
AREA_M = (0.0, 0.0, 2000.0, 2000.0)
UPDATES = 20
STEP_M = 60.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``area.kwmap`` (4 km² in summer) and ``flight/`` (another year's autumn)."""
    folder, world = tmp_path_factory.mktemp("scene"), World(3)
    write_geotiff(world, folder / "map.tif", AREA_M, gsd_m=4.0, season="summer")
    motion = Motion(step_m=STEP_M)
    flight = simulate_flight(world, bounds=AREA_M, season="autumn", date_seed=1, updates=UPDATES, seed=2, motion=motion)
    write_flight(flight, DEFAULT_CAMERA, folder / "flight")
    assert call("map", "build", folder / "map.tif", "-o", folder / "area.kwmap", "--georef-sigma", "1") == 0
    return folder


def call(*words: object) -> int:
    return main([str(word) for word in words])


def arguments(scene: Path, **changes: object) -> list[object]:
    """A command line over the scene; a change replaces an option's value, None leaves the option out."""
    options: dict[str, object] = {
        "map": scene / "area.kwmap",
        "camera": scene / "flight" / "camera.yaml",
        "frames": scene / "flight" / "frames.csv",
        "output": scene / "located",
        **changes,
    }
    return ["locate", *(word for key, value in options.items() if value is not None for word in (f"--{key}", value))]


def variant(scene: Path, name: str, change: Callable[[int, Frame], Frame]) -> Path:
    """Another frames.csv of the same flight, beside the first."""
    frames = read_frames(scene / "flight" / "frames.csv")
    write_frames(scene / "flight" / name, [change(i, frame) for i, frame in enumerate(frames)])
    return scene / "flight" / name


def edited(scene: Path, name: str, row: int, column: str, value: str) -> Path:
    """The flight's frames.csv with one value written into it as it is."""
    with (scene / "flight" / "frames.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[row][column] = value
    with (scene / "flight" / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return scene / "flight" / name


def track(folder: Path) -> list[dict[str, str]]:
    with (folder / "track.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def errors_m(scene: Path, folder: Path) -> list[float]:
    """Distance on the ellipsoid from each frame's true place to where it was found; NaN where it was not."""
    errors = []
    for row, frame in zip(track(folder), read_frames(scene / "flight" / "frames.csv"), strict=True):
        assert frame.truth is not None
        assert (row["state"] == "converged") == bool(row["lat_deg"])
        here = (float(row["lon_deg"] or "nan"), float(row["lat_deg"] or "nan"))
        errors.append(GEOD.inv(*here, *frame.truth[::-1])[2] if row["lat_deg"] else math.nan)
    return errors


def located(scene: Path, capsys: Capture, *more: object, unsure: int = 0, **changes: object) -> dict[str, Any]:
    """Run it with ``--json``: what it summed up, after a look at whether it is true.

    Args:
        unsure: how many updates, once it was found, may be without a position.
    """
    assert call(*arguments(scene, **changes), "--json", *more) == 0
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    errors = errors_m(scene, scene / "located")
    found = [error for error in errors if not math.isnan(error)]
    assert 0 <= UPDATES - len(found) + 1 - summary["converged_at"] <= unsure, "once found, it stayed so"
    assert summary["largest_error_m"] == pytest.approx(max(found), abs=0.1)
    assert max(found) < 45, "a cell is 10 m wide, and views were never far from the right place"
    return summary


def test_a_flight_is_found_and_its_files_agree(scene: Path, capsys: Capture) -> None:
    summary = located(scene, capsys)
    assert summary["converged_at"] <= 8
    assert summary["notes"] == []
    rows = track(scene / "located")
    frames = read_frames(scene / "flight" / "frames.csv")
    assert [float(row["time_s"]) for row in rows] == pytest.approx([frame.time_s for frame in frames])
    last_yaw = float(rows[-1]["yaw_deg"])
    assert abs(math.remainder(last_yaw - frames[-1].yaw_deg, 360)) < 6
    assert (summary["last_lat_deg"], summary["last_lon_deg"]) == pytest.approx(
        (float(rows[-1]["lat_deg"]), float(rows[-1]["lon_deg"])), abs=1e-6
    )
    believed = [row for row in rows if row["state"] == "converged"]
    check_geojson(scene / "located" / "track.geojson", believed)
    for name in ("track.png", "belief.png"):
        picture = cv2.imread(str(scene / "located" / name))
        assert picture is not None and picture.std() > 10
    assert "area.kwmap" in (scene / "located" / "report.html").read_text()
    assert not list((scene / "located").glob("*.part"))


def check_geojson(path: Path, believed: Sequence[dict[str, str]]) -> None:
    """RFC 7946: a FeatureCollection of Features in WGS84, longitude first, lines of two positions or more."""
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["type"] == "FeatureCollection" and "crs" not in content
    wanted = [[float(row["lon_deg"]), float(row["lat_deg"])] for row in believed]
    lines = [f["geometry"] for f in content["features"] if f["geometry"]["type"] == "LineString"]
    points = [f["geometry"] for f in content["features"] if f["geometry"]["type"] == "Point"]
    assert len(lines) + len(points) == len(content["features"])
    assert all(f["type"] == "Feature" and isinstance(f["properties"], dict) for f in content["features"])
    assert [point["coordinates"] for point in points] == wanted
    assert [position for line in lines for position in line["coordinates"]] == wanted
    assert all(len(line["coordinates"]) >= 2 for line in lines)


def test_people_read_a_line_for_each_frame(scene: Path, capsys: Capture) -> None:
    assert call(*arguments(scene)) == 0
    told = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in told if line.startswith("update")] == list(range(1, UPDATES + 1))
    assert told[-2].startswith("found at frame") and told[-1].endswith("report.html")


def test_without_odometry_it_is_taken_from_the_images(scene: Path, capsys: Capture) -> None:
    frames = variant(scene, "bare.csv", lambda _, frame: replace(frame, odometry=None))
    summary = located(scene, capsys, frames=frames)
    assert summary["converged_at"] <= 8
    assert located(scene, capsys, "--visual-odometry") == summary, "the odometry given is not looked at then"


@pytest.mark.slow
@pytest.mark.parametrize("odometry", [True, False])
def test_an_unknown_height_is_searched(scene: Path, capsys: Capture, odometry: bool) -> None:
    """Written as 15 % lower than it is, as a height above a take-off place that lies higher."""

    def above_takeoff(_: int, frame: Frame) -> Frame:
        assert frame.height_agl_m is not None
        height = 0.85 * frame.height_agl_m
        kept = frame.odometry if odometry else None
        return replace(frame, height_agl_m=None, height_above_takeoff_m=height, odometry=kept)

    frames = variant(scene, "takeoff.csv", above_takeoff)
    unsure = 0 if odometry else 4  # steps seen by the camera are as uncertain as the height that they are scaled by
    latest = 11 if odometry else 17
    assert located(scene, capsys, frames=frames, unsure=unsure)["converged_at"] <= latest


def test_a_rough_height_stands_in_where_there_is_none(scene: Path, capsys: Capture) -> None:
    frames = variant(scene, "noheight.csv", lambda _, frame: replace(frame, height_agl_m=None))
    assert "--height-m" in refused(capsys, arguments(scene, frames=frames))
    short = shortened(frames, 2)
    assert call(*arguments(scene, frames=short), "--height-m", "130", "--json") == 1
    assert json.loads(capsys.readouterr().out)["why_not"].startswith("several places fit")


def shortened(frames: Path, count: int) -> Path:
    path = frames.with_name("short.csv")
    path.write_text("".join(frames.read_text().splitlines(keepends=True)[: count + 1]))
    return path


def test_a_prior_helps_and_a_wrong_one_only_delays(scene: Path, capsys: Capture) -> None:
    start = read_frames(scene / "flight" / "frames.csv")[0].truth
    assert start is not None
    lat, lon = start
    without = located(scene, capsys)["converged_at"]
    right = located(scene, capsys, "--use-heading", prior=f"{lat},{lon},150")["converged_at"]
    assert right <= without
    west = located(scene, capsys, prior=f"{lat},{lon + math.copysign(0.018, 17.99 - lon)},300")  # a kilometre off
    assert west["converged_at"] <= 2 * without


@pytest.mark.slow
def test_a_place_that_is_not_on_the_map_is_never_found(scene: Path, tmp_path: Path, capsys: Capture) -> None:
    elsewhere = simulate_flight(World(77), bounds=AREA_M, season="autumn", updates=8, seed=4)
    write_flight(elsewhere, DEFAULT_CAMERA, tmp_path)
    words = arguments(scene, frames=tmp_path / "frames.csv", output=tmp_path / "out")
    assert call(*words, "--json") == 1
    summary = json.loads(capsys.readouterr().out)
    assert summary["converged_at"] is None and summary["why_not"]
    assert [row["lat_deg"] for row in track(tmp_path / "out")] == [""] * 8
    assert json.loads((tmp_path / "out" / "track.geojson").read_text())["features"] == []
    assert (tmp_path / "out" / "report.html").is_file()


# What is handled: the flight is found all the same, and each thing is said.


def test_odometry_that_jumps_is_taken_as_a_reset(scene: Path, capsys: Capture) -> None:
    def jumps(i: int, frame: Frame) -> Frame:
        assert frame.odometry is not None
        pose = frame.odometry
        return replace(frame, odometry=Odometry(pose.x_m + 200.0 * (i >= 9), pose.y_m, pose.yaw_deg))

    frames = variant(scene, "jump.csv", jumps)
    summary = located(scene, capsys, frames=frames, unsure=5)  # a step of unknown length leaves it wide
    (note,) = summary["notes"]
    assert note.startswith("frame 10: odometry jumped by ")
    assert call(*arguments(scene, frames=frames)) == 0
    assert f"note: {note}" in capsys.readouterr().err


def test_images_that_are_damaged_or_missing_are_counted(scene: Path, capsys: Capture) -> None:
    folder = scene / "flight"
    (folder / "half.jpg").write_bytes((folder / "images" / "00005.jpg").read_bytes()[:100])
    cv2.imwrite(str(folder / "small.png"), np.zeros((30, 36, 3), np.uint8))
    bad = {6: "half.jpg", 7: "gone.jpg", 8: "small.png", **dict.fromkeys(range(9, 14), "gone.jpg")}
    frames = variant(scene, "bad.csv", lambda i, f: replace(f, file=folder / bad.get(i, f"images/{i:05}.jpg")))
    notes = located(scene, capsys, frames=frames)["notes"]
    assert [int(note.split()[1][:-1]) for note in notes] == [i + 1 for i in bad]
    for note, words in zip(notes, ("damaged", "no such image", "36x30"), strict=False):
        assert words in note
    assert call(*arguments(scene, frames=frames)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(told) == 6 and "and 3 more" in told[-1] and "all 8" in told[-1]
    assert [row["reason"] for row in track(scene / "located")][7].endswith("no such image")


# What is refused: one line that says what and where, and a hint.


def refused(capsys: Capture, words: Sequence[object]) -> str:
    """The two lines of a refusal."""
    capsys.readouterr()
    assert call(*words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2, lines
    assert lines[0].startswith("error: ") and lines[1].startswith("hint: ")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("roll_deg", "nan", "row 5, roll_deg: is nan"),
        ("pitch_deg", "", "row 5, pitch_deg: expected a number"),
        ("height_agl_m", "0", "row 5, height_agl_m: 0.0 is not positive"),
        ("height_agl_m", "-3", "row 5, height_agl_m: -3.0 is not positive"),
        ("time_s", "1749999999", "row 5, time_s: 1749999999.0 does not come after"),
        ("odom_x_m", "inf", "row 5, odom_x_m: is inf"),
    ],
)
def test_values_that_can_not_be_are_refused(scene: Path, capsys: Capture, column: str, value: str, says: str) -> None:
    frames = edited(scene, "edited.csv", 3, column, value)
    assert f"{frames}, {says}" in refused(capsys, arguments(scene, frames=frames))


def test_a_gap_in_the_odometry_is_refused(scene: Path, capsys: Capture) -> None:
    frames = variant(scene, "gap.csv", lambda i, frame: replace(frame, odometry=None if i == 6 else frame.odometry))
    assert f"frame 7 of {UPDATES} has no odometry" in refused(capsys, arguments(scene, frames=frames))


def test_images_of_another_size_than_the_camera_model_are_refused(scene: Path, tmp_path: Path, capsys: Capture) -> None:
    save_camera(Camera.from_fov(720, 600, 88.0), tmp_path / "camera.yaml")
    told = refused(capsys, arguments(scene, camera=tmp_path / "camera.yaml"))
    assert "360x300 px" in told and "720x600" in told and "scale the model" in told


def test_images_that_do_not_overlap_need_odometry(scene: Path, capsys: Capture) -> None:
    folder = scene / "flight"
    frames = variant(
        scene, "sparse.csv", lambda i, f: replace(f, odometry=None, file=folder / f"images/{(9 * i) % UPDATES:05}.jpg")
    )
    assert "give odometry" in refused(capsys, arguments(scene, frames=frames))


def test_missing_files_are_named(scene: Path, tmp_path: Path, capsys: Capture) -> None:
    for option in ("map", "camera", "frames"):
        gone = tmp_path / f"no.{option}"
        assert str(gone) in refused(capsys, arguments(scene, **{option: gone}))
    frames = edited(scene, "nowhere.csv", 0, "file", "images/nowhere.jpg")
    assert "images/nowhere.jpg: no such image" in refused(capsys, arguments(scene, frames=frames))


@pytest.mark.parametrize("prior", ["north", "60,18", "95,18,300", "60,18,-1"])
def test_a_prior_that_is_none_is_refused(scene: Path, capsys: Capture, prior: str) -> None:
    assert prior in refused(capsys, arguments(scene, prior=prior))


def test_an_index_of_another_model_is_refused(scene: Path, capsys: Capture) -> None:
    told = refused(capsys, arguments(scene, bundle="localization-gradients"))
    assert "made by the model localization-descriptor" in told and "kittiwake map build" in told


@pytest.mark.parametrize("kept", [20, 3000, -5000])
def test_a_truncated_index_is_refused(scene: Path, tmp_path: Path, capsys: Capture, kept: int) -> None:
    path = tmp_path / "cut.kwmap"
    path.write_bytes((scene / "area.kwmap").read_bytes()[:kept])
    assert str(path) in refused(capsys, arguments(scene, map=path))


def test_an_altered_index_is_refused(scene: Path, tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "altered.kwmap"
    shutil.copyfile(scene / "area.kwmap", path)
    size = path.stat().st_size
    for position in (size // 20, size // 4, size // 2):
        data = bytearray((scene / "area.kwmap").read_bytes())
        data[position] ^= 0x55
        path.write_bytes(data)
        assert str(path) in refused(capsys, arguments(scene, map=path))


def test_maps_that_can_not_be_indexed_are_refused(write_raster: Write, tmp_path: Path, capsys: Capture) -> None:
    grey = np.random.default_rng(0).integers(0, 255, (100, 100), dtype=np.uint8)
    build = ["map", "build", "-o", tmp_path / "area.kwmap"]
    small = write_raster("small.tif", grey, "EPSG:32633", (5e5, 6e6, 1.0))
    told = refused(capsys, [*build, small, "--footprint", "160"])
    assert "100 × 100 m" in told and "160 m" in told and "footprint" in told.splitlines()[1]
    nowhere = write_raster("nowhere.tif", grey, None, (5e5, 6e6, 4.0))
    assert "--crs" in refused(capsys, [*build, nowhere, "--footprint", "160"])
    assert not (tmp_path / "area.kwmap").exists()


class Listener:
    """Stands in for a localizer: keeps what it is handed."""

    def __init__(self, gsd_m: float) -> None:
        self.index = SimpleNamespace(gsd_m=gsd_m)
        self.filter = SimpleNamespace(scale_shares=np.full(len(SCALES_UNKNOWN), 1 / len(SCALES_UNKNOWN)))
        self.views: list[Any] = []
        self.levers: list[tuple[float, float]] = []
        self.reasons: list[str] = []

    def update(self, _: object, views: Any, *, lever: tuple[float, float], reason: str, **__: object) -> Fix:
        self.views.append(views)
        self.levers.append(lever)
        self.reasons.append(reason)
        return SimpleNamespace(stages_ms={})  # type: ignore[return-value]


def test_a_height_from_which_the_disc_is_not_in_view_drops_only_itself() -> None:
    """60 m up, the disc of 160 m is not half in view from 0.7 of that, and is from 1.3."""
    rng = np.random.default_rng(0)
    camera = DEFAULT_CAMERA
    image = rng.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
    listener, gsd_m = Listener(160 / 33), 160 / 33
    level = (0.0, 0.0, math.nan)

    def seen(height_m: float) -> Observation:
        return Observation(0.0, image, level, height_m, False, None)

    list(fly(listener, camera, [seen(60.0), seen(20.0)], None))  # type: ignore[arg-type]
    alone = [_alone(image, camera, 60.0 * scale, gsd_m) for scale in SCALES_UNKNOWN]
    unseen = [i for i, view in enumerate(alone) if view is None]
    assert 0 < len(unseen) < 9 and unseen == list(range(len(unseen)))
    lowest = alone[len(unseen)]
    for got, wanted in zip(listener.views[0], alone, strict=True):
        np.testing.assert_array_equal(got, lowest if wanted is None else wanted)
    assert listener.views[1] is None and "in view" in listener.reasons[1], "none is in view from 20 m"


def _alone(image: Any, camera: Camera, height_m: float, gsd_m: float) -> Any:
    try:
        return orthorectify(image, camera, (0.0, 0.0, 0.0), height_m, gsd_m).image
    except Exception:
        return None
