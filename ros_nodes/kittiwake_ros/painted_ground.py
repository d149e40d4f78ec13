"""The procedural world for a camera that moves: tiles are painted once, ahead of the vehicle, and then only read."""

from __future__ import annotations

import math
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from kittiwake_runtime.localization.world import Bounds, Season, World

Rgb8 = npt.NDArray[np.uint8]
_Key = tuple[int, int, float, Season, int]

TILE_PX = 256
_TILES_KEPT = 96  # 19 MB
_FINER = math.sqrt(2)


class PaintedGround(World):
    """A `World` that keeps what it has painted: :func:`simulate.photograph` takes a tenth of its time on it.

    A view is read from tiles of a ground sample up to 1.4 times finer, so it differs from `World.render` by less than
    a camera's noise. Neighbours of what was asked for are painted by one thread in the background. Use it as a context
    manager, so that the thread ends.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        # The dataclass is frozen; what is kept is no part of which world it is.
        object.__setattr__(self, "_tiles", OrderedDict())
        object.__setattr__(self, "_painter", ThreadPoolExecutor(1, "painter"))

    _tiles: OrderedDict[_Key, Future[Rgb8]]
    _painter: ThreadPoolExecutor

    def __enter__(self) -> PaintedGround:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop painting."""
        self._painter.shutdown(wait=True, cancel_futures=True)

    def render(
        self, bounds: Bounds, gsd_m: float, season: Season, date_seed: int = 0, *, threads: int | None = None
    ) -> Rgb8:
        """As `World.render`."""
        sample_m = _FINER ** math.floor(math.log(gsd_m, _FINER))
        tile_m = TILE_PX * sample_m
        columns = range(math.floor(bounds[0] / tile_m), math.floor(bounds[2] / tile_m) + 1)
        rows = range(math.floor(bounds[1] / tile_m), math.floor(bounds[3] / tile_m) + 1)
        wanted = [[self._tile((c, r, sample_m, season, date_seed)) for c in columns] for r in reversed(rows)]
        for c in range(columns.start - 1, columns.stop + 1):
            for r in range(rows.start - 1, rows.stop + 1):
                self._tile((c, r, sample_m, season, date_seed))
        while len(self._tiles) > _TILES_KEPT:
            self._tiles.popitem(last=False)
        mosaic = np.vstack([np.hstack([tile.result() for tile in row]) for row in wanted])
        return self._read(mosaic, columns.start * tile_m, rows.stop * tile_m, sample_m, bounds, gsd_m)

    def _tile(self, key: _Key) -> Future[Rgb8]:
        if key in self._tiles:
            self._tiles.move_to_end(key)
        else:
            self._tiles[key] = self._painter.submit(self._paint, key)
        return self._tiles[key]

    def _paint(self, key: _Key) -> Rgb8:
        column, row, sample_m, season, date_seed = key
        tile_m = TILE_PX * sample_m
        bounds = (column * tile_m, row * tile_m, (column + 1) * tile_m, (row + 1) * tile_m)
        return super().render(bounds, sample_m, season, date_seed, threads=1)

    @staticmethod
    def _read(mosaic: Rgb8, west: float, north: float, sample_m: float, bounds: Bounds, gsd_m: float) -> Rgb8:
        """The bounds at their ground sample from a mosaic whose upper left corner is given."""
        scale = gsd_m / sample_m
        size = (max(round((bounds[2] - bounds[0]) / gsd_m), 1), max(round((bounds[3] - bounds[1]) / gsd_m), 1))
        # Pixel centres are whole numbers on both sides: the centre of the first lies half a sample from the corner.
        at = [(bounds[0] - west) / sample_m + 0.5 * scale - 0.5, (north - bounds[3]) / sample_m + 0.5 * scale - 0.5]
        matrix = np.array([[scale, 0.0, at[0]], [0.0, scale, at[1]]])
        flags: Any = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(mosaic, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)
