"""Open country made up from a seed: what stays when everything that is sown and harvested changes.

The procedural world's fields are many and small, so that their borders give a place away. On a prairie one field
fills the view, and it bears another crop the next year; what lasts is faint: pale knolls, dark draws, ponds whose shore
moves, a track, a row of trees. This generator makes such ground in numpy, several dates of it at once. It was written
with the landscape of the northern plains in mind, the benchmark's among them; it contains no imagery.

Layers, in the order in which they are painted: soil (persistent) under crops (new for each parcel and date, with the
soil shining through, tilled lines, perhaps half harvested), draws, borders, ponds at the date's water level with a ring
around them, tracks, trees and yards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.localization.descriptor import LUMA
from kittiwake_training.localization.places import WORLD, Place

Float32 = NDArray[np.float32]

DATES = 6
# Bare soil, stubble, straw, young and full green, dark fallow: R, G, B as seen from above.
_CROPS = np.array(
    [[124, 101, 82], [168, 148, 112], [196, 176, 128], [112, 140, 84], [58, 104, 52], [74, 64, 56], [96, 118, 92]],
    np.float32,
)
_WATER = np.array([[38, 50, 58], [70, 92, 78], [96, 120, 100], [24, 28, 32]], np.float32)
_RING = np.array([[196, 190, 176], [70, 92, 58], [150, 140, 110]], np.float32)
_TRACK = np.array([[190, 180, 160], [150, 140, 124], [104, 122, 84]], np.float32)
_TREES = np.array([42, 60, 40], np.float32)


def prairie_place(seed: int, *, size_m: float, gsd_m: float, split: str) -> Place:
    """One place of open country at six dates.

    Args:
        seed: decides everything.
        size_m: its side.
        gsd_m: metres a pixel.
        split: ``train`` or ``validation``.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    count = round(size_m / gsd_m)
    ground = _Ground(rng, count, gsd_m)
    stack = np.stack([ground.seen(np.random.default_rng([seed, date])) for date in range(DATES)])
    return Place(
        name=f"prairie_{seed}_{gsd_m:g}m",
        stack=stack.transpose(0, 3, 1, 2),
        valid=np.ones((DATES, count, count), bool),
        gsd_m=gsd_m,
        dates=tuple(f"year {date}" for date in range(DATES)),
        gray=LUMA,
        source=WORLD,
        licence="Apache-2.0, made by Kittiwake",
        split=split,
    )


class _Ground:
    """What lasts at a place, and how it looks at a date."""

    def __init__(self, rng: np.random.Generator, count: int, gsd_m: float) -> None:
        self.count, self.gsd_m = count, gsd_m
        self.height = _fractal(rng, count, rng.uniform(300, 900) / gsd_m, 4)
        self.soil = _fractal(rng, count, rng.uniform(40, 160) / gsd_m, 4)
        self.knolls = _step(_fractal(rng, count, rng.uniform(60, 200) / gsd_m, 3) + 0.5 * self.height, 1.1, 0.4)
        bent = np.abs(_fractal(rng, count, rng.uniform(200, 500) / gsd_m, 3) + 0.15 * self.height)
        self.draws = _step(-bent, -0.06, 0.04)
        self.level = rng.uniform(-2.2, -0.9)
        self.parcels = list(_parcels(rng, count, gsd_m))
        self.borders, self.tracks = self._lines(rng)
        self.trees = self._trees(rng)

    def seen(self, rng: np.random.Generator) -> NDArray[np.uint8]:
        """(n, n, 3) RGB at one date."""
        image = np.zeros((self.count, self.count, 3), np.float32)
        for corners, along in self.parcels:
            self._sow(image, corners, along, rng)
        image *= 1 + rng.normal(0, 0.12) * self.draws[..., None]
        self._draw(image, *self.borders, rng)
        self._flood(image, rng)
        self._draw(image, *self.tracks, rng)
        image += self.trees[..., None] * (_TREES * rng.uniform(0.8, 1.4) - image)
        image *= rng.uniform(0.75, 1.2) * rng.uniform(0.93, 1.07, 3).astype(np.float32)
        image += rng.normal(0, rng.uniform(1, 4), image.shape).astype(np.float32)
        return np.clip(image, 0, 255).astype(np.uint8)

    def _sow(self, image: Float32, corners: Float32, along: float, rng: np.random.Generator) -> None:
        """Paint one parcel: a crop, the soil under it, tilled lines, and perhaps a part that is harvested already."""
        x, y, w, h = cv2.boundingRect(corners)
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, self.count), min(y + h, self.count)
        if x1 <= x0 or y1 <= y0:
            return
        mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
        cv2.fillConvexPoly(mask, np.rint(corners - (x0, y0)).astype(np.int32), 1)
        down, right = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        across = -math.sin(along) * right + math.cos(along) * down
        harvested = np.zeros(mask.shape, bool)
        if rng.random() < 0.25:
            harvested = across > np.quantile(across[mask > 0], rng.uniform(0.2, 0.8)) if mask.any() else harvested
        window = (slice(y0, y1), slice(x0, x1))
        for part in (mask > 0) & ~harvested, (mask > 0) & harvested:
            tone = rng.dirichlet(np.full(len(_CROPS), 0.3)).astype(np.float32) @ _CROPS
            relief = 1 + rng.uniform(0, 0.12) * self.soil[window] + rng.uniform(-0.05, 0.45) * self.knolls[window]
            period_px = rng.uniform(8, 40) / self.gsd_m
            rows = np.sin(2 * math.pi * across / max(period_px, 2.5) + rng.uniform(0, 6.28))
            relief *= 1 + rng.exponential(0.02) * rows
            patchy = _fractal(rng, max(part.shape), rng.uniform(20, 120) / self.gsd_m, 2)
            relief *= 1 + rng.uniform(0, 0.08) * patchy[: part.shape[0], : part.shape[1]]
            image[window][part] = (tone * relief[..., None])[part]

    def _flood(self, image: Float32, rng: np.random.Generator) -> None:
        """Ponds where the ground lies below the date's water level, and the ring that other years left."""
        level = self.level + rng.normal(0, 0.12)
        ring = _step(-self.height, -(level + rng.uniform(0.05, 0.3)), 0.05) * rng.uniform(0.4, 1.0)
        image += ring[..., None] * (_RING[rng.integers(len(_RING))] * rng.uniform(0.8, 1.1) - image)
        water = _WATER[rng.integers(len(_WATER))] * rng.uniform(0.8, 1.2)
        image += _step(-self.height, -level, 0.02)[..., None] * (water - image)

    @staticmethod
    def _draw(image: Float32, mask: Float32, kind: int, rng: np.random.Generator) -> None:
        tone = _TRACK[kind] * rng.uniform(0.8, 1.15)
        image += (mask * rng.uniform(0.5, 1.0))[..., None] * (tone - image)

    def _lines(self, rng: np.random.Generator) -> tuple[tuple[Float32, int], tuple[Float32, int]]:
        """The thin line along parcel borders, which ponds cover, and the tracks along some: (mask, kind) of each."""
        borders, tracks = np.zeros((2, self.count, self.count), np.uint8)
        for corners, _ in self.parcels:
            ring = np.rint(corners * 8).astype(np.int32)
            if rng.random() < 0.6:
                cv2.polylines(borders, [ring], True, int(rng.integers(60, 200)), 1, cv2.LINE_AA, 3)
            if rng.random() < 0.2:
                width = max(1, round(rng.uniform(4, 9) / self.gsd_m))
                start = int(rng.integers(4))
                side = ring[[start, (start + 1) % 4]]
                cv2.polylines(tracks, [side], False, 255, width, cv2.LINE_AA, 3)
        return (borders.astype(np.float32) / 255, 2), (tracks.astype(np.float32) / 255, int(rng.integers(2)))

    def _trees(self, rng: np.random.Generator) -> Float32:
        """Rows of trees along borders, groves and yards; (n, n) in [0, 1]."""
        found = np.zeros((self.count, self.count), np.uint8)
        for corners, _ in self.parcels:
            if rng.random() < 0.12:
                start = int(rng.integers(4))
                side = np.rint(corners[[start, (start + 1) % 4]] * 8).astype(np.int32)
                cv2.polylines(found, [side], False, 255, max(1, round(12 / self.gsd_m)), cv2.LINE_AA, 3)
        for _ in range(rng.integers(0, 60)):
            centre = tuple(int(v) for v in rng.integers(0, self.count, 2))
            cv2.circle(found, centre, max(1, round(rng.gamma(2, 8) / self.gsd_m)), 255, -1, cv2.LINE_AA)
        return found.astype(np.float32) / 255


