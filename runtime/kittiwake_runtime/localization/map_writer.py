"""Writes a ``.kwmap`` file; a half-written one is never taken for a whole one.

The file grows under another name beside its own and gets its name when it is complete. Descriptors may come
in any order; hashes are taken at the end, from what was written.
"""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.map_format import (
    ALIGNMENT,
    CHUNK_BYTES,
    TILE_ENTRY,
    MapMeta,
    Mask,
    Rgb,
    Section,
    decode_tile,
    encode_header,
    tile_shape,
)

_PICTURE_BYTES_PER_PX = 4
"""More than a JPEG of photographs takes, mask included: it bounds the hashes that the header must hold."""


class MapWriter:
    """A map index being written, a context manager: complete on a normal exit, gone after an exception.

    Args:
        path: the file to make; one of that name is replaced when the new one is complete.
        meta: what it will say about itself.

    Raises:
        MapError: there is no room for it.
        OSError: the folder is missing or can't be written.
    """

    def __init__(self, path: Path, meta: MapMeta) -> None:
        self.path, self.meta = path, meta
        self._valid = np.zeros((meta.rows, meta.cols), np.bool_)
        self._first_tiles = meta.first_tiles()
        self._table = np.zeros(self._first_tiles[-1], TILE_ENTRY)
        lengths = {
            "descriptors": meta.rows * meta.cols * meta.dim,
            "valid": -(-meta.rows * meta.cols // 8),
            "tile_table": self._table.nbytes,
            "tiles": sum(level.width * level.height for level in meta.levels) * _PICTURE_BYTES_PER_PX,
        }
        self._starts = _place(meta, lengths)
        self._tiles_end = self._starts["tiles"]
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._file = self._part.open("w+b")
        try:
            _reserve(self._file.fileno(), self._starts["tiles"], path)
            shape = (meta.rows, meta.cols, meta.dim)
            self._descriptors: npt.NDArray[np.int8] = np.memmap(
                self._file, np.int8, "r+", self._starts["descriptors"], shape
            )
        except BaseException:
            self.abort()
            raise

    def put_cells(self, row: int, col: int, values: npt.NDArray[np.int8], valid: Mask) -> None:
        """Descriptors (h, w, dim) and (h, w) whether they hold, of the cells from (row, col) on."""
        height, width = valid.shape
        self._descriptors[row : row + height, col : col + width] = values
        self._valid[row : row + height, col : col + width] = valid

    def put_tile(self, number: int, row: int, col: int, jpeg: bytes, mask: bytes) -> None:
        """A tile of a level of the pyramid, as `encode_tile` gives it."""
        entry = (self._tiles_end - self._starts["tiles"], len(jpeg), len(mask))
        self._table[self._tile_number(number, row, col)] = entry
        self._file.seek(self._tiles_end)
        self._file.write(jpeg + mask)
        self._tiles_end += len(jpeg) + len(mask)

    def tile(self, number: int, row: int, col: int) -> tuple[Rgb, Mask]:
        """A tile that was put before."""
        offset, jpeg, mask = (int(value) for value in self._table[self._tile_number(number, row, col)])
        self._file.seek(self._starts["tiles"] + offset)
        blob = np.frombuffer(self._file.read(jpeg + mask), np.uint8)
        return decode_tile(blob[:jpeg], blob[jpeg:], tile_shape(self.meta.levels[number], row, col))

    @property
    def valid_cells(self) -> int:
        """How many cells have got a descriptor."""
        return int(self._valid.sum())

    def close(self) -> None:
        """Complete the file and give it its name."""
        for name, content in (("valid", np.packbits(self._valid)), ("tile_table", self._table)):
            self._file.seek(self._starts[name])
            self._file.write(content.tobytes())
        if isinstance(self._descriptors, np.memmap):
            self._descriptors.flush()
        lengths = {
            "descriptors": self._descriptors.nbytes,
            "valid": -(-self._valid.size // 8),
            "tile_table": self._table.nbytes,
            "tiles": self._tiles_end - self._starts["tiles"],
        }
        sections = {
            name: Section(start, lengths[name], self._hashes(start, lengths[name]))
            for name, start in self._starts.items()
        }
        header = encode_header(self.meta, sections, length=self._starts["descriptors"])
        if len(header) > self._starts["descriptors"]:
            raise MapError(f"the pictures of {self.path} are larger than expected", "report this as a defect")
        self._file.seek(0)
        self._file.write(header)
        self._file.truncate(self._tiles_end)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._part, self.path)

    def abort(self) -> None:
        """Remove what was written."""
        self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> MapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()
            return
        try:
            self.close()
        except BaseException:
            self.abort()
            raise

    def _tile_number(self, number: int, row: int, col: int) -> int:
        return self._first_tiles[number] + row * self.meta.levels[number].tiles[1] + col

    def _hashes(self, start: int, length: int) -> tuple[str, ...]:
        self._file.seek(start)
        sizes = (min(CHUNK_BYTES, length - at) for at in range(0, length, CHUNK_BYTES))
        return tuple(hashlib.sha256(self._file.read(size)).hexdigest() for size in sizes)


def _place(meta: MapMeta, lengths: dict[str, int]) -> dict[str, int]:
    """Where each section begins; room for the header is left for as many hashes as may be needed."""
    no_hash = "0" * 64
    largest = {
        name: Section(1 << 48, 1 << 48, (no_hash,) * math.ceil(length / CHUNK_BYTES))
        for name, length in lengths.items()
    }
    at, starts = _aligned(len(encode_header(meta, largest))), {}
    for name, length in lengths.items():
        starts[name] = at
        at = _aligned(at + length)
    return starts


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


def _reserve(descriptor: int, length: int, path: Path) -> None:
    """Take the room now: a full disk is an error here, and a crash where a mapped page is first written."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, length)
        else:
            os.truncate(descriptor, length)
    except OSError as error:
        raise MapError(
            f"there is no room for {path} ({length / 1e6:.0f} MB): {error.strerror}", "free some space"
        ) from error
