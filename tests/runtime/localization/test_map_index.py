"""The `.kwmap` file: what is written comes back, and what was altered is told."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.map_format import (
    CHUNK_BYTES,
    MapMeta,
    encode_tile,
    halve,
    make_levels,
    tile_shape,
)
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.map_tiles import SCALE, quantize
from kittiwake_runtime.localization.map_writer import MapWriter

WEST, NORTH, CELL_M, DIM = 500_000.0, 5_200_000.0, 10.0, 48


def make_meta(rows: int, cols: int, gsd_m: float = CELL_M / 2) -> MapMeta:
    return MapMeta(
        crs=Grid.from_crs("EPSG:32633").wkt,
        west_m=WEST,
        north_m=NORTH,
        rows=rows,
        cols=cols,
        dim=DIM,
        cell_m=CELL_M,
        footprint_m=165.0,
        scale=SCALE,
        bundle_name="box",
        bundle_sha256="ab" * 32,
        imagery_date="2024-06-01",
        imagery_gsd_m=gsd_m,
        source="a survey",
        licence="CC0",
        georef_sigma_m=4.0,
        proj={},
        files=("a.tif",),
        levels=make_levels(rows, cols, CELL_M, gsd_m),
    )


def cells_of(rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(3).integers(-127, 128, (rows, cols, DIM)).astype(np.int8)


def relief(east_m: np.ndarray, south_m: np.ndarray) -> np.ndarray:
    """Grey waves, from metres east and south of the corner of the map."""
    return 128 + 60 * np.sin(2 * np.pi * east_m / 530) + 60 * np.cos(2 * np.pi * south_m / 610)


def painted(level_gsd_m: float, height: int, width: int, row0: int, col0: int) -> np.ndarray:
    rows, cols = np.indices((height, width))
    gray = relief((cols + col0 + 0.5) * level_gsd_m, (rows + row0 + 0.5) * level_gsd_m)
    return np.repeat(gray.round().astype(np.uint8)[..., None], 3, axis=-1)


def write_map(path: Path, rows: int = 300, cols: int = 350, *, hole: bool = False) -> np.ndarray:
    meta = make_meta(rows, cols)
    values = cells_of(rows, cols)
    valid = np.ones((rows, cols), bool)
    valid[:7, 3:11] = False
    values[~valid] = 0
    with MapWriter(path, meta) as writer:
        writer.put_cells(100, 0, values[100:], valid[100:])
        writer.put_cells(0, 0, values[:100], valid[:100])
        for number, level in enumerate(meta.levels):
            for row in range(level.tiles[0]):
                for col in range(level.tiles[1]):
                    height, width = tile_shape(level, row, col)
                    seen = np.ones((height, width), bool)
                    if hole and (row, col) == (0, 0):
                        seen[: round(400 / level.gsd_m), : round(600 / level.gsd_m)] = False
                    picture = painted(level.gsd_m, height, width, row * 512, col * 512)
                    writer.put_tile(number, row, col, *encode_tile(picture, seen))
    return values


def header_length(path: Path) -> int:
    length: int = struct.unpack("<I", path.read_bytes()[12:16])[0]
    return length


def overwrite(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


@given(arrays(np.float32, (5, DIM), elements=st.floats(-1, 1, width=32)).filter(lambda x: (x**2).sum(1).all()))
def test_int8_is_off_by_half_a_step_and_scores_by_as_much_as_is_told(raw: np.ndarray) -> None:
    unit = raw.astype(np.float64) / np.linalg.norm(raw.astype(np.float64), axis=1, keepdims=True)
    kept = quantize(unit.astype(np.float32)).astype(np.float64) * SCALE
    assert np.abs(kept - unit).max() <= SCALE / 2 + 1e-7
    scores = np.abs(kept @ unit.T - unit @ unit.T)
    assert scores.max() <= np.sqrt(DIM) * SCALE / 2 + 1e-6
    assert (kept != 0).any(axis=1).all()  # no unit vector looks like "no data"


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    values = write_map(path)
    with MapIndex.open(path) as index:
        np.testing.assert_array_equal(index.rows_checked(0, 300), values)
        np.testing.assert_array_equal(index.cells(20, 90, 7, 300), values[20:90, 7:300])
        np.testing.assert_array_equal(index.descriptors, values)
        np.testing.assert_array_equal(index.valid, values.any(axis=-1))
        assert (index.rows, index.cols, index.dim, index.cell_m, index.gsd_m) == (300, 350, DIM, 10.0, 5.0)
        assert (index.e0, index.n0) == (WEST + 5, NORTH - 5)
        assert index.bounds_m == (WEST, NORTH - 3000, WEST + 3500, NORTH)
        assert index.meta == make_meta(300, 350)
        index.verify()
    assert [entry.name for entry in tmp_path.iterdir()] == ["area.kwmap"]


def test_rows_that_were_let_go_come_back(tmp_path: Path) -> None:
    values = write_map(tmp_path / "area.kwmap")
    with MapIndex.open(tmp_path / "area.kwmap") as index:
        for first, last in ((0, 300), (13, 57), (299, 300)):
            index.let_go(first, last)
            np.testing.assert_array_equal(index.rows_checked(0, 300), values)


def test_its_age_is_counted_either_way(tmp_path: Path) -> None:
    path = tmp_path / "a.kwmap"
    write_map(path)
    with MapIndex.open(path) as index:  # of 2024-06-01
        assert index.age_years(datetime(2025, 6, 1, tzinfo=timezone.utc).timestamp()) == pytest.approx(1, abs=0.01)
        assert index.age_years(datetime(2014, 6, 1, tzinfo=timezone.utc).timestamp()) == pytest.approx(10, abs=0.01)
        assert index.age_years(5.0) is None  # a clock that started at zero
        index.imagery_date = None
        assert index.age_years(1.75e9) is None


def test_an_index_from_before_that_says_nothing_of_its_pixels_can_be_opened(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "area.kwmap"
    write_map(path)
    raw = path.read_bytes()
    length = header_length(path)
    header = json.loads(raw[16 : 16 + length])
    del header["imagery_gsd_m"]
    start = raw[:16] + json.dumps(header).encode().ljust(length)
    path.write_bytes(start + hashlib.sha256(start).digest() + raw[len(start) + 32 :])
    with MapIndex.open(path) as index:
        assert index.meta.imagery_gsd_m == index.gsd_m


def test_the_layout_is_that_of_the_page(tmp_path: Path) -> None:
    """Read as docs/kwmap.md says, with struct and json alone."""
    import hashlib

    path = tmp_path / "area.kwmap"
    values = write_map(path)
    raw = path.read_bytes()
    magic, version, length = struct.unpack_from("<8sII", raw)
    assert (magic, version) == (b"KWMAP\r\n\x1a", 1)
    assert hashlib.sha256(raw[: 16 + length]).digest() == raw[16 + length : 48 + length]
    header = json.loads(raw[16 : 16 + length])
    assert header["file_bytes"] == len(raw)
    assert header["affine"] == [CELL_M, 0, WEST, 0, -CELL_M, NORTH]
    assert header["bundle"] == {"name": "box", "sha256": "ab" * 32}
    for section in header["sections"].values():
        assert section["offset"] % 4096 == 0
        part = raw[section["offset"] : section["offset"] + section["length"]]
        chunks = [part[at : at + (4 << 20)] for at in range(0, len(part), 4 << 20)]
        assert [hashlib.sha256(chunk).hexdigest() for chunk in chunks] == section["sha256"]
    start = header["sections"]["descriptors"]["offset"]
    cell = (7 * 350 + 9) * DIM
    assert raw[start + cell : start + cell + DIM] == values[7, 9].tobytes()
    bits = raw[header["sections"]["valid"]["offset"] :]
    assert bits[0] >> 3 & 1 == 0 and bits[0] >> 5 & 1 == 1  # cells (0, 4) without data and (0, 2) with


@pytest.mark.parametrize("gsd_m", [2.0, 5.0, 7.0, 13.0, 40.0])
def test_pixels_lie_where_they_belong(tmp_path: Path, gsd_m: float) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path)
    west, north = WEST + 400.0 + gsd_m / 3, NORTH - 300.0
    height, width = 50, 60
    with MapIndex.open(path) as index:
        picture, seen = index.image((west, north - height * gsd_m, west + width * gsd_m, north), gsd_m)
    assert picture.shape == (50, 60, 3) and seen.all()
    rows, cols = np.indices(seen.shape)
    east, south = west - WEST + (cols + 0.5) * gsd_m, NORTH - north + (rows + 0.5) * gsd_m
    wrong = picture.mean(axis=-1) - relief(east, south)
    for step in ((0.5, 0.0), (0.0, 0.5)):
        # How far the picture would have to be moved to fit better, by least squares.
        slope = relief(east + step[0], south + step[1]) - relief(east - step[0], south - step[1])
        assert abs((wrong * slope).sum() / (slope**2).sum()) < 0.05 * max(gsd_m, 5.0)  # of a pixel of the pyramid


def test_beyond_the_map_and_in_its_holes_nothing_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path, hole=True)
    with MapIndex.open(path) as index:
        picture, seen = index.image((WEST - 200, NORTH - 600, WEST + 800, NORTH + 100), 5.0)
        expected = np.ones((140, 200), bool)
        expected[:20], expected[:, :40] = False, False  # beyond the map
        expected[:100, :160] = False  # its hole, 600 m by 400 m
        assert (seen == expected).mean() > 0.99
        assert (picture[~seen] == 0).all()
        for west, south in ((0.0, 0.0), (WEST + 3600, NORTH - 200), (WEST + 200, NORTH - 3200), (WEST, NORTH + 50)):
            far, unseen = index.image((west, south, west + 100.0, south + 100.0), 5.0)
            assert not unseen.any() and far.shape == (20, 20, 3)
        with pytest.raises(MapError, match="empty"):
            index.image((0.0, 0.0, 1.0, 1.0), 5.0)


def test_the_overview_shows_all_of_the_map(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path)
    with MapIndex.open(path) as index:
        overview = index.overview(200)
        assert overview.shape == (171, 200, 3)
        pixel_m = 3500 / 200
        rows, cols = np.indices(overview.shape[:2])
        expected = relief((cols + 0.5) * pixel_m, (rows + 0.5) * pixel_m)
        assert np.abs(overview.mean(axis=-1) - expected)[:170].mean() < 2
        assert index.overview(10_000).shape == (600, 700, 3)  # never finer than the pyramid


def test_halving_averages_what_is_seen() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    seen = np.ones((5, 7), bool)
    seen[:2, 0], seen[2:4, 2:4], seen[2, 2] = False, False, True
    half, mask = halve(rgb, seen)
    assert half.shape == (3, 4, 3)
    assert half[0, 0].tolist() == pytest.approx(rgb[:2, 1].mean(axis=0), abs=0.51)
    assert half[1, 2].tolist() == pytest.approx(rgb[2:4, 4:6].mean(axis=(0, 1)), abs=0.51)
    assert half[2, 1].tolist() == pytest.approx(rgb[4, 2:4].mean(axis=0), abs=0.51)
    assert not mask[1, 1] and mask.sum() == 12 - 2  # a quarter seen is not seen, nor is the corner


@pytest.mark.parametrize("keep", [0, 5, 12, 100, 5000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(MapError, match=r"area\.kwmap is (truncated|no map index)"):
        MapIndex.open(path)


def test_files_that_are_no_index_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    with pytest.raises(MapError, match="No such file"):
        MapIndex.open(path)
    write_map(path)
    whole = path.read_bytes()
    cases = {
        "no map index": b"GeoTIFF!" + whole[8:],
        "format version 7": whole[:8] + struct.pack("<I", 7) + whole[12:],
        "header .* was altered": whole.replace(b'"georef_sigma_m": 4.0', b'"georef_sigma_m": 1.0'),
        "longer than it should be": whole + b"more",
    }
    for message, content in cases.items():
        path.write_bytes(content)
        with pytest.raises(MapError, match=message):
            MapIndex.open(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rows", 299, "length"),
        ("dtype", "float32", "dtype"),
        ("cell_m", float("nan"), "cell_m"),
        ("bundle", {"name": "box"}, "bundle.sha256"),
        ("affine", [1, 2, 3], "affine"),
        ("imagery_date", "June", "date"),
        ("imagery_gsd_m", 0, "imagery_gsd_m"),
        ("sections", {}, "sections.descriptors"),
    ],
)
def test_a_header_that_makes_no_sense_names_its_field(tmp_path: Path, field: str, value: object, message: str) -> None:
    import hashlib

    path = tmp_path / "area.kwmap"
    write_map(path)
    raw = path.read_bytes()
    length = header_length(path)
    header = json.loads(raw[16 : 16 + length])
    text = json.dumps({**header, field: value}).encode().ljust(length)
    start = raw[:16] + text
    path.write_bytes(start + hashlib.sha256(start).digest() + raw[len(start) + 32 :])
    with pytest.raises(MapError, match=message):
        MapIndex.open(path)


def test_an_altered_chunk_is_told_when_it_is_touched_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path)
    with MapIndex.open(path) as index:
        start = index.header["sections"]["descriptors"]["offset"]
    row_bytes = 350 * DIM
    last_row = CHUNK_BYTES // row_bytes  # the first chunk ends inside it
    overwrite(path, start + CHUNK_BYTES + 10, b"\x7f\x80\x7f")
    with MapIndex.open(path) as index:
        index.rows_checked(0, last_row)
        index.cells(last_row, last_row + 1, 0, 10)
        with pytest.raises(MapError, match=f"altered: descriptors at byte {start + CHUNK_BYTES}"):
            index.rows_checked(last_row, last_row + 1)
        with pytest.raises(MapError, match="descriptors at byte") as caught:
            index.verify()
        assert "tiles" not in caught.value.message


@pytest.mark.parametrize("section", ["valid", "tile_table", "tiles"])
def test_every_part_is_checked(tmp_path: Path, section: str) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path)
    with MapIndex.open(path) as index:
        start = index.header["sections"][section]["offset"]
    overwrite(path, start + 3, b"\x01\xfe\x03")
    with MapIndex.open(path) as index:
        with pytest.raises(MapError, match=f"altered: {section}"):
            index.verify()
        with pytest.raises(MapError, match=f"altered: {section}"):
            assert index.valid.any() and index.overview(100).any()


def test_an_interrupted_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    write_map(path)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt), MapWriter(path, replace(make_meta(20, 20), dim=4)):
        raise KeyboardInterrupt
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["area.kwmap"]


def test_opening_100_km2_takes_no_time(tmp_path: Path) -> None:
    path = tmp_path / "area.kwmap"
    with MapWriter(path, make_meta(1031, 1031)):
        pass  # empty, but of full length
    begin = time.perf_counter()
    with MapIndex.open(path) as index:
        assert index.descriptors.shape == (1031, 1031, DIM)
        assert time.perf_counter() - begin < 0.2
        assert not index.valid.any()
