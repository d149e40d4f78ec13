"""The work on one tile of a map: read it, describe its cells, cut its pictures.

A tile needs nothing but its `Job`, so it may be done in any process on any machine that sees the same files.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.descriptor import in_colours
from kittiwake_runtime.localization.footprint import DISC_PX, STRIDE_PX, disc_mask
from kittiwake_runtime.localization.map_format import TILE_PX, MapMeta, Mask, encode_tile, tile_shape
from kittiwake_runtime.localization.raster import Lattice, MapSource

Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]

SCALE = 1.0 / 127.0
"""What an int8 step of a descriptor is worth: of a unit vector no value saturates, each is off by half a step
at most, and so a score of two unit vectors by sqrt(D) / 254 (0.027 at D = 48; 0.0023 is typical)."""

MIN_SEEN_SHARE = 0.7
"""Of its disc, for a cell to get a descriptor."""

_MARGIN_PX = 32
"""Samples read beyond the outermost cell's centre: the network's 31, made even to keep its stride in step."""
_MARGIN_CELLS = (_MARGIN_PX - DISC_PX // 2) // STRIDE_PX
"""Cells beyond the tile that the network gives for the margin; their contrast lacks its surroundings."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs for any tile of a map, small enough to travel with each.

    Args:
        paths, crs, stretch: of the `MapSource`; grid_wkt: its grid.
        bundle_root: folder of the model.
        meta: the map index that is being built.
        threads: for the network; None takes all cores.
    """

    paths: tuple[str, ...]
    crs: str | None
    grid_wkt: str
    stretch: tuple[float, float]
    bundle_root: str
    meta: MapMeta
    threads: int | None


def describe_cells(job: Job, r0: int, r1: int, c0: int, c1: int) -> tuple[Int8, Mask]:
    """(r1 - r0, c1 - c0, D) int8 descriptors of a window of cells, and (r1 - r0, c1 - c0) which hold."""
    state, meta = _state(job), job.meta
    gsd_m = meta.cell_m / STRIDE_PX
    # Sample (2r + margin, 2c + margin) of this lattice is the centre of cell (r, c).
    corner = (_MARGIN_PX + 0.5) * gsd_m
    size = [STRIDE_PX * (count - 1) + 1 + 2 * _MARGIN_PX for count in (meta.rows, meta.cols)]
    west, north = meta.west_m + meta.cell_m / 2 - corner, meta.north_m - meta.cell_m / 2 + corner
    lattice = Lattice(west, north, gsd_m, width=size[1], height=size[0])
    height, width = (STRIDE_PX * (count - 1) + 1 + 2 * _MARGIN_PX for count in (r1 - r0, c1 - c0))
    samples = state.rasters.read(lattice, STRIDE_PX * r0, STRIDE_PX * c0, height, width)
    valid = _seen_enough(samples.mask)
    if not valid.any():
        return np.zeros((r1 - r0, c1 - c0, meta.dim), np.int8), valid
    layers = in_colours(samples.colour, state.descriptor.colours)
    view = np.concatenate([layers, samples.mask[..., None]], axis=2, dtype=np.float32).transpose(2, 0, 1)
    dense = state.descriptor.describe(np.ascontiguousarray(view[None]))[0]
    inside = dense[:, _MARGIN_CELLS : _MARGIN_CELLS + r1 - r0, _MARGIN_CELLS : _MARGIN_CELLS + c1 - c0]
    values = np.moveaxis(inside, 0, -1)
    if not np.isfinite(values[valid]).all():
        raise MapError(f"the model {meta.bundle_name} gives NaN on this map", "check it: kittiwake bundle verify")
    return np.where(valid[..., None], quantize(values), np.int8(0)), valid


def cut_picture(job: Job, row: int, col: int) -> tuple[bytes, bytes]:
    """A tile of the finest level of the pyramid, as `encode_tile` gives it."""
    level = job.meta.levels[0]
    lattice = Lattice(job.meta.west_m, job.meta.north_m, level.gsd_m, level.width, level.height)
    window = (row * TILE_PX, col * TILE_PX, *tile_shape(level, row, col))
    samples = _state(job).rasters.read(lattice, *window)
    return encode_tile(samples.rgb, samples.mask)


def _seen_enough(mask: Mask) -> Mask:
    """(h, w) cells of a (2h + 63, 2w + 63) mask, with a margin around, that see enough of their disc."""
    disc = disc_mask(DISC_PX).astype(np.float32)
    count = cv2.filter2D(mask.astype(np.float32), -1, disc, borderType=cv2.BORDER_CONSTANT)
    at_cells = count[_MARGIN_PX:-_MARGIN_PX:STRIDE_PX, _MARGIN_PX:-_MARGIN_PX:STRIDE_PX]
    # Counts are whole numbers, but a large filter goes through a Fourier transform.
    return np.asarray(np.rint(at_cells) >= MIN_SEEN_SHARE * disc.sum())


def quantize(descriptors: Float32) -> Int8:
    """Unit vectors to int8, in steps of `SCALE`; any shape."""
    steps = np.rint(np.clip(descriptors, -1.0, 1.0) * np.float32(127.0))
    return np.asarray(steps, np.int8)


class _State:
    """What a worker keeps open between the tiles of one job."""

    def __init__(self, job: Job) -> None:
        from kittiwake_runtime.bundle import Bundle
        from kittiwake_runtime.engines.select import open_engine
        from kittiwake_runtime.localization.descriptor import Descriptor

        self.rasters = MapSource(job.paths, crs=job.crs, grid_crs=job.grid_wkt, stretch=job.stretch)
        self.engine = open_engine(Bundle.open(job.bundle_root), threads=job.threads)
        self.descriptor = Descriptor(self.engine)

    def close(self) -> None:
        self.rasters.close()
        self.engine.close()


_LOCAL = threading.local()
"""`job` and `state` of this thread: files of GDAL must not be shared between threads."""


def _state(job: Job) -> _State:
    if getattr(_LOCAL, "job", None) != job:
        close_state()
        _LOCAL.state = _State(job)
        _LOCAL.job = job
    state: _State = _LOCAL.state
    return state


def close_state() -> None:
    """Let go of the files and the engine that this thread keeps open between tiles."""
    if getattr(_LOCAL, "job", None) is not None:
        _LOCAL.state.close()
        _LOCAL.job = _LOCAL.state = None
