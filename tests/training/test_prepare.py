from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.places import Place, hold_out_strip, load_place, load_places
from kittiwake_training.localization.prepare import (
    place_from_rasters,
    prepare,
    season_train,
    split_of,
    world_places,
)

RAW = Path(os.environ.get("KITTIWAKE_DATA", Path(__file__).parents[2] / "../shared/data")) / "uav"


def test_splits_keep_events_together_and_the_test_place_out() -> None:
    labels = [f"omb_{number:03d}" for number in range(1, 312)]
    splits = [split_of(label) for label in labels]
    assert split_of("ns_forest") is None
    assert 0.10 < splits.count("validation") / len(splits) < 0.14
    # No two neighbours are one in training and one in validation, but where a new event is known to begin.
    touching = {labels[i] for i in range(1, 311) if {splits[i - 1], splits[i]} == {"train", "validation"}}
    assert touching == {"omb_225", "omb_241", "omb_302"}


@pytest.mark.data
@pytest.mark.skipif(not (RAW / "season_train").is_dir(), reason="season_train is not under KITTIWAKE_DATA")
def test_season_train_gives_places_of_one_split_each() -> None:
    places = {place.name: place for place in season_train(RAW / "season_train")}
    assert "ns_forest" not in places
    assert places["ns_lake"].stack.shape == (24, 4, 424, 146)
    assert places["bouconne"].split == "validation"
    assert places["omb_001"].dates == ("0", "1")
    hashes = {split: {p.sha256 for p in places.values() if p.split == split} for split in ("train", "validation")}
    assert not hashes["train"] & hashes["validation"]


def test_a_place_is_the_same_after_writing_and_reading(tmp_path: Path, make_place: Callable[..., Place]) -> None:
    place = make_place("here")
    place.valid[0, :5] = False
    read = load_place(place.save(tmp_path))
    assert read.sha256 == place.sha256
    assert replace(read, stack=place.stack, valid=place.valid) == place
    assert list(tmp_path.iterdir()) == [tmp_path / "here.npz"]


def test_folders_without_places_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no prepared places"):
        load_places(tmp_path)
    with pytest.raises(TrainingError, match="neither of"):
        prepare(tmp_path, tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"PK nothing")
    with pytest.raises(TrainingError, match=r"bad\.npz"):
        load_places(tmp_path)


def test_an_own_area_is_split_by_ground_with_a_gap(make_place: Callable[..., Place]) -> None:
    place = make_place("area")
    west, east = hold_out_strip(place, share=0.25, gap_px=20)
    assert (west.split, east.split) == ("train", "validation")
    np.testing.assert_array_equal(west.stack, place.stack[..., :76])
    np.testing.assert_array_equal(east.stack, place.stack[..., 96:])


def _write(
    path: Path, pixels: np.ndarray, west: float, north: float, gsd_m: float, crs: str | None, kinds: str = "gray"
) -> Path:
    """(H, W) or (bands, H, W) as a GeoTIFF whose bands are of these kinds."""
    bands = np.atleast_3d(pixels.T).T
    with rasterio.open(
        path, "w", driver="GTiff", width=bands.shape[2], height=bands.shape[1], count=len(bands), dtype=bands.dtype,
        crs=crs, transform=from_origin(west, north, gsd_m, gsd_m),
    ) as file:  # fmt: skip
        file.write(bands)
        file.colorinterp = [ColorInterp[kind] for kind in kinds.split()]
    return path


def test_maps_are_joined_by_georeference(tmp_path: Path) -> None:
    ground = (np.add.outer(np.arange(100), 2 * np.arange(120)) % 250 + 1).astype(np.uint8)
    first = _write(tmp_path / "a.tif", ground, 500_000, 6_000_000, 5, "EPSG:32633")
    second = _write(tmp_path / "b.tif", ground[10:, 30:], 500_150, 5_999_950, 5, "EPSG:32633")
    place = place_from_rasters([first, second], "area")
    assert place.stack.shape == (2, 1, 90, 90)
    assert (place.gsd_m, place.dates) == (5.0, ("a", "b"))
    np.testing.assert_array_equal(place.stack[0], place.stack[1])
    np.testing.assert_array_equal(place.stack[0, 0], ground[10:, 30:])
    assert place.valid.all()


def test_colours_are_taken_by_name_and_alpha_is_no_colour(tmp_path: Path) -> None:
    colours = np.stack([np.full((30, 40), level, np.uint8) for level in (30, 20, 10)])  # blue, green, red
    alpha = np.full((1, 30, 40), 255, np.uint8)
    alpha[:, :, :5] = 0
    infrared = np.full((1, 30, 40), 99, np.uint8)
    first = _write(tmp_path / "a.tif", np.concatenate([colours, alpha]), 0, 0, 5, "EPSG:32633", "blue green red alpha")
    second = _write(
        tmp_path / "b.tif", np.concatenate([colours[::-1], alpha]), 0, 0, 5, "EPSG:32633", "red green blue alpha"
    )
    place = place_from_rasters([first, second], "area")
    assert place.stack.shape == (2, 3, 30, 40)
    np.testing.assert_array_equal(place.stack[:, :, 9, 9], [(10, 20, 30), (10, 20, 30)])
    assert not place.valid[:, :, :5].any() and place.valid[:, :, 5:].all()
    near = np.concatenate([colours, infrared])
    third = _write(tmp_path / "c.tif", near, 0, 0, 5, "EPSG:32633", "blue green red undefined")
    np.testing.assert_array_equal(place_from_rasters([third, third], "area").stack[0, :, 9, 9], (10, 20, 30, 99))


def test_maps_that_don_t_fit_are_refused(tmp_path: Path) -> None:
    ground = np.ones((20, 20), np.uint8)
    here = _write(tmp_path / "a.tif", ground, 500_000, 6_000_000, 5, "EPSG:32633")
    far = _write(tmp_path / "b.tif", ground, 600_000, 6_000_000, 5, "EPSG:32633")
    nowhere = _write(tmp_path / "c.tif", ground, 0, 0, 5, None)
    for maps, says in (([here], "two dates"), ([here, far], "no common ground"), ([here, nowhere], "no CRS")):
        with pytest.raises(TrainingError, match=says):
            place_from_rasters(maps, "area")


def test_worlds_are_rendered_once_and_splits_have_worlds_of_their_own(tmp_path: Path) -> None:
    def render(split: str) -> Place:
        return world_places(tmp_path, 1, size_m=320, gsds_m=(10.0,), workers=1, split=split)[0]

    first = render("train")
    assert first.stack.shape == (6, 3, 32, 32)
    written = (tmp_path / f"{first.name}.npz").stat().st_mtime_ns
    assert render("train").sha256 == first.sha256
    assert (tmp_path / f"{first.name}.npz").stat().st_mtime_ns == written
    assert render("validation").sha256 != first.sha256
