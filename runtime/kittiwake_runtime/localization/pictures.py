"""Pictures of a flight: the track on the map, and the belief at some moments. RGB arrays; no plotting library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .belief import Float32
from .filter import PointMassFilter
from .map_index import MapIndex
from .outputs import Fix

Rgb = npt.NDArray[np.uint8]
GridPoint = tuple[float, float]

TRUE_COLOUR = (255, 255, 255)
BELIEVED_COLOUR = (30, 200, 255)


@dataclass(frozen=True)
class Canvas:
    """A picture of the map with north up, and where grid positions fall on it.

    Attributes:
        image: ``(H, W, 3) uint8`` RGB.
        west_m, north_m: grid position of its upper left corner.
        m_per_px: metres a pixel.
    """

    image: Rgb
    west_m: float
    north_m: float
    m_per_px: float

    @classmethod
    def of(cls, index: MapIndex, size_px: int = 900) -> Canvas:
        """The whole map, its longer side `size_px`."""
        width, height = index.cols * index.cell_m, index.rows * index.cell_m
        m_per_px = max(width, height) / size_px
        west, north = index.e0 - index.cell_m / 2, index.n0 + index.cell_m / 2
        image, _ = index.image((west, north - height, west + width, north), m_per_px)
        return cls(image, west, north, m_per_px)

    def pixel(self, east_m: float, north_m: float) -> tuple[int, int]:
        """(x, y) of a grid position, in sixteenths of a pixel, as OpenCV's `shift=4` takes it."""
        x = (east_m - self.west_m) / self.m_per_px - 0.5
        y = (self.north_m - north_m) / self.m_per_px - 0.5
        return round(16 * x), round(16 * y)


def track_picture(canvas: Canvas, fixes: Sequence[Fix], truth: Sequence[GridPoint] | None = None) -> Rgb:
    """The map with the true track (white), its start as a ring, and what was believed (blue) with its 95 % radius."""
    image = np.ascontiguousarray((canvas.image * 0.75).astype(np.uint8))
    if truth:
        points = np.array([canvas.pixel(*point) for point in truth], np.int32)
        cv2.polylines(image, [points[:, None]], False, (20, 20, 20), 4, cv2.LINE_AA, shift=4)
        cv2.polylines(image, [points[:, None]], False, TRUE_COLOUR, 2, cv2.LINE_AA, shift=4)
        cv2.circle(image, tuple(int(v) for v in points[0]), 16 * 7, TRUE_COLOUR, 2, cv2.LINE_AA, shift=4)
    colour = BELIEVED_COLOUR
    for before, fix in zip([None, *fixes], fixes, strict=False):
        if not fix.is_believed:
            continue
        here = canvas.pixel(fix.easting_m, fix.northing_m)
        if before is not None and before.is_believed:
            start = canvas.pixel(before.easting_m, before.northing_m)
            cv2.line(image, start, here, colour, 2, cv2.LINE_AA, shift=4)
        radius = max(round(16 * fix.radius95_m / canvas.m_per_px), 16)
        cv2.circle(image, here, radius, colour, 1, cv2.LINE_AA, shift=4)
        cv2.circle(image, here, 16 * 2, colour, -1, cv2.LINE_AA, shift=4)
    return scale_bar(image, canvas.m_per_px)


def scale_bar(image: Rgb, m_per_px: float) -> Rgb:
    """Draw a bar of a round length into the lower left corner, and return the picture."""
    target = image.shape[1] * m_per_px / 5
    length = max(n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000) if n <= max(target, 1))
    label = f"{length // 1000} km" if length >= 1000 else f"{length} m"
    y, x = image.shape[0] - 18, 16
    end = x + round(length / m_per_px)
    for colour, width in (((0, 0, 0), 5), ((255, 255, 255), 2)):
        cv2.line(image, (x, y), (end, y), colour, width, cv2.LINE_AA)
        cv2.putText(image, label, (x, y - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, width, cv2.LINE_AA)
    return image


def belief_map(filter_: PointMassFilter, canvas: Canvas) -> Float32:
    """``(H, W) float32``: the belief over position on a canvas's pixels, summing to the share that is on it."""
    belief = filter_.belief
    plane = belief.marginal()
    plane /= max(float(plane.sum(dtype=np.float64)), 1e-30)
    height, width = canvas.image.shape[:2]
    scale = belief.cell_m / canvas.m_per_px
    x = (belief.east_m - belief.cell_m / 2 - canvas.west_m) / canvas.m_per_px
    y = (canvas.north_m - belief.north_m - belief.cell_m / 2) / canvas.m_per_px
    result = np.zeros((height, width), np.float32)
    columns = np.clip((x + (np.arange(plane.shape[1]) + 0.5) * scale).astype(int), 0, width - 1)
    rows = np.clip((y + (np.arange(plane.shape[0]) + 0.5) * scale).astype(int), 0, height - 1)
    by_row = np.zeros((height, plane.shape[1]), np.float32)
    np.add.at(by_row, rows, plane)
    np.add.at(result.T, columns, by_row.T)
    return result * np.float32(1 - filter_.elsewhere)


def belief_picture(canvas: Canvas, belief: Float32, truth: GridPoint | None = None, size_px: int = 300) -> Rgb:
    """The belief as heat over a darkened map, on a logarithmic scale of five decades; the truth as a ring."""
    scale = size_px / max(belief.shape)
    size = (max(1, round(belief.shape[1] * scale)), max(1, round(belief.shape[0] * scale)))
    ground = cv2.resize(canvas.image, size, interpolation=cv2.INTER_AREA).astype(np.float32) * 0.45
    mass = cv2.dilate(belief, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (11, 11)))
    mass = cv2.resize(mass, size, interpolation=cv2.INTER_LINEAR)
    level = np.clip(1 + np.log10(np.maximum(mass / max(float(mass.max()), 1e-30), 1e-6)) / 5, 0, 1)
    heat = cv2.applyColorMap((level * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1].astype(np.float32)
    weight = (0.85 * np.minimum(level * 1.5, 1))[..., None]
    image = np.ascontiguousarray((ground * (1 - weight) + heat * weight).astype(np.uint8))
    if truth is not None:
        x, y = canvas.pixel(*truth)
        centre = (round(x * scale), round(y * scale))
        cv2.circle(image, centre, 16 * 9, (90, 255, 120), 2, cv2.LINE_AA, shift=4)
    return image
