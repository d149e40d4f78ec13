"""Rasters on a metric grid, against pyproj.Geod, numpy and the pixels that were written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyproj import Geod, Transformer
from pyproj.transformer import TransformerGroup

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.descriptor import in_colours
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.raster import Lattice, MapSource, Samples

Write = Callable[..., Path]

UTM = "EPSG:32633"
RNG = np.random.default_rng(1)


def whole(source: MapSource, gsd_m: float, border: int = 0) -> tuple[Lattice, Samples]:
    west, south, east, north = source.bounds_m
    width, height = round((east - west) / gsd_m) + 2 * border, round((north - south) / gsd_m) + 2 * border
    lattice = Lattice(west - border * gsd_m, north + border * gsd_m, gsd_m, width, height)
    return lattice, source.read(lattice, 0, 0, height, width)


def spot_positions(source: MapSource, gsd_m: float) -> np.ndarray:
    """Grid positions of the bright spots of a map, by centroid, from west to east."""
    import cv2

    lattice, samples = whole(source, gsd_m)
    gray = np.where(samples.mask, in_colours(samples.colour, 1)[..., 0], 0.0)
    count, labels = cv2.connectedComponents((gray > 0.1).astype(np.uint8))
    centres = []
    for label in range(1, count):
        rows, cols = np.nonzero(labels == label)
        weight = gray[rows, cols]
        col, row = np.average(cols, weights=weight), np.average(rows, weights=weight)
        centres.append((lattice.west_m + (col + 0.5) * gsd_m, lattice.north_m - (row + 0.5) * gsd_m))
    return np.array(sorted(centres))


@pytest.mark.parametrize("lat", [0.0, 45.0, 65.0])
@pytest.mark.parametrize("lon", [9.3, 6.02])  # the middle of a UTM zone, and its edge
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857"])
def test_distances_on_a_warped_map_are_those_on_the_ellipsoid(
    write_raster: Write, crs: str, lat: float, lon: float
) -> None:
    spots = np.array([(lon, lat + 0.02), (lon + 0.01, lat - 0.02), (lon + 0.05, lat + 0.015)])
    to_file = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    box = to_file.transform(*np.array([(lon - 0.01, lat - 0.03), (lon + 0.06, lat + 0.03)]).T)
    size = 900
    pixel = (box[0][1] - box[0][0]) / size, (box[1][1] - box[1][0]) / size
    image = np.zeros((size, size), np.float64)
    rows, cols = np.indices(image.shape)
    for x, y in zip(*to_file.transform(*spots.T), strict=True):
        col, row = (x - box[0][0]) / pixel[0] - 0.5, (box[1][1] - y) / pixel[1] - 0.5
        image += 250 * np.exp(-((rows - row) ** 2 + (cols - col) ** 2) / (2 * 5.0**2))
    path = write_raster("map.tif", image.astype(np.uint8), crs, (box[0][0], box[1][1], *pixel))
    with MapSource([path]) as source:
        found = spot_positions(source, source.gsd_m)
    geod = Geod(ellps="WGS84")
    for a, b in ((0, 1), (1, 2), (0, 2)):
        expected = geod.inv(*spots[a], *spots[b])[2]
        assert np.hypot(*(found[a] - found[b])) == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize(
    ("crs", "corner", "kept"),
    [
        ("EPSG:26914", (486000.0, 5209000.0), True),
        ("EPSG:27700", (400000.0, 300000.0), True),
        ("+proj=tmerc +lat_0=0 +lon_0=25 +k=1 +datum=WGS84", (-57000.0, -3731000.0), True),
        ("EPSG:3857", (1000000.0, 6000000.0), False),
        ("EPSG:3395", (1000000.0, 6000000.0), False),  # World Mercator: conformal, but not in scale
        ("EPSG:3035", (2700000.0, 4500000.0), False),  # equal area: shapes are off at the rim of Europe
        ("EPSG:2263", (980000.0, 200000.0), False),  # US feet
        ("EPSG:4326", (10.0, 50.0), False),
    ],
)
def test_a_grid_that_keeps_distances_is_kept_and_others_become_utm(
    write_raster: Write, crs: str, corner: tuple[float, float], kept: bool
) -> None:
    gsd = 5.0 if corner[0] > 180 or corner[0] < 0 else 5e-5
    path = write_raster("map.tif", np.zeros((50, 50), np.uint8), crs, (*corner, gsd))
    with MapSource([path]) as source:
        corner_deg = source.grid.to_wgs84(*corner)
        assert ("UTM zone" in source.grid.wkt) if not kept else corner_deg == Grid.from_crs(crs).to_wgs84(*corner)


def test_a_grid_can_be_chosen(write_raster: Write) -> None:
    path = write_raster("map.tif", np.zeros((50, 50), np.uint8), "EPSG:4326", (11.9, 50.0, 5e-5))
    with MapSource([path], grid_crs="EPSG:32633") as source:
        assert source.grid == Grid.from_crs("EPSG:32633")


def test_the_pixels_come_back_on_the_files_own_lattice(write_raster: Write) -> None:
    image = RNG.integers(0, 256, (3, 40, 60), dtype=np.uint8)
    with MapSource([write_raster("map.tif", image, UTM, (5e5, 5e6, 4.0))]) as source:
        _, samples = whole(source, 4.0)
    assert samples.mask.all()
    np.testing.assert_array_equal(np.moveaxis(samples.rgb, -1, 0), image)
    gray = np.tensordot([0.299, 0.587, 0.114], image / 255.0, axes=1)
    np.testing.assert_allclose(in_colours(samples.colour, 1)[..., 0], gray, atol=1e-6)


def test_a_fine_map_is_averaged(write_raster: Write) -> None:
    image = RNG.integers(0, 256, (80, 120), dtype=np.uint8)
    with MapSource([write_raster("map.tif", image, UTM, (5e5, 5e6, 1.0))]) as source:
        _, samples = whole(source, 4.0)
    expected = image.reshape(20, 4, 30, 4).mean(axis=(1, 3)) / 255.0
    np.testing.assert_allclose(in_colours(samples.colour, 1)[..., 0], expected, atol=0.51 / 255)


HOLE = np.full((400, 400), 255, np.uint8)
HOLE[100:200, 150:300] = 0


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "nan", "nan and nodata", "16 bit"])
@pytest.mark.parametrize("gsd_m", [5.0, 20.0])
def test_what_is_missing_is_masked_and_never_leaks(write_raster: Write, kind: str, gsd_m: float) -> None:
    image = np.full((3, 400, 400), 200, np.uint8)
    image[:, :, ::2] = 100
    holed, floats = np.where(HOLE, image, 0), np.where(HOLE, image, np.nan).astype(np.float32)
    options: dict[str, tuple[Any, dict[str, Any]]] = {
        "nodata": (holed, {"nodata": 0}),
        "mask": (holed, {"mask": HOLE}),
        "alpha": (holed, {"alpha": HOLE}),
        "nan": (floats, {}),
        "nan and nodata": (floats, {"nodata": float("nan")}),
        "16 bit": (holed.astype(np.uint16) * 40, {"nodata": 0}),
    }
    values, how = options[kind]
    with MapSource([write_raster("map.tif", values, UTM, (5e5, 5e6, 5.0), **how)]) as source:
        _, samples = whole(source, gsd_m, border=3)
    step = round(gsd_m / 5)
    expected = np.pad(HOLE[::step, ::step] > 0, 3)
    # One sample of doubt around the hole, where a sample is half seen.
    near = np.abs(np.diff(expected.astype(int), axis=0, prepend=0)) + np.abs(
        np.diff(expected.astype(int), axis=1, prepend=0)
    )
    sure = near == 0
    assert (samples.mask == expected)[sure].mean() > 0.99
    assert (samples.colour[~samples.mask] == 0).all()
    low = 0.0 if kind in ("nan", "nan and nodata", "16 bit") else 100 / 255
    if gsd_m > 5.0 and kind != "16 bit" and "nan" not in kind:
        low = 140 / 255  # stripes are averaged; the hole's zeros are not
    assert samples.colour[samples.mask].min() >= low - 0.01


@pytest.mark.parametrize("crs_and_corner", [(UTM, (5e5, 5e6, 5.0)), ("EPSG:4326", (14.0, 45.0, 6e-5, 5e-5))])
@pytest.mark.parametrize("gsd_m", [2.1, 4.85, 17.3])
@pytest.mark.parametrize("kind", ["plain", "alpha", "16 bit"])
def test_a_sample_does_not_depend_on_its_window(
    write_raster: Write, crs_and_corner: tuple[Any, Any], gsd_m: float, kind: str
) -> None:
    image = RNG.integers(1, 255, (3, 300, 300), dtype=np.uint8)
    values: Any = image.astype(np.uint16) * 30 if kind == "16 bit" else image
    how = {"alpha": HOLE[:300, :300]} if kind == "alpha" else {}
    with MapSource([write_raster("map.tif", values, *crs_and_corner, **how)]) as source:
        lattice, samples = whole(source, gsd_m, border=5)
        for row, col, height, width in ((0, 0, 7, 50), (3, 17, 40, 33), (lattice.height - 9, 1, 9, 20)):
            window = source.read(lattice, row, col, height, width)
            part = np.s_[row : row + height, col : col + width]
            np.testing.assert_array_equal(window.colour, samples.colour[part])
            np.testing.assert_array_equal(window.mask, samples.mask[part])


def test_of_several_maps_the_first_with_data_wins(write_raster: Write) -> None:
    hole = np.full((40, 40), 255, np.uint8)
    hole[10:20, 10:20] = 0
    first = write_raster("first.tif", np.full((40, 40), 50, np.uint8), UTM, (5e5, 5e6, 5.0), mask=hole)
    second = write_raster("second.tif", np.full((3, 40, 40), 150, np.uint8), UTM, (5e5 + 50, 5e6 - 50, 5.0))
    with MapSource([first, second]) as source:
        assert source.bounds_m == (5e5, 5e6 - 250, 5e5 + 250, 5e6)
        _, samples = whole(source, 5.0)
    expected = np.zeros((50, 50), int)
    expected[10:, 10:] = 150
    expected[:40, :40][hole > 0] = 50
    expected[10:20, 10:20] = 150
    np.testing.assert_array_equal(samples.rgb[..., 0], expected)
    np.testing.assert_array_equal(samples.mask, expected > 0)


def test_maps_of_different_crs_and_depth_meet(write_raster: Write) -> None:
    first = write_raster("utm.tif", np.full((40, 40), 50, np.uint8), UTM, (5e5, 5e6, 5.0))
    lat, lon = Grid.from_crs(UTM).to_wgs84(5e5 + 200, 5e6)
    deep = np.linspace(1000, 2000, 1600).reshape(40, 40).astype(np.uint16)
    second = write_raster("degrees.tif", deep, "EPSG:4326", (float(lon), float(lat), 6.4e-5, 4.5e-5))
    with MapSource([first, second]) as source:
        assert source.grid == Grid.from_crs(UTM)
        _, samples = whole(source, 5.0)
        assert source.stretch == pytest.approx(tuple(np.percentile(deep, [1, 99])))
    assert samples.mask[:38].mean() > 0.98
    assert in_colours(samples.colour, 1)[..., 0][:38, :39].mean() == pytest.approx(50 / 255)
    assert 0.3 < in_colours(samples.colour, 1)[..., 0][:38, 42:78].mean() < 0.7


def test_the_bands_of_colour_are_found_by_name(write_raster: Write) -> None:
    from rasterio import open as open_raster
    from rasterio.enums import ColorInterp

    image = np.stack([np.full((40, 40), value, np.uint8) for value in (10, 20, 30, 40)])
    path = write_raster("map.tif", image, UTM, (5e5, 5e6, 5.0))
    with MapSource([path]) as source:
        assert whole(source, 5.0)[1].rgb[5, 5].tolist() == [10, 20, 30]
    with open_raster(path, "r+") as file:
        file.colorinterp = [ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red]
    with MapSource([path]) as source:
        assert whole(source, 5.0)[1].rgb[5, 5].tolist() == [40, 30, 20]


def test_the_stretch_is_that_of_the_whole_map_in_every_window(write_raster: Write) -> None:
    values = np.linspace(0, 40000, 250_000).reshape(500, 500).astype(np.uint16)
    path = write_raster("map.tif", values, UTM, (5e5, 5e6, 5.0))
    with MapSource([path]) as source, MapSource([path], stretch=source.stretch) as other:
        assert source.stretch == pytest.approx(tuple(np.percentile(values, [1, 99])), rel=1e-3)
        lattice, samples = whole(source, 5.0)
        corner = other.read(lattice, 480, 480, 20, 20)
    np.testing.assert_array_equal(corner.colour, samples.colour[480:, 480:])


def test_the_operation_of_proj_is_told(write_raster: Write) -> None:
    path = write_raster("map.tif", np.zeros((50, 50), np.uint8), "EPSG:26914", (486000.0, 5209000.0, 5.0))
    with MapSource([path]) as source:
        operations = source.operations()
    assert [entry["accuracy_m"] for entry in operations["map_to_grid"]] == [0.0]
    told = operations["grid_to_wgs84"]
    known = {t.description: t.accuracy for t in TransformerGroup("EPSG:26914", "EPSG:4326").transformers}
    assert known[told["description"]] == told["accuracy_m"] > 0


def test_a_map_without_crs_is_refused_until_it_is_named(write_raster: Write) -> None:
    path = write_raster("map.tif", np.zeros((50, 50), np.uint8), None, (5e5, 5e6, 5.0))
    with pytest.raises(MapError, match="no coordinate reference system") as caught:
        MapSource([path])
    assert "--crs" in caught.value.hint and "gdal_edit" in caught.value.hint
    with MapSource([path], crs=UTM) as source:
        assert source.bounds_m == (5e5, 5e6 - 250, 5e5 + 250, 5e6)
    with pytest.raises(MapError, match="can't be read"):
        MapSource([path], crs="EPSG:0")


def test_files_that_are_no_map_are_refused(write_raster: Write, tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a raster")
    no_place = write_raster("photo.tif", np.zeros((50, 50), np.uint8), UTM, (0.0, 0.0, 1.0, -1.0))
    beyond = write_raster("beyond.tif", np.zeros((50, 50), np.uint8), "EPSG:4326", (5e5, 5e6, 5.0))
    cases: list[tuple[list[Path], str]] = [
        ([], "no map"),
        ([tmp_path / "absent.tif"], "no file"),
        ([text], "not a raster"),
        ([no_place], "not georeferenced"),
        ([beyond], "outside of its coordinate reference system"),
    ]
    for paths, message in cases:
        with pytest.raises(MapError, match=message):
            MapSource(paths)


def test_colours_by_palette_are_refused(write_raster: Write) -> None:
    from rasterio import open as open_raster

    path = write_raster("map.tif", np.zeros((50, 50), np.uint8), UTM, (5e5, 5e6, 5.0))
    with open_raster(path, "r+") as file:
        file.write_colormap(1, {n: (n, 255 - n, 0, 255) for n in range(256)})
    with pytest.raises(MapError, match="palette"):
        MapSource([path])


def test_a_truncated_file_is_told_where_it_breaks(write_raster: Write) -> None:
    image = RNG.integers(0, 256, (3, 500, 500), dtype=np.uint8)
    path = write_raster("map.tif", image, UTM, (5e5, 5e6, 5.0))
    path.write_bytes(path.read_bytes()[:300_000])
    with MapSource([path]) as source, pytest.raises(MapError, match=r"map\.tif can't be read at row"):
        whole(source, 5.0)
