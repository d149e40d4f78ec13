"""A picture of a map index: the ground, what is missing, coordinates, a scale bar and true north."""

from __future__ import annotations

import math

import cv2
import numpy as np

from kittiwake_runtime.localization.map_format import Rgb
from kittiwake_runtime.localization.map_index import MapIndex

_FRAME_PX = 60
_HATCH_PX = 12
_INK = (20, 20, 20)
_PAPER = (255, 255, 255)
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_STEPS = tuple(m * 10**n for n in range(7) for m in (1, 2, 5))


def draw_preview(index: MapIndex, size_px: int = 1000) -> Rgb:
    """(H, W, 3) uint8 RGB: the whole map, its longer side ``size_px``, in a frame of grid coordinates.

    Ground without data is hatched. North of the picture is grid north; the arrow points to true north at the
    centre of the map.
    """
    from kittiwake_runtime.localization.pictures import scale_bar

    west, south, east, north = index.bounds_m
    m_per_px = max(east - west, north - south) / size_px
    ground, seen = index.image(index.bounds_m, m_per_px)
    rows, cols = np.indices(seen.shape)
    hatch = np.where((rows + cols) % _HATCH_PX < 2, 150, 225).astype(np.uint8)
    ground = np.where(seen[..., None], ground, hatch[..., None])
    ground = _draw_north(scale_bar(np.ascontiguousarray(ground), m_per_px), index)
    height, width = seen.shape
    picture = np.full((height + 2 * _FRAME_PX, width + 2 * _FRAME_PX, 3), _PAPER, np.uint8)
    picture[_FRAME_PX:-_FRAME_PX, _FRAME_PX:-_FRAME_PX] = ground
    cv2.rectangle(picture, (_FRAME_PX - 1, _FRAME_PX - 1), (width + _FRAME_PX, height + _FRAME_PX), _INK)
    _draw_ticks(picture, index, m_per_px)
    name = f"{index.path.name}   {index.footprint_m:g} m   {index.imagery_date or 'undated'}"
    cv2.putText(picture, name, (_FRAME_PX, 24), _FONT, 0.5, _INK, 1, cv2.LINE_AA)
    return picture


def _draw_ticks(picture: Rgb, index: MapIndex, m_per_px: float) -> None:
    """Ticks at round coordinates, easting below and northing on the left, labelled in kilometres."""
    west, south, east, north = index.bounds_m
    height, width = picture.shape[0] - 2 * _FRAME_PX, picture.shape[1] - 2 * _FRAME_PX
    step_m = next(step for step in (*_STEPS, 10**7) if step / m_per_px >= 120)
    digits = max(0, 3 - int(math.log10(step_m)))
    bottom = height + _FRAME_PX
    for easting in np.arange(math.ceil(west / step_m) * step_m, east, step_m):
        x = _FRAME_PX + round((easting - west) / m_per_px)
        cv2.line(picture, (x, bottom), (x, bottom + 6), _INK)
        label = f"{easting / 1000:.{digits}f}"
        (across, _), _ = cv2.getTextSize(label, _FONT, 0.4, 1)
        if x - across // 2 >= 0 and x + across // 2 <= width + 2 * _FRAME_PX:
            cv2.putText(picture, label, (x - across // 2, bottom + 20), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
    for northing in np.arange(math.ceil(south / step_m) * step_m, north, step_m):
        y = _FRAME_PX + round((north - northing) / m_per_px)
        cv2.line(picture, (_FRAME_PX - 7, y), (_FRAME_PX - 1, y), _INK)
        label = f"{northing / 1000:.{digits}f}"
        cv2.putText(picture, label, (2, y - 3), _FONT, 0.4, _INK, 1, cv2.LINE_AA)
    cv2.putText(picture, "km", (2, bottom + 20), _FONT, 0.4, _INK, 1, cv2.LINE_AA)


def _draw_north(picture: Rgb, index: MapIndex) -> Rgb:
    """An arrow to true north in the upper right corner."""
    west, south, east, north = index.bounds_m
    convergence = float(index.grid.convergence_rad((west + east) / 2, (south + north) / 2))
    # Grid north lies `convergence` clockwise of true north, so true north is that far to the left of up.
    across, up = -math.sin(convergence), math.cos(convergence)
    x, y = picture.shape[1] - 28, 40
    tail = (round(x - 20 * across), round(y + 20 * up))
    head = (round(x + 20 * across), round(y - 20 * up))
    for colour, thickness in ((_INK, 5), (_PAPER, 2)):
        cv2.arrowedLine(picture, tail, head, colour, thickness, cv2.LINE_AA, tipLength=0.35)
        cv2.putText(picture, "N", (x - 6, y + 38), _FONT, 0.5, colour, thickness, cv2.LINE_AA)
    return picture
