"""A map index: a memory-mapped ``.kwmap`` file with a descriptor for every cell and pictures of the ground.

    with MapIndex.open("area.kwmap") as index:
        cells = index.rows_checked(0, 100)          # (100, cols, dim) int8
        picture, seen = index.image(bounds, gsd_m=5.0)

Opening reads the header alone. Every 4 MiB are compared with their hash when they are first used, and all of
them by :meth:`MapIndex.verify`. How such a file is made is in map_build.py, its layout in docs/kwmap.md.
"""

from __future__ import annotations

import hashlib
import mmap
from datetime import datetime, timezone
from functools import cached_property, lru_cache
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.map_format import (
    CHUNK_BYTES,
    REBUILD,
    TILE_ENTRY,
    TILE_PX,
    MapMeta,
    Mask,
    Rgb,
    Section,
    decode_tile,
    read_header,
    tile_shape,
)

Int8 = npt.NDArray[np.int8]
Bounds = tuple[float, float, float, float]

_EARLIEST = datetime(2000, 1, 1, tzinfo=timezone.utc)
"""Times before it are those of a clock that nobody set."""

_YEAR_S = 365.25 * 86_400

_TILES_KEPT = 32
"""Decoded tiles that stay in memory (25 MB): a vehicle looks at the same few again and again."""


