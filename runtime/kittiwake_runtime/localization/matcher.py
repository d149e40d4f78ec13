"""A frame against the map: rotated queries, standardized scores, likelihood ratios for the states of a belief."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .belief import Belief, Float32, Float64, parallel, single_threaded_blas
from .descriptor import Descriptor, rotated_views
from .likelihood import Likelihood
from .map_index import MapIndex

BLOCK_CELLS = 16384
"""Cells scored at once: the block of scores stays in the processor's cache until it has been used."""

BACKGROUND_SAMPLES = 20000


class Matcher:
    """Scores a patch against an index and multiplies a belief by what the scores say.

    Args:
        index: an open map index.
        descriptor: of the model that made the index.
        likelihood: turns standardized scores into ratios.
    """

    def __init__(self, index: MapIndex, descriptor: Descriptor, likelihood: Likelihood) -> None:
        self.index, self.descriptor, self.likelihood = index, descriptor, likelihood
        self.valid = np.asarray(index.valid)
        self.all_valid = bool(self.valid.all())
        self._mean, self._covariance = self._background()

    def _background(self) -> tuple[Float64, Float64]:
        """Mean and covariance of the map's int8 descriptors, from an even sample of valid cells."""
        cells = np.flatnonzero(self.valid)
        rows_used = max(1, BACKGROUND_SAMPLES // max(1, self.index.cols))
        rows = np.unique(np.linspace(0, self.index.rows - 1, min(rows_used, self.index.rows)).astype(int))
        if len(cells) == 0:
            return np.zeros(self.index.dim), np.eye(self.index.dim)
        sample = [self.index.rows_checked(int(r), int(r) + 1)[0][self.valid[r]] for r in rows]
        vectors = np.concatenate(sample).astype(np.float64)
        if len(vectors) < 2:
            return np.zeros(self.index.dim), np.eye(self.index.dim)
        return vectors.mean(0), np.cov(vectors.T)

    def queries(self, patch: Float32, headings: Float64) -> tuple[Float32, float]:
        """Standardized queries of one patch.

        Args:
            patch: ``(33, 33) float32``, up is forward, NaN unseen.
            headings: ``(K,)`` radians counter-clockwise from grid east.

        Returns:
            ``(K, D) float32`` and a bias, such that ``query @ int8_cell + bias`` is z.
        """
        vectors = self.descriptor.describe(rotated_views(patch, headings))[:, :, 0, 0].astype(np.float64)
        means = vectors @ self._mean
        variance = np.einsum("kd,de,ke->k", vectors, self._covariance, vectors).mean() + means.var()
        std = max(float(np.sqrt(variance)), 1e-9)
        return (vectors / std).astype(np.float32), -float(means.mean()) / std

    def weigh_area(
        self,
        belief: Belief,
        queries: list[tuple[Float32, float]],
        lever: Float64,
        exponent: float,
        shares: Float64,
    ) -> Float64:
        """Multiply a belief whose cells are the index's own by the likelihood of a frame.

        Args:
            belief: its window lies on the index's grid; changed in place.
            queries: for each assumed scale, the queries at the belief's headings.
            lever: ``(K, 2)`` east and north of the view's centre from the vehicle, metres.
            exponent: tempering, 0..1.
            shares: ``(scales,)`` prior share of each scale.

        Returns:
            ``(scales,) float64`` mean ratio over the belief for each scale: its evidence.
        """
        row0 = round((self.index.n0 - belief.north_m) / belief.cell_m)
        col0 = round((belief.east_m - self.index.e0) / belief.cell_m)
        moved = np.rint((belief.offset + lever) / belief.cell_m).astype(int)
        # Planes look up to a few cells beyond the window, where the index has them.
        margin = int(np.abs(moved).max())
        r_lo, r_hi = max(row0 - margin, 0), min(row0 + belief.mass.shape[1] + margin, self.index.rows)
        c_lo, c_hi = max(col0 - margin, 0), min(col0 + belief.mass.shape[2] + margin, self.index.cols)
        before = belief.total()
        if r_hi <= r_lo or c_hi <= c_lo:
            return np.ones(len(queries))
        table = self.likelihood.table(exponent)
        height = max(1, BLOCK_CELLS // (c_hi - c_lo))
        starts = range(r_lo, r_hi, height)

        def block(start: int) -> Float64:
            stop = min(start + height, r_hi)
            ratios = [self._ratios(q, start, stop, c_lo, c_hi, table) for q in queries]
            return _apply(belief.mass, ratios, shares, (start - row0, stop - row0), c_lo - col0, moved)

        with single_threaded_blas():
            gained = np.sum(parallel(block, starts), axis=0)
        return np.asarray(1 + gained / max(before, 1e-300))

    def _ratios(self, query: tuple[Float32, float], r0: int, r1: int, c0: int, c1: int, table: Float32) -> Float32:
        """``(K, rows, cols) float32`` likelihood ratios of a block of cells."""
        ratios = cv2.LUT(self._levels(query, r0, r1, c0, c1), table[None])
        ratios = ratios.reshape(-1, r1 - r0, c1 - c0)
        if not self.all_valid:
            ratios[:, ~self.valid[r0:r1, c0:c1]] = 1
        return np.asarray(ratios, np.float32)

    def _levels(self, query: tuple[Float32, float], r0: int, r1: int, c0: int, c1: int) -> npt.NDArray[np.uint8]:
        """``(K, cells) uint8`` steps of the likelihood's table."""
        vectors, bias = query
        per_z = np.float32(self.likelihood.steps_per_z)
        cells = self.index.rows_checked(r0, r1)[:, c0:c1].reshape(-1, self.index.dim).astype(np.float32)
        scores = (vectors * per_z) @ cells.T
        zero: Any = (bias - self.likelihood.lo) * float(per_z)
        return np.asarray(cv2.add(scores, zero, dtype=cv2.CV_8U), np.uint8)

    def weigh_track(
        self,
        belief: Belief,
        queries: list[tuple[Float32, float]],
        lever: Float64,
        exponent: float,
        shares: Float64,
    ) -> Float64:
        """The same for a belief finer than the index: scores are interpolated at its states.

        Planes of negligible share are passed over: `queries` hold the headings of the rest, and the passed
        ones take the ratio of a frame that says nothing. See `weigh_area` for arguments and result.
        """
        table = self.likelihood.table(exponent)
        before = belief.total()
        kept = significant_planes(belief)
        gains = np.zeros(len(queries))
        ratios = np.full(belief.mass.shape, table[0], np.float32)
        for share, (scale, query) in zip(shares, enumerate(queries), strict=True):
            fine = self._interpolated(belief, query, lever, kept, table)
            for slot, k in enumerate(kept):
                gains[scale] += float((belief.mass[k] * (fine[slot] - 1)).sum(dtype=np.float64))
                ratios[k] += np.float32(share) * (fine[slot] - table[0])
        belief.mass *= ratios
        return np.asarray(1 + gains / max(before, 1e-300))

    def _interpolated(
        self, belief: Belief, query: tuple[Float32, float], lever: Float64, kept: list[int], table: Float32
    ) -> list[Float32]:
        cell = self.index.cell_m
        _, rows, cols = belief.mass.shape
        reach = float(np.abs(belief.offset + lever).max()) + 2 * cell
        c0 = max(int((belief.east_m - reach - self.index.e0) / cell), 0)
        c1 = min(int((belief.east_m + cols * belief.cell_m + reach - self.index.e0) / cell) + 1, self.index.cols)
        r0 = max(int((self.index.n0 - belief.north_m - reach) / cell), 0)
        r1 = min(int((self.index.n0 - belief.north_m + rows * belief.cell_m + reach) / cell) + 1, self.index.rows)
        if r1 <= r0 or c1 <= c0:
            return [np.ones((rows, cols), np.float32)] * len(kept)
        levels = self._levels(query, r0, r1, c0, c1).reshape(-1, r1 - r0, c1 - c0)
        valid = self.valid[r0:r1, c0:c1].astype(np.float32)
        fine = []
        for slot, k in enumerate(kept):
            east, north = belief.offset[k] + lever[k]
            scale = belief.cell_m / cell
            to_index = np.array(
                [
                    [scale, 0, (belief.east_m + east - self.index.e0) / cell - c0],
                    [0, scale, (self.index.n0 - belief.north_m - north) / cell - r0],
                ]
            )
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            level = cv2.warpAffine(levels[slot], to_index, (cols, rows), flags=flags)
            known = cv2.warpAffine(valid, to_index, (cols, rows), flags=flags)
            fine.append(np.where(known > 0.99, cv2.LUT(level, table[None]), np.float32(1)))
        return fine


def significant_planes(belief: Belief, share: float = 1e-4) -> list[int]:
    """Headings that hold more than a share of the mass."""
    sums = belief.mass.sum(axis=(1, 2), dtype=np.float64)
    return [int(k) for k in np.flatnonzero(sums > share * sums.sum())]


def _apply(
    mass: Float32,
    ratios: list[Float32],
    shares: Float64,
    rows: tuple[int, int],
    col: int,
    moved: npt.NDArray[np.int_],
) -> Float64:
    """Multiply the states that look at a block of index cells; returns what each scale's ratios would add."""
    gained = np.zeros(len(ratios))
    _, height, width = mass.shape
    columns = ratios[0].shape[2]
    for k, (east, north) in enumerate(moved):
        # State (r, c) looks at index cell (r - north, c + east), in the window's coordinates.
        top, bottom = max(rows[0] + north, 0), min(rows[1] + north, height)
        left, right = max(col - east, 0), min(col + columns - east, width)
        if bottom <= top or right <= left:
            continue
        seen = (
            slice(top - north - rows[0], bottom - north - rows[0]),
            slice(left + east - col, right + east - col),
        )
        states = mass[k, top:bottom, left:right]
        held = states.sum(dtype=np.float64)
        if len(ratios) == 1:
            states *= ratios[0][k][seen]
            gained[0] += states.sum(dtype=np.float64) - held
            continue
        mixed = np.zeros_like(states)
        for scale, ratio in enumerate(ratios):
            part = states * ratio[k][seen]
            gained[scale] += part.sum(dtype=np.float64) - held
            mixed += np.float32(shares[scale]) * part
        states[...] = mixed
    return gained
