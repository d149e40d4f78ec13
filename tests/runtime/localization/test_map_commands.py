"""`kittiwake map …` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import pytest

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.cli import main
from kittiwake_runtime.localization.camera import Camera, save_camera
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.orthorectify import usable_heights_m

Write = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def built(write_raster: Write, tmp_path: Path, box_bundle: Bundle, capsys: Capture) -> Path:
    """An index of 800 × 1000 m with a hole, built by the command."""
    values = np.random.default_rng(0).integers(1, 255, (200, 250), dtype=np.uint8)
    values[40:80, 100:160] = 0
    raster = write_raster("map.tif", values, "EPSG:32633", (5e5, 6e6, 4.0), nodata=0)
    path = tmp_path / "area.kwmap"
    words = ["map", "build", raster, "-o", path, "--footprint", "132", "--bundle", box_bundle.root,
             "--date", "2020-01-01", "--source", "a survey", "--licence", "CC0",
             "--georef-sigma", "5"]  # fmt: skip
    assert main([str(word) for word in words]) == 0
    told = capsys.readouterr()
    assert "0.8 km²" in told.out and "note:" not in told.err
    return path


def test_info_tells_machines_all(built: Path, capsys: Capture) -> None:
    assert main(["map", "info", str(built), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    grid = Grid.from_crs("EPSG:32633")
    assert (facts["centre_lat_deg"], facts["centre_lon_deg"]) == pytest.approx(
        [float(v) for v in grid.to_wgs84(5e5 + 500, 6e6 - 400)]
    )
    assert facts["area_km2"] == pytest.approx(0.8)
    assert (facts["rows"], facts["cols"], facts["dim"], facts["cell_m"]) == (100, 125, 8, 8.0)
    assert 0.7 < facts["valid_share"] < 0.95
    assert facts["crs"] == "WGS 84 / UTM zone 33N (EPSG:32633)"
    years = (datetime.now(timezone.utc) - datetime(2020, 1, 1, tzinfo=timezone.utc)).days / 365.25
    assert facts["age_years"] == pytest.approx(years, abs=0.01)
    assert (facts["source"], facts["licence"], facts["georef_sigma_m"]) == ("a survey", "CC0", 5.0)
    assert facts["size_mb"] == pytest.approx(built.stat().st_size / 1e6, abs=1e-3)
    assert len(facts["heights_agl_m"]) == 3
    for entry in facts["heights_agl_m"]:
        fov_rad = np.radians(float(entry["camera"].split(", ")[1].split("°")[0]))
        # From somewhat below the height at which all of the disc is in an image of 4:3.
        all_seen_m = 132 / (2 * 0.75 * np.tan(fov_rad / 2))
        assert 0.7 * all_seen_m < entry["lowest"] <= all_seen_m
        assert entry["highest"] == pytest.approx(4 * entry["lowest"], abs=0.3)


def test_info_tells_people_what_a_camera_can_use(built: Path, tmp_path: Path, capsys: Capture) -> None:
    camera = Camera.from_fov(1920, 1080, 70.0)
    save_camera(camera, tmp_path / "camera.yaml")
    assert main(["map", "info", str(built), "--camera", str(tmp_path / "camera.yaml")]) == 0
    told = capsys.readouterr().out
    low, high = usable_heights_m(camera, 132.0)
    assert f"from {low:.0f} to {high:.0f} m above ground" in told
    for part in (
        "2020-01-01",
        "years old",
        "a survey",
        "CC0",
        "exact to   5 m",
        "box",
        "map.tif",
        "UTM zone 33N",
    ):
        assert part in told
    tiny = Camera.from_fov(16, 12, 70.0)
    save_camera(tiny, tmp_path / "tiny.yaml")
    assert main(["map", "info", str(built), "--camera", str(tmp_path / "tiny.yaml")]) == 0
    assert "too few pixels" in capsys.readouterr().out


def test_the_preview_shows_the_ground_and_what_is_missing(built: Path, tmp_path: Path, capsys: Capture) -> None:
    picture_path = tmp_path / "preview.png"
    assert main(["map", "preview", str(built), "-o", str(picture_path), "--size", "500"]) == 0
    picture = cv2.imread(str(picture_path))
    assert picture is not None
    assert picture.shape == (400 + 120, 500 + 120, 3)
    ground = picture[60:-60, 60:-60]
    hole = ground[85:155, 205:315].reshape(-1, 3)
    assert set(np.unique(hole)) == {150, 225}
    assert ground[200:350, 20:480].std() > 20
    assert (picture[:10] == 255).all()


def test_pictures_that_can_not_be_drawn_are_refused(built: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["map", "preview", str(built), "-o", str(tmp_path / "p.png"), "--size", "5"]) == 2
    assert main(["map", "preview", str(built), "-o", str(tmp_path / "p.docx")]) == 2
    assert "name it .png" in capsys.readouterr().err


def test_verify_finds_what_was_altered(
    built: Path, tmp_path: Path, capsys: Capture, make_box_bundle: Callable[[Path, str], Bundle]
) -> None:
    assert main(["map", "verify", str(built)]) == 0
    other = make_box_bundle(tmp_path, "other")
    assert main(["map", "verify", str(built), "--bundle", str(other.root)]) == 1
    assert "--bundle other" in capsys.readouterr().out
    with built.open("r+b") as file:
        file.seek(-10, 2)
        file.write(b"0123")
    assert main(["map", "verify", str(built)]) == 1
    assert "tiles at byte" in capsys.readouterr().out
    assert main(["map", "verify", str(built), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"] and "tiles" in report["problem"]


def test_what_is_not_said_is_noted(write_raster: Write, tmp_path: Path, box_bundle: Bundle, capsys: Capture) -> None:
    raster = write_raster("map.tif", np.full((80, 80), 90, np.uint8), None, (5e5, 6e6, 4.0))
    words = ["map", "build", str(raster), "-o", str(tmp_path / "a.kwmap"), "--footprint", "132"]
    words += ["--bundle", str(box_bundle.root)]
    assert main(words) == 2
    assert "--crs EPSG:nnnn" in capsys.readouterr().err
    assert main([*words, "--crs", "EPSG:32633"]) == 0
    told = capsys.readouterr()
    assert "note: nothing says how exact the map lies" in told.err
    assert "of an unknown date" in told.out


def test_what_is_no_map_is_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.kwmap").write_bytes(b"hello")
    for action in (["info"], ["verify"], ["preview", "-o", str(tmp_path / "p.png")]):
        assert main(["map", *action, str(tmp_path / "a.kwmap")]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert "is no map index" in lines[0] and lines[1].startswith("hint: ") and len(lines) == 2
