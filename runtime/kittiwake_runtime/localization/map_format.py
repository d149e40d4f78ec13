"""The layout of a ``.kwmap`` file (docs/kwmap.md): what its header says, and how pictures are kept in it."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
import numpy.typing as npt

from kittiwake_runtime.errors import BundleError, MapError
from kittiwake_runtime.fields import Fields

MAGIC = b"KWMAP\r\n\x1a"
"""The last three bytes don't survive a transfer as text."""
VERSION = 1
PREAMBLE = struct.Struct("<8sII")
ALIGNMENT = 4096
CHUNK_BYTES = 4 << 20
TILE_PX = 512
JPEG_QUALITY = 75
SECTIONS = ("descriptors", "valid", "tile_table", "tiles")
TILE_ENTRY = np.dtype([("offset", "<u8"), ("jpeg_bytes", "<u4"), ("mask_bytes", "<u4")])

REBUILD = "build it again with `kittiwake map build`"

Rgb = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Level:
    """One level of the pyramid of pictures; its north-west corner is that of the first cell.

    Args:
        gsd_m: size of a pixel, metres of the grid.
        width, height: pixels.
    """

    gsd_m: float
    width: int
    height: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles."""
        return -(-self.height // TILE_PX), -(-self.width // TILE_PX)


@dataclass(frozen=True)
class MapMeta:
    """What a map index says about itself.

    Args:
        crs: the grid as WKT2, axes east and north, metres.
        west_m, north_m: outer north-west corner of the first cell, grid metres.
        rows, cols: cells, from the north and from the west.
        dim: length of a descriptor.
        cell_m: distance between neighbouring cells.
        footprint_m: diameter of the disc that a descriptor sees.
        scale: a descriptor is its int8 values times this.
        bundle_name, bundle_sha256: the model that made it.
        imagery_date: day of the imagery, ``YYYY-MM-DD``; None when unknown.
        imagery_gsd_m: size of a pixel of the rasters.
        source, licence: of the imagery; may be empty.
        georef_sigma_m: standard deviation of the imagery's place on the ground, per axis.
        proj: PROJ's operations, as `MapSource.operations` gives them.
        files: names of the rasters.
        levels: the pyramid, finest first.
    """

    crs: str
    west_m: float
    north_m: float
    rows: int
    cols: int
    dim: int
    cell_m: float
    footprint_m: float
    scale: float
    bundle_name: str
    bundle_sha256: str
    imagery_date: str | None
    imagery_gsd_m: float
    source: str
    licence: str
    georef_sigma_m: float
    proj: dict[str, Any]
    files: tuple[str, ...]
    levels: tuple[Level, ...]

    def first_tiles(self) -> list[int]:
        """Where each level begins in the tile table, and at the end the length of the table."""
        counts = [level.tiles[0] * level.tiles[1] for level in self.levels]
        return [sum(counts[:n]) for n in range(len(counts) + 1)]


@dataclass(frozen=True)
class Section:
    """A part of the file: its place, and the sha256 of every 4 MiB of it."""

    offset: int
    length: int
    sha256: tuple[str, ...]


def make_levels(rows: int, cols: int, cell_m: float, gsd_m: float) -> tuple[Level, ...]:
    """The pyramid over rows × cols cells: from ``gsd_m`` a pixel, halved until one tile holds all."""
    width, height = round(cols * cell_m / gsd_m), round(rows * cell_m / gsd_m)
    levels = [Level(gsd_m, width, height)]
    while max(width, height) > TILE_PX:
        width, height, gsd_m = (width + 1) // 2, (height + 1) // 2, 2 * gsd_m
        levels.append(Level(gsd_m, width, height))
    return tuple(levels)


def encode_header(meta: MapMeta, sections: dict[str, Section], length: int = 0) -> bytes:
    """The file's first bytes, up to the end of the header's hash, filled with spaces to ``length``."""
    value = {
        "affine": [meta.cell_m, 0.0, meta.west_m, 0.0, -meta.cell_m, meta.north_m],
        "dtype": "int8",
        "bundle": {"name": meta.bundle_name, "sha256": meta.bundle_sha256},
        "pyramid": {"tile_px": TILE_PX, "levels": [asdict(level) for level in meta.levels]},
        "sections": {name: asdict(section) for name, section in sections.items()},
        "chunk_bytes": CHUNK_BYTES,
        "file_bytes": sections["tiles"].offset + sections["tiles"].length,
    }
    same = ("crs", "rows", "cols", "dim", "cell_m", "footprint_m", "scale", "imagery_date",
            "imagery_gsd_m", "source", "licence", "georef_sigma_m", "proj", "files")  # fmt: skip
    value.update({name: getattr(meta, name) for name in same})
    text = json.dumps(value, sort_keys=True).encode()
    text = text.ljust(length - PREAMBLE.size - hashlib.sha256().digest_size)
    start = PREAMBLE.pack(MAGIC, VERSION, len(text)) + text
    return start + hashlib.sha256(start).digest()


def read_header(file: BinaryIO, path: Path) -> tuple[MapMeta, dict[str, Section], dict[str, Any]]:
    """The header of an open file, its sections, and the header as it stands.

    Raises:
        MapError: it is no map index, of another version, truncated or altered.
    """
    start = file.read(PREAMBLE.size)
    if not start.startswith(MAGIC):
        raise MapError(f"{path} is no map index (.kwmap)", "make one from a map with `kittiwake map build`")
    if len(start) < PREAMBLE.size:
        raise MapError(f"{path} is truncated: it ends in its first bytes", "copy it again, or " + REBUILD)
    _, version, length = PREAMBLE.unpack(start)
    if version != VERSION:
        raise MapError(f"{path} has format version {version}, this program reads {VERSION}", REBUILD)
    text, digest = file.read(length), file.read(hashlib.sha256().digest_size)
    if len(text) < length or len(digest) < hashlib.sha256().digest_size:
        raise MapError(f"{path} is truncated: it ends in its header", "copy it again, or " + REBUILD)
    if hashlib.sha256(start + text).digest() != digest:
        raise MapError(f"the header of {path} was altered: its hash is wrong", "copy it again, or " + REBUILD)
    try:
        value = json.loads(text)
        return *_parse(Fields(value, path)), value
    except BundleError as error:
        raise MapError(error.message, REBUILD) from error
    except ValueError as error:
        raise MapError(f"the header of {path} is not JSON: {error}", REBUILD) from error


def _parse(fields: Fields) -> tuple[MapMeta, dict[str, Section]]:
    affine = fields.items("affine")
    cell_m = fields.number("cell_m", least=1e-3)
    if len(affine) != 6 or [affine[0], affine[1], affine[3], affine[4]] != [cell_m, 0, 0, -cell_m]:
        raise fields.error("affine", "[cell_m, 0, west, 0, -cell_m, north]", affine)
    if fields.text("dtype") != "int8":
        raise fields.error("dtype", "'int8'", fields.text("dtype"))
    for name, known in (("chunk_bytes", CHUNK_BYTES), ("tile_px", TILE_PX)):
        holder = fields.section("pyramid") if name == "tile_px" else fields
        if holder.integer(name) != known:
            raise holder.error(name, str(known), holder.integer(name))
    bundle, imagery_date = fields.section("bundle"), fields.value.get("imagery_date")
    meta = MapMeta(
        crs=fields.text("crs"),
        west_m=float(affine[2]),
        north_m=float(affine[5]),
        rows=fields.integer("rows", least=1),
        cols=fields.integer("cols", least=1),
        dim=fields.integer("dim", least=1),
        cell_m=cell_m,
        footprint_m=fields.number("footprint_m", least=1e-3),
        scale=fields.number("scale", least=1e-9),
        bundle_name=bundle.text("name"),
        bundle_sha256=bundle.text("sha256"),
        imagery_date=None if imagery_date is None else check_date(imagery_date),
        imagery_gsd_m=fields.number("imagery_gsd_m", least=1e-3) if "imagery_gsd_m" in fields else cell_m / 2,
        source=fields.text("source", empty=True),
        licence=fields.text("licence", empty=True),
        georef_sigma_m=fields.number("georef_sigma_m", least=0.0),
        proj=fields.mapping("proj"),
        files=tuple(str(name) for name in fields.items("files")),
        levels=tuple(
            Level(level.number("gsd_m", least=1e-3), level.integer("width"), level.integer("height"))
            for level in fields.section("pyramid").sections("levels")
        ),
    )
    sections = {name: _parse_section(fields.section("sections").section(name)) for name in SECTIONS}
    _check_lengths(fields, meta, sections)
    return meta, sections


def _parse_section(fields: Fields) -> Section:
    section = Section(
        fields.integer("offset", least=0),
        fields.integer("length", least=0),
        tuple(str(digest) for digest in fields.items("sha256")),
    )
    if section.offset % ALIGNMENT:
        raise fields.error("offset", f"a multiple of {ALIGNMENT}", section.offset)
    if len(section.sha256) != math.ceil(section.length / CHUNK_BYTES):
        raise fields.error("sha256", f"one for every {CHUNK_BYTES} bytes", f"{len(section.sha256)} hashes")
    return section


def _check_lengths(fields: Fields, meta: MapMeta, sections: dict[str, Section]) -> None:
    cells = meta.rows * meta.cols
    expected = {
        "descriptors": cells * meta.dim,
        "valid": -(-cells // 8),
        "tile_table": meta.first_tiles()[-1] * TILE_ENTRY.itemsize,
    }
    for name, length in expected.items():
        if sections[name].length != length:
            raise fields.section("sections").section(name).error("length", str(length), sections[name].length)
    end = max(section.offset + section.length for section in sections.values())
    if fields.integer("file_bytes") != end or not meta.levels:
        raise fields.error("file_bytes", str(end), fields.integer("file_bytes"))


def check_date(text: object) -> str:
    """A day as ``YYYY-MM-DD``.

    Raises:
        MapError: it is none.
    """
    try:
        return date.fromisoformat(str(text)).isoformat()
    except ValueError as error:
        raise MapError(f"{text!r} is no date", "write it as YYYY-MM-DD") from error


def tile_shape(level: Level, row: int, col: int) -> tuple[int, int]:
    """Height and width of a tile: those at the southern and eastern border may be smaller."""
    return min(TILE_PX, level.height - row * TILE_PX), min(TILE_PX, level.width - col * TILE_PX)


def encode_tile(rgb: Rgb, mask: Mask) -> tuple[bytes, bytes]:
    """A tile as JPEG, and its mask as PNG; the mask is empty when all is seen, both when nothing is."""
    if not mask.any():
        return b"", b""
    jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    if mask.all():
        return jpeg, b""
    # As black and white the mask takes one bit a pixel before compression.
    bilevel = [cv2.IMWRITE_PNG_BILEVEL, 1]
    return jpeg, cv2.imencode(".png", mask.astype(np.uint8) * 255, bilevel)[1].tobytes()


def decode_tile(jpeg: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], shape: tuple[int, int]) -> tuple[Rgb, Mask]:
    """(H, W, 3) RGB and (H, W) mask of a tile of a known shape.

    Raises:
        MapError: it is no picture of that shape.
    """
    if not jpeg.size:
        return np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.bool_)
    picture = cv2.imdecode(jpeg, cv2.IMREAD_COLOR)
    seen = cv2.imdecode(mask, cv2.IMREAD_GRAYSCALE) if mask.size else np.full(shape, 255, np.uint8)
    if picture is None or seen is None or picture.shape[:2] != shape or seen.shape != shape:
        raise MapError("a picture in the map index can't be decoded", REBUILD)
    return np.asarray(picture[..., ::-1], np.uint8), np.asarray(seen > 127)


def halve(rgb: Rgb, mask: Mask) -> tuple[Rgb, Mask]:
    """The picture at half the size, averaged over what is seen; odd sizes are rounded up."""
    height, width = mask.shape
    odd = ((0, height % 2), (0, width % 2))
    weight = np.pad(mask, odd).astype(np.float32)
    colour = np.pad(rgb, (*odd, (0, 0))).astype(np.float32) * weight[..., None]
    size = (weight.shape[1] // 2, weight.shape[0] // 2)
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    mean = cv2.resize(colour, size, interpolation=cv2.INTER_AREA) / np.maximum(share, 0.25)[..., None]
    seen = share >= 0.5
    return np.where(seen[..., None], np.rint(mean), 0).astype(np.uint8), seen
