"""One raster file: its CRS, its bands, and its samples on a metric grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.frames import Grid

if TYPE_CHECKING:
    from pyproj import Transformer

Floats = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Bounds = tuple[float, float, float, float]
Window = tuple[int, int, int, int]

_NODE_STEP = 16
"""Samples between the nodes at which PROJ is asked; between them its answer is interpolated. Over 16 samples
of a few metres a map projection is straight to well below a millimetre."""

_THUMBNAIL_PX = 512


@dataclass(frozen=True)
class Lattice:
    """Square samples of a metric grid, north up.

    Args:
        west_m, north_m: outer corner of the first sample, grid metres; its centre is half
            a sample further in.
        gsd_m: size of a sample, grid metres.
        width, height: samples.
    """

    west_m: float
    north_m: float
    gsd_m: float
    width: int
    height: int


@dataclass(frozen=True)
class Samples:
    """A window of a map.

    Attributes:
        colour: (H, W, 3) float32, red, green, blue in [0, 1]; 0 where the map has no data.
        mask: (H, W) bool, where it has.
    """

    colour: Float32
    mask: npt.NDArray[np.bool_]

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return np.asarray(np.rint(self.colour * 255.0), np.uint8)


class RasterFile:
    """An open raster.

    Args:
        path: the file, or a name that GDAL knows.
        crs: what to take as its CRS when it has none.

    Attributes:
        wkt: its CRS, two-dimensional.
        eight_bit: whether its values are taken as they are, 0 to 255.

    Raises:
        MapError: it is missing, no raster, has no CRS or no georeference, or colours by palette.
    """

    def __init__(self, path: str, crs: str | None) -> None:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError

        self.path = path
        if "://" not in path and not path.startswith("/vsi") and not Path(path).exists():
            raise MapError(f"there is no file {path}", "check the path of the map")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                self._file = rasterio.open(path)
        except (RasterioError, OSError) as error:
            raise MapError(
                f"{path} is not a raster that can be read: {error}",
                "give a GeoTIFF or another format of GDAL",
            ) from error
        try:
            self.wkt = self._find_crs(crs)
            self._bands = self._find_bands()
        except MapError:
            self.close()
            raise
        self.eight_bit = all(self._file.dtypes[band - 1] == "uint8" for band in self._bands)
        self._to_file: dict[str, Transformer] = {}

    def _find_crs(self, crs: str | None) -> str:
        from pyproj import CRS
        from pyproj.exceptions import CRSError

        if self._file.transform.is_identity:
            raise MapError(
                f"{self.path} is not georeferenced: its pixels have no place on the ground",
                "give it one with gdal_translate -a_ullr, or warp its ground control points with gdalwarp",
            )
        if self._file.crs is None and crs is None:
            raise MapError(
                f"{self.path} has no coordinate reference system",
                "name it with --crs EPSG:nnnn, or write it into the file with gdal_edit.py -a_srs EPSG:nnnn",
            )
        try:
            parsed = CRS.from_user_input(crs if self._file.crs is None else self._file.crs).to_2d()
            # EPSG's own definition has an area of use, by which PROJ chooses between datum operations.
            epsg = parsed.to_epsg(min_confidence=100)
            return (parsed if epsg is None else CRS.from_epsg(epsg).to_2d()).to_wkt()
        except CRSError as error:
            raise MapError(f"the CRS of {self.path} can't be read: {error}", "give WKT or EPSG:nnnn") from error

    def _find_bands(self) -> tuple[int, ...]:
        from rasterio.enums import ColorInterp

        if not self._file.count:
            raise MapError(f"{self.path} has no band of its own", "name one of its subdatasets, see gdalinfo")
        if any(dtype.startswith("complex") for dtype in self._file.dtypes):
            raise MapError(f"{self.path} has complex values", "compute amplitudes first")
        kinds = self._file.colorinterp
        if kinds[0] == ColorInterp.palette:
            raise MapError(f"{self.path} has colours by palette", "expand them: gdal_translate -expand rgb IN OUT")
        bands = colour_bands(kinds)
        return bands[:3] if len(bands) >= 3 else bands[:1]

    def bounds_on(self, grid: Grid) -> Bounds:
        """West, south, east, north on a grid, metres."""
        easting, northing = self._transformer(grid).transform(*self._perimeter())
        return self._box(easting, northing)

    def gsd_on(self, grid: Grid) -> float:
        """Size of its middle pixel on a grid, metres (the geometric mean of both sides)."""
        col, row = self._file.width / 2, self._file.height / 2
        pixels = self._ground(np.array([col, col + 1, col]), np.array([row, row, row + 1]))
        x, y = self._transformer(grid).transform(*pixels)
        return float(math.sqrt(math.hypot(x[1] - x[0], y[1] - y[0]) * math.hypot(x[2] - x[0], y[2] - y[0])))

    @cached_property
    def area_deg(self) -> Bounds:
        """West, south, east, north in degrees of WGS84."""
        from pyproj import Transformer

        x, y = self._perimeter()
        lon, lat = Transformer.from_crs(self.wkt, "EPSG:4326", always_xy=True).transform(x, y)
        # PROJ takes a latitude in degrees as it is, however large.
        return self._box(lon, np.where(np.abs(lat) <= 90.0, lat, np.nan))

    def thumbnail(self) -> Float32:
        """(N,) values of the bands that are used, thinned to 512 pixels a side, in the file's units."""
        scale = max(1.0, max(self._file.width, self._file.height) / _THUMBNAIL_PX)
        shape = (max(1, int(self._file.height / scale)), max(1, int(self._file.width / scale)))
        values, seen = self._read_file((0, 0, self._file.height, self._file.width), shape, average=False)
        return values[seen > 0.5].ravel()

    def read(self, grid: Grid, lattice: Lattice, window: Window, stretch: tuple[float, float]) -> Samples | None:
        """A window (row, col, height, width) of a lattice on a grid; None if it lies outside of the file.

        Args:
            stretch: the values that become 0 and 1; an eight-bit file needs none.
        """
        factor = max(1, round(lattice.gsd_m / self.gsd_on(grid)))
        file_row, file_col = self._where(grid, lattice, window)
        # Pixel centres of the averaged file are whole numbers; a 32nd is what cv2.remap resolves, and
        # rounding to it here makes a sample independent of the window that it is read in.
        rows = np.rint((file_row / factor - 0.5) * 32) / 32
        cols = np.rint((file_col / factor - 0.5) * 32) / 32
        # Samples beyond the projection's horizon are infinite: they are left out of the window, and unseen.
        seen = (rows > -1) & (rows < self._file.height // factor) & np.isfinite(cols)
        seen &= (cols > -1) & (cols < self._file.width // factor)
        if not seen.any():
            return None
        top, left = (max(0, int(np.floor(v[seen].min()))) for v in (rows, cols))
        bottom = min(self._file.height // factor, int(np.floor(rows[seen].max())) + 2)
        right = min(self._file.width // factor, int(np.floor(cols[seen].max())) + 2)
        box = (top * factor, left * factor, (bottom - top) * factor, (right - left) * factor)
        values, weight = self._read_file(box, (bottom - top, right - left), average=True)
        low, high = (0.0, 255.0) if self.eight_bit else stretch
        values = np.clip((values - low) / (high - low), 0.0, 1.0)
        x, y = ((np.where(seen, v, -9.0) - first).astype(np.float32) for v, first in ((cols, left), (rows, top)))
        total = cv2.remap(weight, x, y, cv2.INTER_LINEAR)
        colour = cv2.remap(values * weight[..., None], x, y, cv2.INTER_LINEAR).reshape(*total.shape, -1)
        mask = total >= 0.5
        colour = np.where(mask[..., None], colour / np.maximum(total, 0.5)[..., None], 0.0)
        return Samples(np.broadcast_to(colour, (*mask.shape, 3)).astype(np.float32), mask)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read_file(self, box: Window, shape: tuple[int, int], *, average: bool) -> tuple[Float32, Float32]:
        """A window (row, col, height, width) of the file: (H, W, bands) values, 0 where unseen, and (H, W)
        shares in [0, 1] of each pixel that were seen. GDAL uses the file's overviews where they help."""
        from rasterio.enums import Resampling
        from rasterio.errors import RasterioError
        from rasterio.windows import Window as FileWindow

        row, col, height, width = box
        window = FileWindow(col, row, width, height)
        how = Resampling.average if average and shape != (height, width) else Resampling.nearest
        try:
            raw = self._file.read(self._bands, window=window, out_shape=(len(self._bands), *shape), resampling=how)
            seen = self._file.dataset_mask(window=window, out_shape=shape, resampling=how)
        except (RasterioError, OSError) as error:
            raise MapError(
                f"{self.path} can't be read at row {row}, column {col}: {error.__cause__ or error}",
                "the file is truncated or damaged; fetch it again",
            ) from error
        values = np.moveaxis(raw, 0, -1).astype(np.float32)
        weight = seen.astype(np.float32) / 255.0
        finite = np.isfinite(values).all(axis=-1)
        weight[~finite] = 0.0
        values[weight == 0.0] = 0.0
        return values, weight

    def _where(self, grid: Grid, lattice: Lattice, window: Window) -> tuple[Floats, Floats]:
        """Row and column in the file, in pixels from its outer corner, of every sample of a window."""
        row, col, height, width = window
        # The nodes stand at the same places whatever the window, so that neighbours agree to the last bit.
        node_rows = np.arange(row // _NODE_STEP, (row + height - 1) // _NODE_STEP + 2) * _NODE_STEP
        node_cols = np.arange(col // _NODE_STEP, (col + width - 1) // _NODE_STEP + 2) * _NODE_STEP
        easting = lattice.west_m + (node_cols + 0.5) * lattice.gsd_m
        northing = lattice.north_m - (node_rows + 0.5) * lattice.gsd_m
        east_of, north_of = np.meshgrid(easting, northing)
        x, y = self._transformer(grid).transform(east_of, north_of, direction="INVERSE")
        inverse = ~self._file.transform
        x, y = np.where(np.isfinite(x), x, np.nan), np.where(np.isfinite(y), y, np.nan)
        nodes = (inverse.d * x + inverse.e * y + inverse.f, inverse.a * x + inverse.b * y + inverse.c)
        rows, cols = np.arange(row, row + height), np.arange(col, col + width)
        return _between(nodes[0], node_rows[0], node_cols[0], rows, cols), _between(
            nodes[1], node_rows[0], node_cols[0], rows, cols
        )

    def _box(self, x: Floats, y: Floats) -> Bounds:
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise MapError(
                f"the corners of {self.path} are outside of its coordinate reference system",
                "its CRS or its georeference is wrong; look at gdalinfo",
            )
        return float(np.min(x)), float(np.min(y)), float(np.max(x)), float(np.max(y))

    def _perimeter(self) -> tuple[Floats, Floats]:
        """Points all along the border of the file, in its CRS: the sides of a warped map are curved."""
        t = np.linspace(0.0, 1.0, 22)[:-1]
        cols = np.concatenate([t, np.ones_like(t), 1 - t, np.zeros_like(t)]) * self._file.width
        rows = np.concatenate([np.zeros_like(t), t, np.ones_like(t), 1 - t]) * self._file.height
        return self._ground(cols, rows)

    def _ground(self, col: Floats, row: Floats) -> tuple[Floats, Floats]:
        """Pixels from the outer corner to the file's CRS."""
        a = self._file.transform
        return a.a * col + a.b * row + a.c, a.d * col + a.e * row + a.f

    def _transformer(self, grid: Grid) -> Transformer:
        """From the file's CRS to a grid."""
        from pyproj import Transformer
        from pyproj.transformer import AreaOfInterest

        if grid.wkt not in self._to_file:
            self._to_file[grid.wkt] = Transformer.from_crs(
                self.wkt, grid.wkt, always_xy=True, area_of_interest=AreaOfInterest(*self.area_deg)
            )
        return self._to_file[grid.wkt]


def colour_bands(kinds: Sequence[Any]) -> tuple[int, ...]:
    """Numbers of the bands that show the ground: red, green and blue first where they are named, and no alpha.

    Args:
        kinds: rasterio's ``ColorInterp`` of each band.
    """
    from rasterio.enums import ColorInterp

    named = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    first = [kinds.index(kind) + 1 for kind in named] if all(kind in kinds for kind in named) else []
    others = [band for band, kind in enumerate(kinds, 1) if band not in first and kind != ColorInterp.alpha]
    return (*first, *others)


def _between(nodes: Floats, row0: int, col0: int, rows: npt.ArrayLike, cols: npt.ArrayLike) -> Floats:
    """Bilinear interpolation at all pairs of rows and columns, from nodes at every `_NODE_STEP` of them."""
    r, c = (np.asarray(rows) - row0) / _NODE_STEP, (np.asarray(cols) - col0) / _NODE_STEP
    i, j = r.astype(int), c.astype(int)
    u, v = (r - i)[:, None], (c - j)[None, :]
    across = nodes[:, j] * (1 - v) + nodes[:, j + 1] * v
    return np.asarray(across[i] * (1 - u) + across[i + 1] * u)