def _parcels(rng: np.random.Generator, count: int, gsd_m: float) -> Iterator[tuple[Float32, float]]:
    """Sections of a mile, halved at random down to fields: (4, 2) corners in pixels, and the direction tilled."""
    turn = rng.normal(0, 0.05) if rng.random() < 0.7 else rng.uniform(0, math.pi / 2)
    section = rng.uniform(600, 1700) / gsd_m
    cosine, sine = math.cos(turn), math.sin(turn)
    reach = math.ceil(count / section) + 1
    todo = [(i * section, j * section, section, section) for i in range(-reach, reach) for j in range(-reach, reach)]
    shift = rng.uniform(0, section, 2)
    while todo:
        x, y, w, h = todo.pop()
        if max(w, h) * gsd_m > 250 and rng.random() < (0.9 if max(w, h) * gsd_m > 1000 else 0.45):
            cut = rng.choice([0.5, rng.uniform(0.25, 0.75)])
            halves = ((x, y, w * cut, h), (x + w * cut, y, w * (1 - cut), h))
            if h > w:
                halves = ((x, y, w, h * cut), (x, y + h * cut, w, h * (1 - cut)))
            todo += halves
            continue
        u = np.array([x, x + w, x + w, x]) + shift[0]
        v = np.array([y, y, y + h, y + h]) + shift[1]
        corners = np.stack([count / 2 + cosine * u - sine * v, count / 2 + sine * u + cosine * v], axis=1)
        yield corners.astype(np.float32), turn + (math.pi / 2 if rng.random() < 0.5 else 0.0)


def _fractal(rng: np.random.Generator, count: int, scale_px: float, octaves: int) -> Float32:
    """(n, n) smooth noise of mean 0 and deviation 1: octaves of halved scale and strength."""
    total = np.zeros((count, count), np.float32)
    for octave in range(octaves):
        cells = max(2, math.ceil(count * 2**octave / max(scale_px, 2.0))) + 3
        coarse = rng.normal(size=(cells, cells)).astype(np.float32)
        fine = cv2.resize(coarse, (count + 2, count + 2), interpolation=cv2.INTER_CUBIC)[1:-1, 1:-1]
        total += fine * np.float32(0.5**octave)
        if cells > count:
            break
    return np.asarray((total - total.mean()) / max(float(total.std()), 1e-6), np.float32)


def _step(x: Float32, at: float, width: float) -> Float32:
    """0 below, 1 above, and a straight ramp of a width between."""
    return np.asarray(np.clip((x - at) / width + 0.5, 0, 1), np.float32)
