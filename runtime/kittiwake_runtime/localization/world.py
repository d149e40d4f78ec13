"""A procedural world: farmland, water, woods and villages of any extent, in summer, in autumn and under snow.

It is a pure function of seed, coordinates, season and date: any window at any ground sample, the same ground
always the same. What persists from date to date (property lines, tracks, roads, shores, woods, houses, soil
that shows through) and what changes (crops, rows, patches, water level, snow, shadows, clouds, exposure) are
in the proportions of real aerial photographs of several years, so that finding one's place is as hard.

    world = World(seed=1)
    summer = world.render((0, 0, 2000, 1500), gsd_m=5, season="summer")
    winter = world.render((0, 0, 2000, 1500), gsd_m=5, season="winter", date_seed=3)
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.localization.world_noise import Window
from kittiwake_runtime.localization.world_paint import paint, relief
from kittiwake_runtime.localization.world_season import SEASONS, Day, Season

__all__ = ["SEASONS", "VERSION", "Season", "World", "write_geotiff"]

Rgb8 = NDArray[np.uint8]
Bounds = tuple[float, float, float, float]

VERSION = 1  # of the look of the world: figures name it, and it changes whenever a pixel does

# Where the world lies on Earth: at 60 N, 3 degrees east of the central meridian of UTM zone 33, where grid
# north and true north are 2.6 degrees apart.
CRS = "EPSG:32633"
ORIGIN_EASTING_M = 666_000.0
ORIGIN_NORTHING_M = 6_655_000.0

_TILE_PX = 256  # a tile's arrays fit the cache of a core
_RIM_PX = 2  # one for slopes, one for the lens
_STRIP_PX = 512


@dataclass(frozen=True)
class World:
    """A world; equal seeds give equal worlds.

    Attributes:
        seed: any integer.
        version: of its look; only the current one can be made.

    Raises:
        ValueError: another version than :data:`VERSION`.
    """

    seed: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION:
            raise ValueError(f"the world's version {self.version} can't be made, only {VERSION}")

    def render(
        self,
        bounds: Bounds,
        gsd_m: float,
        season: Season,
        date_seed: int = 0,
        *,
        threads: int | None = None,
    ) -> Rgb8:
        """An orthophoto.

        Args:
            bounds: (x_min, y_min, x_max, y_max), metres east and north of the world's origin.
            gsd_m: ground sample, metres a pixel. What is narrower fades, it does not alias.
            season: "summer", "autumn" or "winter" (snow).
            date_seed: which date of that season; another one is another year, with other crops.
            threads: how many cores to use; all of them when None.

        Returns:
            (H, W, 3) uint8 RGB, row 0 in the north; H and W are the extents over ``gsd_m``, rounded.

        Raises:
            ValueError: empty or infinite bounds, a ground sample that is not positive, another season.
        """
        rows, _ = _size(bounds, gsd_m)
        return self._render_rows(bounds, gsd_m, range(rows), Day.of(self.seed, season, date_seed), threads)

    def strips(
        self, bounds: Bounds, gsd_m: float, season: Season, date_seed: int = 0, *, threads: int | None = None
    ) -> Iterator[tuple[int, Rgb8]]:
        """The same in strips of 512 rows, ``(first_row, (h, W, 3) uint8)``: memory stays bounded."""
        rows, _ = _size(bounds, gsd_m)
        day = Day.of(self.seed, season, date_seed)
        for first in range(0, rows, _STRIP_PX):
            strip = range(first, min(first + _STRIP_PX, rows))
            yield first, self._render_rows(bounds, gsd_m, strip, day, threads)

    def elevation_m(self, x_m: NDArray[np.float64], y_m: NDArray[np.float64]) -> NDArray[np.float32]:
        """(len(y), len(x)) float32 height of the ground in metres, at all pairs of the two."""
        return relief(Window(np.asarray(x_m, np.float64), np.asarray(y_m, np.float64), 1.0), self.seed)

    def time_utc(self, season: Season, date_seed: int = 0) -> str:
        """When a date is, ``YYYY:MM:DD HH:MM:SS``."""
        return Day.of(self.seed, season, date_seed).time_utc

    def _render_rows(self, bounds: Bounds, gsd_m: float, rows: range, day: Day, threads: int | None) -> Rgb8:
        _, columns = _size(bounds, gsd_m)
        image = np.empty((len(rows), columns, 3), np.uint8)

        def tile(corner: tuple[int, int]) -> None:
            top, left = corner
            down = range(top, min(top + _TILE_PX, rows.stop))
            along = range(left, min(left + _TILE_PX, columns))
            part = slice(down.start - rows.start, down.stop - rows.start), slice(along.start, along.stop)
            image[part] = _photograph(Window.over(bounds[0], bounds[3], _rim(along), _rim(down), gsd_m), self.seed, day)

        corners = [(r, c) for r in range(rows.start, rows.stop, _TILE_PX) for c in range(0, columns, _TILE_PX)]
        workers = min(threads or os.cpu_count() or 1, len(corners))
        if workers == 1:
            for corner in corners:
                tile(corner)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(tile, corners))
        return image


def write_geotiff(
    world: World,
    path: str | Path,
    bounds: Bounds,
    gsd_m: float,
    season: Season,
    date_seed: int = 0,
    *,
    crs: str = CRS,
    origin_m: tuple[float, float] = (ORIGIN_EASTING_M, ORIGIN_NORTHING_M),
    threads: int | None = None,
    progress: bool = True,
) -> None:
    """Write an orthophoto as a tiled GeoTIFF, strip by strip, and only then under its name.

    Args:
        path: the file; replaced when it exists.
        bounds, gsd_m, season, date_seed, threads: as for :meth:`World.render`.
        crs: a projected CRS in metres, as rasterio takes it.
        origin_m: easting and northing there of the world's origin.
        progress: whether to show a bar on a terminal.
    """
    import rasterio
    from rasterio.transform import from_origin
    from rasterio.windows import Window as RasterWindow
    from tqdm import tqdm

    path = Path(path)
    rows, columns = _size(bounds, gsd_m)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    profile = {
        "driver": "GTiff", "width": columns, "height": rows, "count": 3, "dtype": "uint8", "crs": crs,
        "transform": from_origin(bounds[0] + origin_m[0], bounds[3] + origin_m[1], gsd_m, gsd_m),
        "tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate", "zlevel": 1,
        "predictor": 2, "photometric": "rgb", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    try:
        with (
            rasterio.open(unfinished, "w", **profile) as raster,
            tqdm(total=rows, unit="row", desc=path.name, disable=None if progress else True) as bar,
        ):
            title = f"Kittiwake world {world.seed}, version {world.version}, {season}, date {date_seed}"
            time_utc = world.time_utc(season, date_seed)
            raster.update_tags(TIFFTAG_DATETIME=time_utc, TIFFTAG_IMAGEDESCRIPTION=title)
            for first, strip in world.strips(bounds, gsd_m, season, date_seed, threads=threads):
                raster.write(strip.transpose(2, 0, 1), window=RasterWindow(0, first, columns, len(strip)))
                bar.update(len(strip))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _size(bounds: Bounds, gsd_m: float) -> tuple[int, int]:
    """Rows and columns of a picture."""
    width, height = bounds[2] - bounds[0], bounds[3] - bounds[1]
    if not (math.isfinite(gsd_m) and gsd_m > 0):
        raise ValueError(f"a ground sample of {gsd_m} m is not positive")
    if not (all(map(math.isfinite, bounds)) and width >= gsd_m / 2 and height >= gsd_m / 2):
        raise ValueError(f"bounds {bounds} hold no pixel of {gsd_m} m; they are x_min, y_min, x_max, y_max")
    return max(round(height / gsd_m), 1), max(round(width / gsd_m), 1)


def _rim(pixels: range) -> range:
    return range(pixels.start - _RIM_PX, pixels.stop + _RIM_PX)


def _photograph(window: Window, seed: int, day: Day) -> Rgb8:
    """The window without its rim, through a lens that blurs by a little less than half a pixel."""
    rgb = paint(window, seed, day)[:, 1:-1, 1:-1]
    rgb = 0.1 * (rgb[:, :-2] + rgb[:, 2:]) + 0.8 * rgb[:, 1:-1]
    rgb = 0.1 * (rgb[:, :, :-2] + rgb[:, :, 2:]) + 0.8 * rgb[:, :, 1:-1]
    return np.asarray(np.clip(rgb + np.float32(0.5), 0, 255), np.uint8).transpose(1, 2, 0)