class MapIndex:
    """An open map index. Make it with :meth:`open`; it is a context manager.

    Attributes:
        path: the file.
        meta: what the index says about itself.
        header: the header as it stands in the file.
        grid, crs_wkt: the projected grid, metres east and north.
        e0, n0: centre of cell (0, 0), grid metres; cell (r, c) is at (e0 + c cell_m, n0 - r cell_m).
        cell_m, gsd_m, footprint_m: spacing of cells, size of a sample, diameter of what a descriptor sees.
        rows, cols, dim: cells from north to south, from west to east, and length of a descriptor.
        scale: a descriptor is its int8 values times this.
        bundle_sha256: of the model that made it.
        imagery_date: ``YYYY-MM-DD`` or None; source, licence: of the imagery.
        georef_sigma_m: how exact the imagery lies on the ground, one standard deviation per axis.
        bounds_m: west, south, east, north of all cells, grid metres.
    """

    def __init__(self, path: Path, meta: MapMeta, sections: dict[str, Section], header: dict[str, Any]) -> None:
        self.path, self.meta, self.header = path, meta, header
        self.grid, self.crs_wkt = Grid(meta.crs), meta.crs
        self.cell_m, self.gsd_m, self.footprint_m = meta.cell_m, meta.cell_m / 2, meta.footprint_m
        self.e0, self.n0 = meta.west_m + meta.cell_m / 2, meta.north_m - meta.cell_m / 2
        self.rows, self.cols, self.dim, self.scale = meta.rows, meta.cols, meta.dim, meta.scale
        self.bundle_sha256, self.imagery_date = meta.bundle_sha256, meta.imagery_date
        self.source, self.licence, self.georef_sigma_m = meta.source, meta.licence, meta.georef_sigma_m
        self.bounds_m: Bounds = (
            meta.west_m,
            meta.north_m - meta.rows * meta.cell_m,
            meta.west_m + meta.cols * meta.cell_m,
            meta.north_m,
        )
        self._sections = sections
        self._first_tiles = meta.first_tiles()
        with path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes: npt.NDArray[np.uint8] = np.frombuffer(self._mapped, np.uint8)
        self._sound: set[tuple[str, int]] = set()
        self._tile = lru_cache(maxsize=_TILES_KEPT)(self._decode_tile)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> MapIndex:
        """Open a ``.kwmap`` file.

        Raises:
            MapError: it is missing, no map index, of another version, truncated, or its header was altered.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                meta, sections, header = read_header(file, path)
        except OSError as error:
            raise MapError(f"{path}: {error.strerror}", "make it with `kittiwake map build`") from error
        size, expected = path.stat().st_size, header["file_bytes"]
        if size != expected:
            what = "truncated" if size < expected else "longer than it should be"
            raise MapError(f"{path} is {what}: {size} of {expected} bytes", "copy it again, or " + REBUILD)
        return cls(path, meta, sections, header)

    def age_years(self, time_s: float) -> float | None:
        """Years between the imagery and a time, whichever is the later.

        Args:
            time_s: Unix time.

        Returns:
            None when the imagery has no date, or the time lies before the year 2000, as those of a clock do that
            started at zero.
        """
        if self.imagery_date is None or time_s < _EARLIEST.timestamp():
            return None
        taken = datetime.fromisoformat(self.imagery_date).replace(tzinfo=timezone.utc)
        return abs(time_s - taken.timestamp()) / _YEAR_S

    @property
    def descriptors(self) -> Int8:
        """(rows, cols, dim) int8, mapped from the file, not compared with its hashes; zeros without data."""
        section = self._sections["descriptors"]
        raw = self._bytes[section.offset : section.offset + section.length]
        return raw.view(np.int8).reshape(self.rows, self.cols, self.dim)

    @cached_property
    def valid(self) -> Mask:
        """(rows, cols) bool, cells that have a descriptor."""
        bits = np.unpackbits(self._read("valid"), count=self.rows * self.cols)
        return bits.astype(np.bool_).reshape(self.rows, self.cols)

    def rows_checked(self, r0: int, r1: int) -> Int8:
        """(r1 - r0, cols, dim) int8, mapped from the file.

        Raises:
            MapError: the file was altered there.
        """
        return self.cells(r0, r1, 0, self.cols)

    def cells(self, r0: int, r1: int, c0: int, c1: int) -> Int8:
        """(r1 - r0, c1 - c0, dim) int8 of a window of cells, mapped from the file.

        Raises:
            MapError: the file was altered there.
        """
        first = (np.arange(r0, r1) * self.cols + c0) * self.dim
        last = first + max(0, (c1 - c0) * self.dim - 1)
        spans = np.unique(np.stack([first, last], axis=1) // CHUNK_BYTES, axis=0)
        for chunk in sorted({n for start, end in spans for n in range(start, end + 1)}):
            self._check("descriptors", chunk)
        return self.descriptors[r0:r1, c0:c1]

    def let_go(self, r0: int, r1: int) -> None:
        """Rows of descriptors are not needed for a while: they stay in the system's cache, not in this process.

        A search over a large map looks at each row once a frame, and has better use for its memory meanwhile.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        row_bytes, start = self.cols * self.dim, self._sections["descriptors"].offset
        first = (start + r0 * row_bytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self._mapped.madvise(mmap.MADV_DONTNEED, first, start + r1 * row_bytes - first)

    def image(self, bounds_m: Bounds, gsd_m: float) -> tuple[Rgb, Mask]:
        """The ground in a window.

        Args:
            bounds_m: west, south, east, north, grid metres; may reach beyond the map.
            gsd_m: size of a pixel, metres.

        Returns:
            (H, W, 3) uint8 RGB, north up, and (H, W) bool where the map has data.

        Raises:
            MapError: the window is empty, or the file was altered there.
        """
        west, south, east, north = bounds_m
        width, height = round((east - west) / gsd_m), round((north - south) / gsd_m)
        if width < 1 or height < 1:
            raise MapError(f"a window of {width} × {height} pixels is empty", "give west, south, east, north")
        number = max((n for n, level in enumerate(self.meta.levels) if level.gsd_m <= gsd_m * 1.001), default=0)
        level = self.meta.levels[number]
        ratio = gsd_m / level.gsd_m
        # Pixel (0, 0) of the answer, in pixels of the level; two more on each side for the interpolation.
        x0 = (west - self.meta.west_m) / level.gsd_m + ratio / 2 - 0.5
        y0 = (self.meta.north_m - north) / level.gsd_m + ratio / 2 - 0.5
        left, top = int(np.floor(x0)) - 2, int(np.floor(y0)) - 2
        size = (int(np.ceil(height * ratio)) + 5, int(np.ceil(width * ratio)) + 5)
        rgb, seen = self._region(number, top, left, *size)
        weight = seen.astype(np.float32)
        layers = np.dstack([rgb.astype(np.float32) * weight[..., None], weight])
        if ratio > 1.05:  # what the coarser pixels can't show must not alias in them
            layers = cv2.GaussianBlur(layers, (0, 0), 0.5 * np.sqrt(ratio**2 - 1))
        to_level = np.array([[ratio, 0, x0 - left], [0, ratio, y0 - top]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        layers = cv2.warpAffine(layers, to_level, (width, height), flags=flags)
        mask = np.asarray(layers[..., 3] >= 0.5)
        colour = np.rint(layers[..., :3] / np.maximum(layers[..., 3:], 0.5))
        return np.where(mask[..., None], colour, 0).astype(np.uint8), mask

    def overview(self, max_px: int = 1024) -> Rgb:
        """(H, W, 3) uint8 RGB of the whole map, its longer side at most ``max_px``; black without data."""
        finest = max(self.rows, self.cols) * self.cell_m / max_px
        return self.image(self.bounds_m, max(finest, self.meta.levels[0].gsd_m))[0]

    def verify(self) -> None:
        """Compare every byte of the file with its hash.

        Raises:
            MapError: naming all parts that were altered.
        """
        damaged = []
        for name, section in self._sections.items():
            for chunk in range(len(section.sha256)):
                if not self._is_sound(name, chunk):
                    start = section.offset + chunk * CHUNK_BYTES
                    damaged.append(f"{name} at byte {start}")
        if damaged:
            raise MapError(f"{self.path} was altered: {', '.join(damaged)}", "copy it again, or " + REBUILD)

    def close(self) -> None:
        """Let go of the file; arrays that were handed out keep it mapped."""
        self._tile.cache_clear()
        self._bytes = np.empty(0, np.uint8)

    def __enter__(self) -> MapIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _region(self, number: int, top: int, left: int, height: int, width: int) -> tuple[Rgb, Mask]:
        """Pixels of a level; black and unseen beyond it."""
        level = self.meta.levels[number]
        rgb, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.bool_)
        bottom, right = min(top + height, level.height), min(left + width, level.width)
        if bottom <= top or right <= left:  # it begins beyond the map
            return rgb, mask
        for row in range(max(top, 0) // TILE_PX, -(-bottom // TILE_PX)):
            for col in range(max(left, 0) // TILE_PX, -(-right // TILE_PX)):
                tile, seen = self._tile(number, row, col)
                y, x = row * TILE_PX, col * TILE_PX
                y0, y1 = max(y, top), min(y + tile.shape[0], bottom)
                x0, x1 = max(x, left), min(x + tile.shape[1], right)
                into = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
                rgb[into] = tile[y0 - y : y1 - y, x0 - x : x1 - x]
                mask[into] = seen[y0 - y : y1 - y, x0 - x : x1 - x]
        return rgb, mask

    def _decode_tile(self, number: int, row: int, col: int) -> tuple[Rgb, Mask]:
        level = self.meta.levels[number]
        at = self._first_tiles[number] + row * level.tiles[1] + col
        entry_bytes = self._read("tile_table", at * TILE_ENTRY.itemsize, (at + 1) * TILE_ENTRY.itemsize)
        entry = entry_bytes.view(TILE_ENTRY)[0]
        start, jpeg, mask = (int(entry[name]) for name in ("offset", "jpeg_bytes", "mask_bytes"))
        blob = self._read("tiles", start, start + jpeg + mask)
        return decode_tile(blob[:jpeg], blob[jpeg:], tile_shape(level, row, col))

    def _read(self, name: str, start: int = 0, stop: int | None = None) -> npt.NDArray[np.uint8]:
        """Bytes of a section, compared with their hashes."""
        section = self._sections[name]
        stop = section.length if stop is None else stop
        for chunk in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
            self._check(name, chunk)
        return np.asarray(self._bytes[section.offset + start : section.offset + stop])

    def _check(self, name: str, chunk: int) -> None:
        if (name, chunk) not in self._sound:
            if not self._is_sound(name, chunk):
                start = self._sections[name].offset + chunk * CHUNK_BYTES
                raise MapError(
                    f"{self.path} was altered: {name} at byte {start}",
                    f"copy it again, or {REBUILD}; `kittiwake map verify` checks all of it",
                )
            self._sound.add((name, chunk))

    def _is_sound(self, name: str, chunk: int) -> bool:
        section = self._sections[name]
        start = section.offset + chunk * CHUNK_BYTES
        stop = min(start + CHUNK_BYTES, section.offset + section.length)
        return hashlib.sha256(self._bytes[start:stop].data).hexdigest() == section.sha256[chunk]
