"""Grounds at several dates, as rasters placed by their georeference, and what of the real data makes one.

place = load_north_dakota(data_dir())
seen = place.rasters["2014-07-20"].sample(easting_m, northing_m)
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Area = tuple[float, float, float, float]
"""West, south, east, north, metres."""

YEARS_APART = 5
NAIP_SIGMA_M = 6.0 / 2.4477
"""On each axis: NAIP's specification has 95 % of well-defined points within 6 m of the true ground."""
KEPT_M = 1500.0
"""At either end of the Baviaanskloof mosaic, for measuring how far it lies from the satellite's picture."""


@dataclass(frozen=True)
class Raster:
    """A georeferenced image on a north-up grid.

    Attributes:
        grey: (H, W) float32 in [0, 1], row 0 north, NaN where there is no data.
        west_m, north_m: easting and northing of the outer corner of pixel (0, 0).
        gsd_m: a pixel's side, metres.
        crs: its CRS, as rasterio takes it.
        path: the file it came from.
        sha256: of that file.
        rgb: (H, W, 3) float32, the same in red, green and blue; None where grey is all there is.
    """

    grey: Array
    west_m: float
    north_m: float
    gsd_m: float
    crs: str = ""
    path: Path = Path()
    sha256: str = ""
    rgb: Array | None = None

    @property
    def bounds(self) -> Area:
        """West, south, east, north of the outer edges, metres."""
        rows, cols = self.grey.shape
        return (
            self.west_m,
            self.north_m - rows * self.gsd_m,
            self.west_m + cols * self.gsd_m,
            self.north_m,
        )

    def cropped(self, area: Area) -> Raster:
        """The whole pixels inside west, south, east, north, which lie within the bounds."""
        west, south, east, north = area
        left, top = math.ceil((west - self.west_m) / self.gsd_m), math.ceil((self.north_m - north) / self.gsd_m)
        right, bottom = int((east - self.west_m) / self.gsd_m), int((self.north_m - south) / self.gsd_m)
        grey = np.ascontiguousarray(self.grey[top:bottom, left:right])
        rgb = None if self.rgb is None else np.ascontiguousarray(self.rgb[top:bottom, left:right])
        corner = self.west_m + left * self.gsd_m, self.north_m - top * self.gsd_m
        return replace(self, grey=grey, rgb=rgb, west_m=corner[0], north_m=corner[1])

    def sample(self, easting_m: Array, northing_m: Array) -> Array:
        """Grey at points of the ground, bilinear between pixel centres, NaN outside: same shape, float32."""
        return self._sample(self.grey, easting_m, northing_m)

    def sample_rgb(self, easting_m: Array, northing_m: Array) -> Array:
        """Red, green and blue there: the points' shape and (3,)."""
        if self.rgb is None:
            return np.repeat(self.sample(easting_m, northing_m)[..., None], 3, axis=-1)
        return self._sample(self.rgb, easting_m, northing_m)

    def _sample(self, image: Array, easting_m: Array, northing_m: Array) -> Array:
        cols = (easting_m - self.west_m) / self.gsd_m - 0.5
        rows = (self.north_m - northing_m) / self.gsd_m - 0.5
        return cv2.remap(
            image,
            cols.astype(np.float32),
            rows.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(math.nan,) * 3,
        )


@dataclass(frozen=True)
class Place:
    """One ground at several dates.

    Attributes:
        rasters: by date (ISO, or the season of a made-up world).
        pairs: ordered (map, query) dates to fly.
        georef_sigma_m: how exact the maps lie, as their indexes are told.
        flown: the ground to fly over; all that every date shows when None.
    """

    name: str
    rasters: dict[str, Raster]
    pairs: tuple[tuple[str, str], ...]
    georef_sigma_m: float = 0.0
    flown: Area | None = None

    @property
    def area(self) -> Area:
        """The ground to fly over, metres."""
        return self.flown or self.common_area

    @property
    def common_area(self) -> Area:
        """West, south, east, north of the ground that every date shows, metres."""
        bounds = np.array([raster.bounds for raster in self.rasters.values()])
        west, south = bounds[:, :2].max(axis=0)
        east, north = bounds[:, 2:].min(axis=0)
        return float(west), float(south), float(east), float(north)

    @property
    def sha256(self) -> str:
        """One hash of all files, in the order of their dates."""
        joined = "".join(self.rasters[date].sha256 for date in sorted(self.rasters))
        return hashlib.sha256(joined.encode()).hexdigest()


