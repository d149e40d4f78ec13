"""The picture of a run: for every contender, which share of its runs took longer than so many milliseconds.

Both axes are logarithmic, so that tails, which averages hide, take as much room as the middle. Drawn with OpenCV: a
device has no plotting library.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Rgb = npt.NDArray[np.uint8]

WIDTH_PX, HEIGHT_PX = 900, 560
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 24, 50, 60
_INK, _GRID = (40, 40, 40), (222, 222, 222)
# Okabe and Ito's colours, which the colour-blind tell apart.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0), (86, 180, 233))


def tail_plot(seconds: Mapping[str, Sequence[float]], title: str) -> Rgb:
    """Draw the tails of several distributions.

    Args:
        seconds: by label, at least one sample each.
        title: above the plot.

    Returns:
        (560, 900, 3) uint8 RGB.
    """
    curves = {label: _tail(values) for label, values in seconds.items()}
    every_ms = np.concatenate([ms for ms, _ in curves.values()])
    least, most = float(every_ms.min()) * 0.97, float(every_ms.max()) * 1.03
    floor = 0.7 * min(float(shares.min()) for _, shares in curves.values())
    image = np.full((HEIGHT_PX, WIDTH_PX, 3), 255, np.uint8)

    def x(ms: float) -> float:
        return _LEFT + (WIDTH_PX - _LEFT - _RIGHT) * math.log(ms / least) / math.log(most / least)

    def y(share: float) -> float:
        return _TOP + (HEIGHT_PX - _TOP - _BOTTOM) * math.log(share) / math.log(floor)

    for ms in _ticks(least, most):
        _line(image, (x(ms), _TOP), (x(ms), HEIGHT_PX - _BOTTOM), _GRID)
        _text(image, f"{ms:g}", (x(ms) - 12, HEIGHT_PX - _BOTTOM + 20))
    for share in (1.0, 0.5, 0.1, 0.01, 0.001, 0.0001):
        if share >= floor:
            _line(image, (_LEFT, y(share)), (WIDTH_PX - _RIGHT, y(share)), _GRID)
            _text(image, f"{100 * share:g} %", (24, y(share) + 5))
    for (times, shares), colour in zip(curves.values(), _COLOURS * len(curves), strict=False):
        points = np.array([[16 * x(a), 16 * y(b)] for a, b in zip(times, shares, strict=True)]).round().astype(np.int32)
        cv2.polylines(image, [points[:, None]], False, colour, 2, cv2.LINE_AA, shift=4)
    for row, (label, colour) in enumerate(zip(curves, _COLOURS * len(curves), strict=False)):
        _line(image, (WIDTH_PX - 330, 66 + 20 * row), (WIDTH_PX - 305, 66 + 20 * row), colour, 2)
        _text(image, label, (WIDTH_PX - 298, 71 + 20 * row))
    _text(image, title, (_LEFT, 28), 0.6)
    _text(image, "ms; share of runs that took longer", (_LEFT, HEIGHT_PX - 16))
    return image


def write_plot(path: Path, image: Rgb) -> None:
    """Write a PNG, whole or not at all."""
    _, data = cv2.imencode(".png", np.ascontiguousarray(image[..., ::-1]))
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(bytes(data))
    partial.replace(path)


def _tail(seconds: Sequence[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Milliseconds in rising order, and the share of samples that are at least as long."""
    ordered = np.sort(np.asarray(seconds, np.float64)) * 1e3
    return ordered, 1.0 - np.arange(len(ordered)) / len(ordered)


def _ticks(least: float, most: float) -> list[float]:
    """Round values between two, from a coarse to a fine scale until there are at least three."""
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), tuple(1 + i / 20 for i in range(180))):
        decades = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        found = [s * 10.0**d for d in decades for s in steps if least <= s * 10.0**d <= most]
        if len(found) >= 3:
            return found[:: max(1, len(found) // 8)]
    return [least, most]


def _line(
    image: Rgb, start: tuple[float, float], end: tuple[float, float], colour: tuple[int, int, int], width: int = 1
) -> None:
    (x0, y0), (x1, y1) = start, end
    cv2.line(image, (round(x0), round(y0)), (round(x1), round(y1)), colour, width, cv2.LINE_AA)


def _text(image: Rgb, text: str, at: tuple[float, float], size: float = 0.45) -> None:
    where = (round(at[0]), round(at[1]))
    cv2.putText(image, text, where, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
