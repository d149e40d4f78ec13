"""Below the grid: a frame against the map's own pixels, once the belief is narrow.

A descriptor knows which place it sees, and is trained not to mind some metres. Edges do mind: the directions of
the grey gradient, folded so that a bright field beside a dark one looks like a dark one beside a bright, are
correlated over every shift of a small window. The folded gradient survives seasons better than grey values do
(Fitch et al., BMVC 2002, orientation correlation; the fold and the local normalization are ours).
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from .belief import Belief, Float32, Float64
from .descriptor import in_colours
from .footprint import DISC_PX
from .map_index import MapIndex

Complex64 = npt.NDArray[np.complex64]

SLOPE_NEW, SLOPE_YEARS = 34.0, 12.5
"""Slope of the log-likelihood on the correlation over imagery of today, where the map has a pixel for every sample, and
the years in which it falls to a third: the longer ago, the more of the ground has changed. Places that no descriptor
was trained on (`season_train`, two dates of one or two years) ask for 30, North Dakota over a decade for 16."""

NULL_NEW, NULL_YEAR, NULL_MOST = 0.02, 0.012, 0.2
"""Share of frames that the correlation must not decide: over imagery of today, more with each year, at most."""

UNKNOWN_YEARS = 6.5
"""How old imagery is taken to be whose age nobody tells."""

SEEN_SHARE = 0.7
"""Of a disc, on the map, below which a shift is not judged."""


class DenseMatcher:
    """Compares views with the imagery inside an index, at the footprint's ground sample distance.

    Args:
        index: an open map index.

    Attributes:
        null: share of frames that it must not decide.
    """

    def __init__(self, index: MapIndex) -> None:
        self.index = index
        self.set_age(None)

    def set_age(self, years: float | None) -> None:
        """Trust the imagery as its age allows.

        Args:
            years: between the imagery and the flight; None when nobody knows.
        """
        years = UNKNOWN_YEARS if years is None else years
        # Imagery coarser than the samples has fewer independent ones, which say as much less.
        fineness = min(1.0, self.index.gsd_m / self.index.meta.imagery_gsd_m) ** 2
        self._slope = SLOPE_NEW * math.exp(-years / SLOPE_YEARS) * fineness
        self.null = min(NULL_NEW + NULL_YEAR * years, NULL_MOST)

    def ratios(
        self, belief: Belief, planes: list[int], views: Float32, lever: Float64, exponent: float
    ) -> tuple[Float32, tuple[slice, slice]]:
        """How much better each state explains a frame than the belief's average state does.

        Args:
            belief: at its fine level.
            planes: its headings to be judged, and
            views: ``(len(planes), C + 1, 33, 33) float32`` the frame turned to each of them (`rotated_views`).
            lever: ``(K, 2)`` east and north of the view's centre from the vehicle, metres.
            exponent: tempering, 0..1.

        Returns:
            ``(len(planes), rows, cols) float32`` ratios for a window of the belief's cells, and that window:
            beyond it there is next to no mass.
        """
        rows, cols = window = _occupied(belief)
        east = belief.east_m + cols.start * belief.cell_m
        north = belief.north_m - rows.start * belief.cell_m
        size = (cols.stop - cols.start, rows.stop - rows.start)
        moved = (belief.offset + lever)[planes]
        reach_m = float(np.abs(moved).max()) + (DISC_PX // 2 + 2) * self.index.gsd_m
        west, top = east - reach_m, north + reach_m
        field, seen = self._map_field(west, top, [(n - 1) * belief.cell_m + 2 * reach_m for n in size])
        scale = belief.cell_m / self.index.gsd_m
        found = np.empty((len(planes), size[1], size[0]), np.float32)
        for out, view, shift in zip(found, views, moved, strict=True):
            surface = correlation(view, field, seen)
            # Pixel centres lie half a pixel inside the window, a surface's first value half a disc further.
            inset = DISC_PX // 2 + 0.5
            to_surface = np.array(
                [
                    [scale, 0, (east + shift[0] - west) / self.index.gsd_m - inset],
                    [0, scale, (top - north - shift[1]) / self.index.gsd_m - inset],
                ]
            )
            flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            cv2.warpAffine(surface, to_surface, size, out, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        mass = belief.mass[planes][:, rows, cols]
        return _fair(found, mass, self._slope, self.null, exponent), window

    def _map_field(self, west: float, top: float, size_m: list[float]) -> tuple[Complex64, Float32]:
        gsd = self.index.gsd_m
        width, height = (int(np.ceil(metres / gsd)) + 1 for metres in size_m)
        rgb, seen = self.index.image((west, top - height * gsd, west + width * gsd, top), gsd)
        grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / np.float32(255)
        return orientation_field(grey, seen), seen.astype(np.float32)


def orientation_field(grey: Float32, seen: npt.NDArray[np.bool_]) -> Complex64:
    """Direction of the gradient, its angle doubled, its strength beside that of its surroundings.

    Args:
        grey: ``(H, W) float32``.
        seen: ``(H, W) bool``; gradients at the border of what was seen are zero.

    Returns:
        ``(H, W) complex64``.
    """
    filled = np.where(seen, grey, grey[seen].mean() if seen.any() else 0).astype(np.float32)
    smooth = cv2.GaussianBlur(filled, (0, 0), 0.8)
    gradient = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    inside = cv2.erode(seen.astype(np.uint8), np.ones((3, 3), np.uint8))
    gradient = gradient * inside
    strength = np.abs(gradient)
    around = cv2.GaussianBlur(strength, (0, 0), 4.0) + 1e-3
    doubled = gradient**2 / np.maximum(strength, 1e-9)
    return np.asarray(doubled / around, np.complex64)


def correlation(view: Float32, field: Complex64, seen: Float32) -> Float32:
    """Normalized correlation of a view with every place of a map's field.

    Args:
        view: ``(C + 1, 33, 33) float32`` colours or grey times mask, and mask; north up.
        field: ``(H, W) complex64`` of the map, pixels of the same size.
        seen: ``(H, W) float32``, one where the map has data.

    Returns:
        ``(H - 32, W - 32) float32`` in [-1, 1]; zero where too little of the disc lies on the map.
    """
    mask = view[-1] > 0.5
    template = orientation_field(in_colours(view[:-1].transpose(1, 2, 0), 1)[..., 0], mask)
    weight = mask.astype(np.float32)
    product = _slide(field.real, template.real) + _slide(field.imag, template.imag)
    energy = _slide(np.abs(field) ** 2, weight) * float((np.abs(template) ** 2).sum())
    known = _slide(seen, weight) > SEEN_SHARE * weight.sum()
    return np.where(known, product / np.sqrt(np.maximum(energy, 1e-6)), 0).astype(np.float32)


def _slide(image: npt.NDArray[np.float32], template: npt.NDArray[np.float32]) -> Float32:
    slid = cv2.matchTemplate(np.ascontiguousarray(image), np.ascontiguousarray(template), cv2.TM_CCORR)
    return np.asarray(slid, np.float32)


def _occupied(belief: Belief) -> tuple[slice, slice]:
    """Rows and columns that hold all but a ten-thousandth of the mass."""
    marginal = belief.marginal()
    spans = []
    for axis in (1, 0):
        cumulative = np.cumsum(marginal.sum(axis=axis, dtype=np.float64))
        cumulative /= max(cumulative[-1], 1e-300)
        first, last = np.searchsorted(cumulative, [5e-5, 1 - 5e-5])
        spans.append(slice(int(first), min(int(last) + 1, len(cumulative))))
    return spans[0], spans[1]


def _fair(found: Float32, mass: Float32, slope: float, null: float, exponent: float) -> Float32:
    """Ratios whose mean over the belief is one before they are tempered."""
    ratio = np.exp(slope * (found - found.max()))
    mean = float((ratio * mass).sum(dtype=np.float64)) / max(float(mass.sum(dtype=np.float64)), 1e-300)
    fair = (1 - null) * ratio / max(mean, 1e-12) + null
    return np.asarray(fair**exponent, np.float32)