def data_dir() -> Path:
    """Where the real data lie: ``$KITTIWAKE_DATA``, else ``../shared/data`` from the project's root."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    return Path(os.environ.get("KITTIWAKE_DATA", default)).resolve()


def load_north_dakota(data: Path) -> Place:
    """The seven NAIP dates of one ground in North Dakota, with every ordered pair of years 5 or more apart.

    Raises:
        FileNotFoundError: when the rasters are not there.
    """
    folder = data / "uav" / "naip_nd"
    files = sorted(folder.glob("m_4709963_se_14_1_*.tif"))
    if not files:
        raise FileNotFoundError(f"no NAIP rasters in {folder}; set KITTIWAKE_DATA to the data's folder")
    rasters = {}
    for file in files:
        day = file.stem[-8:]
        rasters[f"{day[:4]}-{day[4:6]}-{day[6:]}"] = read_raster(file)
    return Place("naip_nd", rasters, year_pairs(tuple(rasters)), georef_sigma_m=NAIP_SIGMA_M)


def load_baviaans(data: Path) -> Place:
    """Baviaanskloof: a Sentinel-2 map at 10 m, seen as the mosaic of four aerial orthophotos at 5 m.

    No flight looks at the northern and the southern `KEPT_M` of the mosaic: the constant translation between the two
    is measured there.

    Raises:
        FileNotFoundError: when the rasters are not there.
    """
    folder = data / "uav" / "baviaans"
    satellite, aerial = folder / "sentinel2_b432_byte.tif", sorted(folder.glob("ngi_rgb_byte_*.tif"))
    if not (satellite.is_file() and aerial):
        raise FileNotFoundError(f"no Baviaanskloof rasters in {folder}; set KITTIWAKE_DATA to the data's folder")
    mosaic = merged([read_raster(path) for path in aerial])
    west, south, east, north = mosaic.bounds
    rasters = {"2015-10-03": read_raster(satellite), "2015-05-08": mosaic}
    pairs = (("2015-10-03", "2015-05-08"),)
    return Place("baviaans", rasters, pairs, georef_sigma_m=5.0, flown=(west, south + KEPT_M, east, north - KEPT_M))


def merged(rasters: list[Raster]) -> Raster:
    """One raster of several, at the ground sample of the first; where they overlap, the first that has data wins."""
    bounds, gsd_m = np.array([raster.bounds for raster in rasters]), rasters[0].gsd_m
    (west, south), (east, north) = bounds[:, :2].min(axis=0), bounds[:, 2:].max(axis=0)
    eastings = np.arange(west + gsd_m / 2, east, gsd_m)
    northings = np.arange(north - gsd_m / 2, south, -gsd_m)
    points = np.meshgrid(eastings, northings)
    grey, rgb = (np.full((*points[0].shape, *colours), np.nan, np.float32) for colours in ((), (3,)))
    for raster in rasters:
        missing = np.isnan(grey)
        grey[missing] = raster.sample(*points)[missing]
        rgb[missing] = raster.sample_rgb(*points)[missing]
    joined = hashlib.sha256("".join(raster.sha256 for raster in rasters).encode()).hexdigest()
    return Raster(grey, float(west), float(north), gsd_m, rasters[0].crs, Path(), joined, rgb)


def year_pairs(dates: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Every ordered pair of ISO dates whose calendar years are at least `YEARS_APART` apart."""
    pairs = permutations(sorted(dates), 2)
    return tuple((a, b) for a, b in pairs if abs(int(a[:4]) - int(b[:4])) >= YEARS_APART)


def read_raster(path: Path) -> Raster:
    """Read the first three bands of a north-up GeoTIFF, and as grey (ITU-R 601 weights), placed by its georeference."""
    import rasterio

    with rasterio.open(path) as file:
        bytes_ = np.ascontiguousarray(np.moveaxis(file.read([1, 2, 3]), 0, -1))
        seen = file.dataset_mask() > 0
        transform, crs = file.transform, file.crs.to_string()
    grey, rgb = (image.astype(np.float32) / 255.0 for image in (cv2.cvtColor(bytes_, cv2.COLOR_RGB2GRAY), bytes_))
    grey[~seen] = rgb[~seen] = np.nan
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Raster(grey, transform.c, transform.f, transform.a, crs, path, digest, rgb)
