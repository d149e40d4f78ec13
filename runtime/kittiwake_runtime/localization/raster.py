"""Maps as they come: any rasters that rasterio reads, seen as one picture on a metric grid.

A `MapSource` takes several files, whatever their CRS, resolution, depth and bands, and gives windows of any
north-up `Lattice` of samples. Each sample is found in its file through PROJ, so that maps in degrees or Web
Mercator come out in true metres. Files finer than the lattice are averaged first, and read a window at a
time: a map never has to fit into memory. A window's samples don't depend on which window was asked for.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.frames import Grid, utm_crs
from kittiwake_runtime.localization.raster_file import Bounds, Floats, Lattice, RasterFile, Samples

__all__ = ["Lattice", "MapSource", "Samples"]

_STRETCH_PERCENT = (1.0, 99.0)
_KEPT_ERROR = 1.5e-3
_UTM_ERROR = 5e-4


class MapSource:
    """One or several rasters as one map; where they overlap, the first that has data wins.

    Eight-bit values are taken as they are, all others are stretched between two percentiles of the whole map.
    Nodata values, alpha bands, mask bands and NaN are seen as "no data". Bands: one is grey; of more, those
    that the file calls red, green and blue, else the first three.

    Args:
        paths: the rasters, best first.
        crs: what to take as the CRS of files that have none.
        grid_crs: the projected metric CRS to work in. By default the first file's own when it keeps distances
            (conformal, within 0.15 %), else the UTM zone of the map's centre, else (where UTM is off by more
            than 0.05 %) a transverse Mercator about the map's own meridian.
        stretch: low and high value for files that are not eight-bit, as found by another `MapSource` of the
            same map.

    Attributes:
        grid: the metric grid; all bounds and lattices are on it.
        bounds_m: west, south, east, north of all files, grid metres.
        gsd_m: size of a pixel on the ground of the finest file, grid metres.

    Raises:
        MapError: a file is missing, no raster, has no CRS or no georeference, or colours by palette.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        crs: str | None = None,
        grid_crs: str | None = None,
        stretch: tuple[float, float] | None = None,
    ) -> None:
        if not paths:
            raise MapError("no map was given", "name one or several rasters")
        self._rasters: list[RasterFile] = []
        try:
            for path in paths:
                self._rasters.append(RasterFile(str(path), crs))
            self.grid = Grid.from_crs(grid_crs) if grid_crs else _choose_grid(self._rasters)
            boxes = np.array([raster.bounds_on(self.grid) for raster in self._rasters])
            self.gsd_m = min(raster.gsd_on(self.grid) for raster in self._rasters)
        except BaseException:
            self.close()
            raise
        lows, highs = boxes.min(axis=0), boxes.max(axis=0)
        self.bounds_m: Bounds = (float(lows[0]), float(lows[1]), float(highs[2]), float(highs[3]))
        self._stretch = stretch

    @cached_property
    def stretch(self) -> tuple[float, float]:
        """Values that become black and white in files that are not eight-bit, from the whole map."""
        if self._stretch is not None:
            return self._stretch
        deep = [raster.thumbnail() for raster in self._rasters if not raster.eight_bit]
        values = np.concatenate(deep) if deep else np.empty(0, np.float32)
        if not values.size:
            return 0.0, 1.0
        low, high = (float(v) for v in np.percentile(values, _STRETCH_PERCENT))
        return low, high if high > low else low + 1.0

    def operations(self) -> dict[str, Any]:
        """How PROJ gets from the files to the grid, and from the grid to WGS84, and how exact that is.

        Returns:
            ``{"map_to_grid": [operation, …], "grid_to_wgs84": operation}``, an operation being
            ``{"from", "to", "description", "accuracy_m", "best_available"}``; ``accuracy_m`` is None when
            PROJ doesn't know, ``best_available`` False when a better one needs a datum grid that is not
            installed.
        """
        area = self._rasters[0].area_deg
        sources = dict.fromkeys(raster.wkt for raster in self._rasters)
        return {
            "map_to_grid": [_operation(wkt, self.grid.wkt, area) for wkt in sources],
            "grid_to_wgs84": _operation(self.grid.wkt, "EPSG:4326", area),
        }

    def read(self, lattice: Lattice, row: int, col: int, height: int, width: int) -> Samples:
        """The window of ``height`` × ``width`` samples of a lattice from ``(row, col)`` on.

        Raises:
            MapError: a file can't be read there.
        """
        colour = np.zeros((height, width, 3), np.float32)
        mask = np.zeros((height, width), np.bool_)
        for raster in self._rasters:
            if mask.all():
                break
            found = raster.read(self.grid, lattice, (row, col, height, width), self.stretch)
            if found is not None:
                new = found.mask & ~mask
                colour[new] = found.colour[new]
                mask |= new
        return Samples(colour, mask)

    def close(self) -> None:
        """Close the files."""
        for raster in self._rasters:
            raster.close()

    def __enter__(self) -> MapSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _choose_grid(rasters: Sequence[RasterFile]) -> Grid:
    """The first file's own grid if it keeps distances, else UTM, else a transverse Mercator of its own."""
    boxes = np.array([raster.area_deg for raster in rasters])
    (west, south), (east, north) = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    lat, lon = np.meshgrid([south, (south + north) / 2, north], [west, (west + east) / 2, east])
    try:
        own = Grid.from_crs(rasters[0].wkt)
    except MapError:
        own = None
    if own is not None and _distance_error(own, lat, lon) < _KEPT_ERROR:
        return own
    middle_lat, middle_lon = float(lat[1, 1]), float(lon[1, 1])
    utm = Grid.from_crs(utm_crs(middle_lat, middle_lon))
    if _distance_error(utm, lat, lon) < _UTM_ERROR:
        return utm
    false_northing_m = 0 if middle_lat >= 0 else 10_000_000
    return Grid.from_crs(
        f"+proj=tmerc +lat_0=0 +lon_0={middle_lon:.4f} +k=1 +x_0=500000 +y_0={false_northing_m} "
        "+datum=WGS84 +units=m +no_defs"
    )


def _distance_error(grid: Grid, lat_deg: Floats, lon_deg: Floats) -> float:
    """The largest relative error of a short distance on a grid, in any direction, over some places."""
    from pyproj import Proj

    factors = Proj(grid.wkt).get_factors(lon_deg, lat_deg)
    # The semi-axes of Tissot's indicatrix: the scale in the worst and in the best direction.
    scales = np.array([factors.tissot_semimajor, factors.tissot_semiminor])
    return float(np.abs(scales - 1.0).max()) if np.isfinite(scales).all() else math.inf


def _operation(source: str, target: str, area_deg: Bounds) -> dict[str, Any]:
    from pyproj import CRS
    from pyproj.transformer import AreaOfInterest, TransformerGroup

    start, end = CRS.from_user_input(source), CRS.from_user_input(target)
    names = {"from": start.name, "to": end.name}
    if start == end:
        return {**names, "description": "none", "accuracy_m": 0.0, "best_available": True}
    with warnings.catch_warnings():  # a missing datum grid is told by best_available
        warnings.simplefilter("ignore", UserWarning)
        group = TransformerGroup(start, end, area_of_interest=AreaOfInterest(*area_deg))
    best = group.transformers[0]
    accuracy_m = float(best.accuracy) if best.accuracy >= 0 else None
    return {
        **names,
        "description": best.description,
        "accuracy_m": accuracy_m,
        "best_available": bool(group.best_available),
    }
