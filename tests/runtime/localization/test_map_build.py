"""Building an index: descriptors against numpy, and the same file however the work is shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization import map_build
from kittiwake_runtime.localization.map_build import build_index, check_bundle, find_bundle
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.map_tiles import SCALE

Write = Callable[..., Path]

UTM = "EPSG:32633"
GSD_M = 4.0
FOOTPRINT_M = 33 * GSD_M


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(3, H, W) uint8 with detail at several scales."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.random((height // n + 1, width // n + 1, 3)), (width, height)) for n in (2, 5, 20)]
    return np.moveaxis(sum(layers) * 85, -1, 0).astype(np.uint8)


@pytest.fixture
def raster(write_raster: Write) -> Path:
    """150 × 170 samples at 4 m with a hole of 40 × 40 in it."""
    seen = np.full((150, 170), 255, np.uint8)
    seen[30:70, 90:130] = 0
    return write_raster("map.tif", texture(150, 170), UTM, (5e5, 5e6, GSD_M), mask=seen)


def build(sources: list[Path], out: Path, bundle: Bundle, **options: Any) -> MapIndex:
    options = {"footprint_m": FOOTPRINT_M, "georef_sigma_m": 3.0, "progress": False, **options}
    return build_index(sources, out, bundle=bundle, **options)


def test_a_cell_is_the_descriptor_of_the_ground_around_it(
    raster: Path, tmp_path: Path, box_bundle: Bundle, box_kernels: np.ndarray
) -> None:
    with build([raster], tmp_path / "a.kwmap", box_bundle) as index:
        assert (index.rows, index.cols, index.dim) == (75, 85, 8)
        assert (index.e0, index.n0) == (5e5 + GSD_M, 5e6 - GSD_M)
        cells, valid = index.rows_checked(0, 75) * np.float64(SCALE), index.valid
    image = texture(150, 170)
    seen = np.ones((150, 170))
    seen[30:70, 90:130] = 0
    gray = np.tensordot([0.299, 0.587, 0.114], image / 255.0, axes=1) * seen
    # A cell's centre is where four pixels of the file meet: the samples are means of four.
    gray, seen = (np.pad(layer, 40) for layer in (gray, seen))
    total_gray, total_seen = (
        sum(np.roll(np.roll(layer, -i, 0), -j, 1) for i in (0, 1) for j in (0, 1)) for layer in (gray, seen)
    )
    mask = (total_seen >= 2).astype(float)
    mean4 = np.where(mask > 0, total_gray / np.maximum(total_seen, 1), 0)
    box = np.ones((31, 31))
    sums = [cv2.filter2D(layer, -1, box, borderType=cv2.BORDER_CONSTANT) for layer in (mean4, mask)]
    contrast = (mean4 - sums[0] / np.maximum(sums[1], 1)) * mask
    distance = np.hypot(*np.mgrid[-16:17, -16:17])
    disc = distance <= 16.5
    checked = 0
    for row, col in np.ndindex(75, 85):
        # Sample (2 r, 2 c) of the means lies at the centre of cell (r, c).
        r, c = 40 + 2 * row, 40 + 2 * col
        share = (mask[r - 16 : r + 17, c - 16 : c + 17] * disc).sum() / disc.sum()
        if abs(share - 0.7) > 0.01:
            assert valid[row, col] == (share >= 0.7), (row, col, share)
        if not valid[row, col]:
            assert not cells[row, col].any()
        elif (row * 7 + col) % 13 == 0:
            raw = (box_kernels * contrast[r - 16 : r + 17, c - 16 : c + 17]).sum(axis=(1, 2))
            np.testing.assert_allclose(cells[row, col], raw / np.linalg.norm(raw), atol=SCALE)
            checked += 1
    assert checked > 200 and not valid.all()


def test_the_index_does_not_depend_on_the_tiles(
    raster: Path, tmp_path: Path, box_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with build([raster], tmp_path / "one.kwmap", box_bundle) as index:
        whole, valid = np.array(index.rows_checked(0, index.rows)), index.valid
    monkeypatch.setattr(map_build, "_TILE_CELLS", 23)
    with build([raster], tmp_path / "many.kwmap", box_bundle) as index:
        parts = index.rows_checked(0, index.rows)
        np.testing.assert_array_equal(index.valid, valid)
        # The samples are the same to the last bit; a network may round otherwise at another size.
        assert np.abs(parts.astype(int) - whole.astype(int)).max() <= 1
        assert (parts == whole).mean() > 0.999


@pytest.mark.slow
def test_the_file_does_not_depend_on_who_made_it(
    raster: Path, tmp_path: Path, box_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(map_build, "_TILE_CELLS", 30)
    build([raster], tmp_path / "alone.kwmap", box_bundle).close()
    build([raster], tmp_path / "two.kwmap", box_bundle, workers=2).close()
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster:
        build([raster], tmp_path / "dask.kwmap", box_bundle, scheduler=cluster.scheduler_address).close()
    alone = (tmp_path / "alone.kwmap").read_bytes()
    assert (tmp_path / "two.kwmap").read_bytes() == alone
    assert (tmp_path / "dask.kwmap").read_bytes() == alone


@pytest.mark.slow
def test_an_error_in_a_worker_is_the_users_error(raster: Path, tmp_path: Path, box_bundle: Bundle) -> None:
    content = raster.read_bytes()
    raster.write_bytes(content[: len(content) // 2])
    with pytest.raises(MapError, match=r"map\.tif can't be read at row") as caught:
        build([raster], tmp_path / "a.kwmap", box_bundle, workers=2)
    assert "truncated" in caught.value.hint
    assert not list(tmp_path.glob("*.kwmap*")) and not list(tmp_path.glob(".*.part"))


def test_what_is_said_of_the_imagery_is_kept(raster: Path, tmp_path: Path, box_bundle: Bundle) -> None:
    with build(
        [raster],
        tmp_path / "a.kwmap",
        box_bundle,
        imagery_date="2016-08-16",
        source="a survey",
        licence="CC0",
    ) as index:
        assert (index.imagery_date, index.source, index.licence) == ("2016-08-16", "a survey", "CC0")
        assert index.georef_sigma_m == 3.0
        assert index.bundle_sha256 == box_bundle.sha256
        assert index.meta.files == ("map.tif",)
        assert index.meta.proj["grid_to_wgs84"]["accuracy_m"] == 0.0
        check_bundle(index, box_bundle)


@pytest.mark.parametrize(("pixel_m", "expected_m"), [(4.0, 4.0), (2.0, 2.0), (1.0, 2.0), (8.0, 4.0)])
def test_pictures_are_kept_as_fine_as_the_map_and_no_finer(
    write_raster: Write, tmp_path: Path, box_bundle: Bundle, pixel_m: float, expected_m: float
) -> None:
    size = round(500 / pixel_m)
    path = write_raster("map.tif", texture(size, size), UTM, (5e5, 5e6, pixel_m))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        index = build([path], tmp_path / "a.kwmap", box_bundle)
    with index:
        assert index.meta.levels[0].gsd_m == pytest.approx(expected_m)
        picture, seen = index.image((5e5 + 40, 5e6 - 440, 5e5 + 440, 5e6 - 40), 8.0)
    assert seen.all()
    assert picture.mean(axis=(0, 1)) == pytest.approx(texture(size, size).mean(axis=(1, 2)), abs=6)


def test_a_pyramid_of_several_tiles_is_whole(write_raster: Write, tmp_path: Path, box_bundle: Bundle) -> None:
    image = texture(1100, 700)
    path = write_raster("map.tif", image, UTM, (5e5, 5e6, 2.0))
    with build([path], tmp_path / "a.kwmap", box_bundle) as index:
        assert len(index.meta.levels) == 3
        for level in index.meta.levels:
            picture, seen = index.image(index.bounds_m, level.gsd_m)
            factor = round(level.gsd_m / 2.0)
            expected = image[:, : 1100 // factor * factor, : 700 // factor * factor].astype(float)
            expected = expected.reshape(3, 1100 // factor, factor, 700 // factor, factor).mean(axis=(2, 4))
            inner = np.moveaxis(picture, -1, 0)[:, : expected.shape[1] - 1, : expected.shape[2] - 1]
            assert seen[: expected.shape[1] - 1, : expected.shape[2] - 1].all()
            # JPEG keeps grey better than colour.
            wrong = np.tensordot([0.299, 0.587, 0.114], inner - expected[:, :-1, :-1], axes=1)
            assert np.abs(wrong).mean() < 6 and abs(wrong.mean()) < 1.0


def test_what_the_user_should_know_is_warned_of(write_raster: Write, tmp_path: Path, box_bundle: Bundle) -> None:
    path = write_raster("map.tif", texture(60, 60), UTM, (5e5, 5e6, 30.0))
    with pytest.warns(UserWarning) as caught:
        build([path], tmp_path / "a.kwmap", box_bundle, footprint_m=400.0, georef_sigma_m=None).close()
    told = " ".join(str(warning.message) for warning in caught)
    assert "10 m is assumed" in told and "12.12 m a sample" in told and "coarser than" in told


def test_what_can_not_be_built_is_refused(
    raster: Path, write_raster: Write, tmp_path: Path, box_bundle: Bundle, make_bundle: Callable[..., Bundle]
) -> None:
    empty = write_raster("empty.tif", np.zeros((100, 100), np.uint8), UTM, (5e5, 5e6, GSD_M), nodata=0)
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"600 m, under a footprint \(900 m\)", {"footprint_m": 900.0}),
        ("footprint is -1", {"footprint_m": -1.0}),
        ("footprint is nan", {"footprint_m": float("nan")}),
        ("no place of the map shows 70%", {"sources": [empty]}),
        ("'yesterday' is no date", {"imagery_date": "yesterday"}),
        ("georef_sigma_m is -2", {"georef_sigma_m": -2.0}),
        ("0 workers", {"workers": 0}),
        ("no folder", {"out": tmp_path / "absent" / "a.kwmap"}),
        ("Web Mercator", {"grid_crs": "EPSG:3857"}),
        ("model for test.affine", {"bundle": str(make_bundle().root)}),
        ("Dask", {"scheduler": "nonsense://nowhere"}),
    ]
    for message, changes in cases:
        options = {"sources": [raster], "out": tmp_path / "a.kwmap", "bundle": box_bundle, **changes}
        with pytest.raises(MapError, match=message):
            build(**options)
        assert not list(tmp_path.glob("**/*.kwmap*")) and not list(tmp_path.glob("**/*.part"))


def test_an_index_of_another_model_is_refused_with_the_command_that_mends_it(
    raster: Path, tmp_path: Path, box_bundle: Bundle, make_box_bundle: Callable[[Path, str], Bundle]
) -> None:
    other = make_box_bundle(tmp_path, "other")
    with build([raster], tmp_path / "a.kwmap", box_bundle) as index:
        with pytest.raises(MapError, match="made by the model box") as caught:
            check_bundle(index, other)
        command = f"kittiwake map build map.tif -o {tmp_path}/a.kwmap --footprint 132 --bundle other"
        assert caught.value.hint == command


def test_the_shipped_model_is_the_default(
    tmp_path: Path, make_box_bundle: Callable[[Path, str], Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    by_hand, shipped = (make_box_bundle(tmp_path, name) for name in ("by-hand", map_build.DEFAULT_BUNDLE))
    for found, expected in (
        ([by_hand], by_hand),
        ([by_hand, shipped], shipped),
        ([shipped, by_hand, shipped], shipped),  # $KITTIWAKE_MODELS and the installed package may both hold it
    ):
        monkeypatch.setattr(map_build, "installed_bundles", lambda found=found: [bundle.root for bundle in found])
        assert find_bundle().sha256 == expected.sha256
    for found in ([], [by_hand, by_hand]):
        monkeypatch.setattr(map_build, "installed_bundles", lambda found=found: [bundle.root for bundle in found])
        with pytest.raises(MapError, match=f"{len(found)} models"):
            find_bundle()
