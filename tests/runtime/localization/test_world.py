"""The procedural world: a pure function of the ground, as hard as the real one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kittiwake_runtime.localization.world import CRS, ORIGIN_EASTING_M, SEASONS, World, write_geotiff
from kittiwake_runtime.localization.world_noise import Window, dots, fbm, spline_noise, stripe, uniform

WORLD = World(5)
AREA = (0.0, 0.0, 5000.0, 4000.0)  # 20 km²
FROZEN = [
    [131.2, 117.6, 129.5, 125.7],
    [109.0, 107.2, 128.0, 109.2],
    [113.1, 102.9, 115.3, 126.1],
    [109.0, 98.2, 100.4, 121.0],
]


def gray(image: Any) -> Any:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(float)


@pytest.fixture(scope="module")
def dates() -> dict[str, Any]:
    wanted = {
        "summer": ("summer", 0),
        "next summer": ("summer", 1),
        "autumn": ("autumn", 1),
        "snow": ("winter", 2),
    }
    return {name: WORLD.render(AREA, 5.0, *date) for name, date in wanted.items()}


@pytest.mark.parametrize("season", SEASONS)
@pytest.mark.parametrize("gsd", [5.0, 160 / 33, 0.7])
def test_a_window_is_a_crop_of_any_larger_one(season: Any, gsd: float) -> None:
    left, top = -1234.0, 5678.9
    whole = WORLD.render((left, top - 300 * gsd, left + 320 * gsd, top), gsd, season, 3, threads=2)
    part = (left + 37 * gsd, top - 290 * gsd, left + 300 * gsd, top - 11 * gsd)
    assert whole.shape == (300, 320, 3)
    np.testing.assert_array_equal(WORLD.render(part, gsd, season, 3, threads=1), whole[11:290, 37:300])


def test_strips_make_up_the_picture() -> None:
    bounds = (0.0, 0.0, 600.0, 3500.0)
    strips = list(WORLD.strips(bounds, 5.0, "autumn", 1))
    assert [first for first, _ in strips] == [0, 512]
    np.testing.assert_array_equal(np.concatenate([s for _, s in strips]), WORLD.render(bounds, 5.0, "autumn", 1))


def test_seed_season_and_date_each_change_the_picture() -> None:
    bounds = (0.0, 0.0, 320.0, 320.0)
    pictures = [
        World(seed).render(bounds, 5.0, season, date) for seed in (1, 2) for season in SEASONS for date in (0, 1)
    ]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)
    np.testing.assert_array_equal(World(1).render(bounds, 5.0, "summer", 0), pictures[0])


def test_seasons_look_like_themselves(dates: dict[str, Any]) -> None:
    mean = {name: image.reshape(-1, 3).mean(axis=0) for name, image in dates.items()}
    assert mean["snow"].min() > mean["summer"].max()  # bright, though each date has its own exposure
    assert np.ptp(mean["snow"]) < 6 < 20 < np.ptp(mean["summer"])  # white
    assert mean["summer"][1] > mean["summer"][0] > mean["summer"][2]  # green
    assert mean["autumn"][0] > mean["autumn"][1]  # brown


def test_difficulty_is_that_of_real_photographs(dates: dict[str, Any]) -> None:
    """Seven dates of 17 km² of North Dakota at 5 m correlate by .20 to .58; snow and summer less."""
    flat = {name: gray(image).ravel() for name, image in dates.items()}
    correlation = {name: float(np.corrcoef(flat["summer"], flat[name])[0, 1]) for name in dates}
    print(correlation)
    assert 0.1 < correlation["next summer"] < 0.6
    assert 0.1 < correlation["autumn"] < 0.6
    assert 0.05 < correlation["snow"] < 0.45
    assert all(20 < image.std() < 60 for image in flat.values())


def test_the_look_is_frozen() -> None:
    """Whoever changes a pixel changes VERSION, and with it this table: figures name the version."""
    picture = WORLD.render((1000.0, 1000.0, 3000.0, 3000.0), 20.0, "summer", 0)
    table = cv2.resize(gray(picture), (4, 4), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(table, FROZEN, atol=0.6)


@pytest.mark.parametrize("season", SEASONS)
def test_fine_detail_fades_and_does_not_alias(season: Any) -> None:
    """Pictures at 2 m averaged to 6 m, and pictures made at 6 m, are the same to a few grey values."""
    bounds = (0.0, 0.0, 1440.0, 1440.0)
    averaged = cv2.resize(gray(WORLD.render(bounds, 2.0, season)), (240, 240), interpolation=cv2.INTER_AREA)
    coarse = gray(WORLD.render(bounds, 6.0, season))
    assert np.corrcoef(averaged.ravel(), coarse.ravel())[0, 1] > 0.9
    assert abs(averaged.mean() - coarse.mean()) < 4


def test_elevation_is_gentle_and_does_not_depend_on_the_window() -> None:
    x, y = np.arange(0.0, 4000.0, 25.0), np.arange(3000.0, 0.0, -25.0)
    height = WORLD.elevation_m(x, y)
    assert height.shape == (len(y), len(x))
    assert 10 < np.ptp(height) < 150
    assert np.abs(np.gradient(height, 25.0)).max() < 0.25
    np.testing.assert_array_equal(WORLD.elevation_m(x[7:20], y[3:9]), height[3:9, 7:20])


def test_geotiff_tells_place_and_date(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path, bounds = tmp_path / "area.tif", (100.0, 200.0, 1100.0, 3200.0)
    write_geotiff(WORLD, path, bounds, 5.0, "summer", 4, progress=False)
    with rasterio.open(path) as raster:
        assert raster.crs == rasterio.crs.CRS.from_user_input(CRS)
        assert raster.bounds.left == ORIGIN_EASTING_M + 100
        assert raster.res == (5.0, 5.0)
        assert raster.tags()["TIFFTAG_DATETIME"] == WORLD.time_utc("summer", 4)
        np.testing.assert_array_equal(raster.read().transpose(1, 2, 0), WORLD.render(bounds, 5.0, "summer", 4))
    assert [file.name for file in tmp_path.iterdir()] == ["area.tif"]


def test_a_geotiff_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rasterio")

    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(World, "strips", broken)
    with pytest.raises(MemoryError):
        write_geotiff(WORLD, tmp_path / "area.tif", (0, 0, 100, 100), 5.0, "summer", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("bounds", "gsd", "season", "said"),
    [
        ((0, 0, 100, 100), 0.0, "summer", "not positive"),
        ((0, 0, 100, 100), float("nan"), "summer", "not positive"),
        ((0, 0, -100, 100), 5.0, "summer", "no pixel"),
        ((0, 0, float("inf"), 100), 5.0, "summer", "no pixel"),
        ((0, 0, 100, 100), 5.0, "spring", "summer, autumn, winter"),
    ],
)
def test_wrong_arguments_are_named(bounds: Any, gsd: float, season: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WORLD.render(bounds, gsd, season)


def test_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 99"):
        World(1, version=99)


def test_imports_numpy_and_opencv_alone() -> None:
    code = (
        "import sys, kittiwake_runtime.localization.world;"
        "print({m.split('.')[0] for m in sys.modules} & {'rasterio', 'pyproj', 'tqdm', 'yaml'})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert out.stdout.strip() == "set()"


def test_hashes_are_uniform_in_each_key() -> None:
    for layer in range(3):
        values = uniform(7, layer, np.arange(-200, 200)[:, None], np.arange(300)[None, :])
        counts, _ = np.histogram(values, bins=50, range=(0, 1))
        expected = values.size / 50
        assert ((counts - expected) ** 2 / expected).sum() < 90  # chi² of 49 degrees: 85 is 1 in 1,000
        for shifted in (values[1:] * values[:-1], values[:, 1:] * values[:, :-1]):
            assert abs(shifted.mean() - 0.25) < 0.003


def test_noise_is_standard_and_smooth() -> None:
    window = Window.over(-5000.0, 9000.0, range(1000), range(1000), 10.0)
    noise = spline_noise(window, 45.0, (1, 2))
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    fine = Window.over(-1.0, 1.0, range(400), range(400), 0.005)
    assert np.abs(np.diff(spline_noise(fine, 1.0, (1, 2)), axis=1)).max() < 0.05


def test_octaves_finer_than_the_pixels_fade() -> None:
    window = Window.over(0.0, 0.0, range(64), range(64), 10.0)
    np.testing.assert_array_equal(fbm(window, (15.0,), (1,)), np.zeros((64, 64)))
    assert fbm(window, (80.0,), (1,)).std() > 0.5


@pytest.mark.parametrize("half_width", [0.1, 0.9, 4.0])
@pytest.mark.parametrize("gsd", [0.3, 1.0, 5.0])
def test_a_stripe_covers_its_width_at_any_sample(half_width: float, gsd: float) -> None:
    for offset in np.linspace(0, gsd, 7):
        centres = (np.arange(-60, 60) * gsd + offset).astype(np.float32)
        assert stripe(centres, half_width, gsd).sum() * gsd == pytest.approx(2 * half_width, rel=0.02)


def test_dots_stay_within_their_cells() -> None:
    window = Window.over(0.0, 0.0, range(500), range(500), 0.25)
    found = dots(window, 12.5, 3.0, (9,))
    cell = found.distance_m.reshape(10, 50, 10, 50)
    assert cell.min(axis=(1, 3)).max() < 0.3
    edge = np.concatenate([cell[:, [0, -1]].ravel(), cell[:, :, :, [0, -1]].ravel()])
    assert edge.min() > 2.8
