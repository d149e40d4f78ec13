"""A place: the same ground at several dates on one grid, and how it lies on disk."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kittiwake_training.errors import TrainingError

WORLD = "world"
"""The source of procedural places."""
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Place:
    """One piece of ground.

    Args:
        name: unique among the places trained with.
        stack: (dates, C, H, W) uint8, registered, row 0 north.
        valid: (dates, H, W) bool, false where there is no data or cloud.
        gsd_m: metres a pixel.
        dates: one label a date, ISO where known.
        gray: (C,) weights that make gray as a camera sees it; they sum to one.
        source: the collection, e.g. ``season_train``; ``world`` for the procedural one.
        licence: terms and attribution.
        split: ``train`` or ``validation``.
    """

    name: str
    stack: NDArray[np.uint8]
    valid: NDArray[np.bool_]
    gsd_m: float
    dates: tuple[str, ...]
    gray: tuple[float, ...]
    source: str
    licence: str
    split: str = "train"

    def __post_init__(self) -> None:
        dates, channels, *size = self.stack.shape
        if self.valid.shape != (dates, *size) or len(self.dates) != dates or len(self.gray) != channels:
            raise TrainingError(
                f"place {self.name}: stack {self.stack.shape}, valid {self.valid.shape}, "
                f"{len(self.dates)} dates and {len(self.gray)} weights don't fit together"
            )
        if dates < 2 or self.split not in SPLITS:
            raise TrainingError(f"place {self.name}: {dates} dates (2 needed), split '{self.split}'")

    @cached_property
    def sha256(self) -> str:
        """Hash of the pixels and of what is valid."""
        digest = hashlib.sha256(np.ascontiguousarray(self.stack).data)
        digest.update(np.packbits(self.valid))
        return digest.hexdigest()

    def save(self, folder: Path) -> Path:
        """Write ``<name>.npz`` into the folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        meta = {
            "gsd_m": self.gsd_m,
            "dates": self.dates,
            "gray": self.gray,
            "source": self.source,
            "licence": self.licence,
            "split": self.split,
        }
        path, partial = folder / f"{self.name}.npz", folder / f"{self.name}.{os.getpid()}.partial"
        with partial.open("wb") as file:
            np.savez_compressed(file, stack=self.stack, valid=np.packbits(self.valid), meta=np.array(json.dumps(meta)))
        partial.replace(path)
        return path


def load_place(path: Path) -> Place:
    """Read one ``.npz`` that :meth:`Place.save` wrote.

    Raises:
        TrainingError: the file is damaged or of another kind.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            stack = file["stack"]
            meta = json.loads(str(file["meta"]))
            shape = (stack.shape[0], *stack.shape[2:])
            valid = np.unpackbits(file["valid"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        return Place(
            name=path.stem,
            stack=stack,
            valid=valid,
            gsd_m=float(meta["gsd_m"]),
            dates=tuple(meta["dates"]),
            gray=tuple(meta["gray"]),
            source=meta["source"],
            licence=meta["licence"],
            split=meta["split"],
        )
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise TrainingError(
            f"{path} is not a place: {error}",
            "make the folder again with 'kittiwake train localization --prepare'",
        ) from error


def load_places(folder: Path) -> list[Place]:
    """All places of a prepared folder, by name.

    Raises:
        TrainingError: the folder holds none.
    """
    places = [load_place(path) for path in sorted(folder.glob("*.npz"))]
    if not places:
        raise TrainingError(
            f"{folder} holds no prepared places (*.npz)",
            f"kittiwake train localization --prepare RAW_DATA --data {folder}",
        )
    return places


def hold_out_strip(place: Place, share: float, gap_px: int) -> tuple[Place, Place]:
    """Split one place by ground: its eastern strip validates, the rest trains, with a gap between them.

    Args:
        place: the whole.
        share: of the width, the strip's.
        gap_px: left out of both, so that no disc of one side reaches into the other.
    """
    width = place.stack.shape[3]
    cut = round(width * (1 - share))
    west, east = slice(0, cut - gap_px), slice(cut, width)

    def part(name: str, columns: slice, split: str) -> Place:
        return replace(
            place,
            name=f"{place.name}_{name}",
            split=split,
            stack=place.stack[..., columns],
            valid=place.valid[..., columns],
        )

    return part("west", west, "train"), part("east", east, "validation")
