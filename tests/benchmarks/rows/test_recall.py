"""What counts as a hit, and which pictures are snow."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from places import data_dir, read_raster
from rows.recall import (
    SNOW_QUERIES,
    _poses,
    as_geotiff,
    best_state,
    pair_job,
    recall_one,
    share_within,
    snow_and_summer,
)
from rows.run import Run

from kittiwake_runtime.localization.map_build import find_bundle


def picture(path: Path, width: int, height: int, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST))
    return path


def test_a_pairs_disc_is_a_quarter_and_a_hit_a_tenth_of_the_short_side(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png", 400, 264)
    row = {"pair": "p", "label": "l", "width": "400", "height": "264", "file_a": "a.png", "file_b": "b.png"}
    job = pair_job(row, tmp_path, tmp_path, Run(quick=False))
    raster = read_raster(job.seen_file)
    short_m = 264 * raster.gsd_m
    assert job.footprint_m == pytest.approx(short_m / 4) and job.within_m == pytest.approx(short_m / 10)
    assert job.footprint_m / 33 == pytest.approx(5.0) and job.queries == 100
    west, south, east, north = raster.bounds
    poses, radius = _poses(raster, job), job.footprint_m / 2
    assert (poses[:, 0] >= west + radius).all() and (poses[:, 0] <= east - radius).all()
    assert (poses[:, 1] >= south + radius).all() and (poses[:, 1] <= north - radius).all()
    assert np.ptp(poses[:, 2]) > 5.5


def test_the_same_picture_is_found_again_by_both(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png", 264, 264, seed=1)
    row = {"pair": "p", "label": "l", "width": "264", "height": "264", "file_a": "a.png", "file_b": "b.png"}
    job = pair_job(row, tmp_path, tmp_path, Run(quick=True))
    hits = recall_one(job, find_bundle().root)
    assert len(hits.ours) == len(hits.ncc) == 10
    assert np.mean(hits.ours) >= 0.8 and np.mean(hits.ncc) >= 0.8
    assert 0.01 < np.mean(hits.chance) < 0.06


def test_chance_is_the_share_of_a_circle() -> None:
    index = SimpleNamespace(e0=0.0, n0=990.0, cell_m=10.0, rows=100, cols=100, valid=np.ones((100, 100), bool))
    share = share_within(index, np.array([500.0, 500.0, 0.0]), 200.0)
    assert share == pytest.approx(math.pi * 200**2 / 1000**2, rel=0.01)
    index.valid[:, 50:] = False
    assert share_within(index, np.array([0.0, 500.0, 0.0]), 100.0) == pytest.approx(math.pi * 1e4 / 2 / 5e5, rel=0.04)


def test_the_best_state_is_the_one_whose_descriptor_is_the_same() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(-127, 127, (20, 30, 8)).astype(np.int8)
    valid = np.ones((20, 30), bool)
    valid[2, 3] = False
    cells[2, 3] = 127  # the strongest of all, where there is no map
    vectors = rng.normal(0, 0.01, (36, 8)).astype(np.float32)
    vectors[9] = cells[7, 11] / 64
    index = SimpleNamespace(descriptors=cells, valid=valid, e0=100.0, n0=900.0, cell_m=10.0)
    descriptor = SimpleNamespace(colours=1, describe=lambda views: vectors[:, :, None, None])
    east, north, heading = best_state(index, descriptor, np.zeros((33, 33), np.float32))
    assert (east, north, heading) == pytest.approx((210.0, 830.0, math.pi / 2))


def test_snow_is_bright_and_of_winter(tmp_path: Path) -> None:
    for date, grey in (("2020-01-05", 220), ("2020-02-01", 100), ("2020-07-01", 220), ("2020-05-01", 90)):
        cv2.imwrite(str(tmp_path / f"x_{date}.png"), np.full((8, 8, 3), grey, np.uint8))
        cv2.imwrite(str(tmp_path / f"x_{date}_nir.png"), np.full((8, 8), 255, np.uint8))
    snow, summer = snow_and_summer(tmp_path)
    assert [path.stem for path in snow] == ["x_2020-01-05"] and [path.stem for path in summer] == ["x_2020-07-01"]


@pytest.mark.data
def test_real_snow_gives_five_hundred_queries() -> None:
    folder = data_dir() / "uav" / "season_train" / "ns_forest"
    if not folder.is_dir():
        pytest.skip(f"no {folder} (KITTIWAKE_DATA)")
    snow, summer = snow_and_summer(folder)
    assert len({path.stem[-10:-6] for path in snow}) == 2, "two winters"
    assert len(snow) * len(summer) * SNOW_QUERIES >= 500


def test_a_picture_lies_on_its_grid(tmp_path: Path) -> None:
    raster = read_raster(as_geotiff(picture(tmp_path / "p.png", 40, 24), tmp_path / "p.tif", 2.5))
    assert raster.grey.shape == (24, 40) and raster.gsd_m == 2.5
    with pytest.raises(FileNotFoundError, match="damaged"):
        as_geotiff(tmp_path / "none.png", tmp_path / "q.tif", 1.0)
