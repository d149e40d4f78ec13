"""A frame against the map: rotated queries, standardized scores, likelihood ratios for the states of a belief."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from .belief import Belief, Float32, Float64, sum_of
from .dense import DenseMatcher
from .descriptor import Descriptor, rotated_views
from .likelihood import LEVELS, Likelihood
from .map_index import MapIndex
from .scores import LevelScorer
from .threads import parallel, single_threaded_blas

BLOCK_CELLS = 65536
"""Cells scored at once: their scores stay in the processor's cache until they are levels."""

BAND_BYTES = 64 << 20
"""Of levels that are kept at once."""

LOCAL_EXPONENT = 0.4
"""Tempers the ratios of a descriptor between neighbouring states: their discs share most of the ground, and a
slope that fits far places is too steep for near ones (2 in place of 4.1 within 40 m)."""

BACKGROUND_CELLS = 8192
"""Cells, spread evenly over the map, that say how a frame's scores lie where the vehicle is not."""

BACKGROUND_STRIDE = 8
"""A part of them is enough for mean and deviation; the rest is there for the tail."""


@dataclass(frozen=True)
class Query:
    """One patch at several headings, standardized by its own background.

    Attributes:
        views: ``(K, 2, 33, 33) float32`` the patch turned north up for each heading.
        levels: of the likelihood's table, for int8 cells.
        background: ``(256,) int64`` how often each level of the likelihood's table occurs over the map.
    """

    views: Float32
    levels: LevelScorer
    background: npt.NDArray[np.int64]


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
        self.dense = DenseMatcher(index)
        self._sample = self._even_sample()

    def _even_sample(self) -> npt.NDArray[np.int8]:
        """``(n, D) int8`` descriptors of valid cells, a few from each of many rows."""
        rows, cols = self.valid.shape
        used = np.unique(np.linspace(0, rows - 1, min(rows, 256)).astype(int))
        every = max(1, len(used) * cols // BACKGROUND_CELLS)
        sample = []
        for number, row in enumerate(used):
            # Neighbouring rows begin at other columns, so that no fence line is sampled from end to end.
            columns = np.arange(number * 7919 % every, cols, every)
            columns = columns[self.valid[row, columns]]
            sample.append(self.index.rows_checked(int(row), int(row) + 1)[0][columns])
        return np.concatenate(sample)

    def query(self, patch: Float32, headings: Float64) -> Query:
        """Describe a patch at several headings and standardize it.

        Args:
            patch: ``(33, 33) float32``, up is forward, NaN unseen.
            headings: ``(K,)`` radians counter-clockwise from grid east.
        """
        views = rotated_views(patch, headings)
        vectors = self.descriptor.describe(views)[:, :, 0, 0]
        if not len(self._sample):
            return Query(views, LevelScorer(vectors, 0.0), np.ones(LEVELS, np.int64))
        with single_threaded_blas():
            scores = self._sample[::BACKGROUND_STRIDE].astype(np.float32) @ vectors.T
        mean, per_score = float(scores.mean()), self.likelihood.steps_per_z / max(float(scores.std()), 1e-9)
        zero = -mean * per_score - self.likelihood.lo * self.likelihood.steps_per_z
        levels = LevelScorer(vectors * np.float32(per_score), zero)
        return Query(views, levels, np.bincount(levels(self._sample).ravel(), minlength=LEVELS))

    def weigh_area(
        self,
        belief: Belief,
        total: float,
        queries: list[Query],
        lever: Float64,
        exponent: float,
        shares: Float64,
    ) -> Float64:
        """Multiply a belief whose cells are the index's own by the likelihood of a frame.

        Args:
            belief: its window lies on the index's grid; changed in place.
            total: sum of its mass.
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
        if r_hi <= r_lo or c_hi <= c_lo:
            return np.ones(len(queries))
        tables = [self.likelihood.table(query.background, exponent) for query in queries]
        gained = np.zeros(len(queries))
        height = max(1, BAND_BYTES // (len(queries) * len(belief.mass) * (c_hi - c_lo)))
        for start in range(r_lo, r_hi, height):
            stop = min(start + height, r_hi)
            levels = [self._levels(query, start, stop, c_lo, c_hi) for query in queries]
            valid = None if self.all_valid else self.valid[start:stop, c_lo:c_hi]
            band = _Band(start - row0, c_lo - col0, levels, tables, valid, belief.mass, moved, shares)
            gained += np.sum(parallel(band.weigh, range(len(moved))), axis=0)
        return np.asarray(1 + gained / max(total, 1e-300))

    def _levels(self, query: Query, r0: int, r1: int, c0: int, c1: int) -> npt.NDArray[np.uint8]:
        """``(K, rows, cols) uint8`` levels of a window of the index."""
        height = max(1, BLOCK_CELLS // (c1 - c0))
        found = np.empty((query.levels.headings, r1 - r0, c1 - c0), np.uint8)

        def block(start: int) -> None:
            stop = min(start + height, r1)
            found[:, start - r0 : stop - r0] = query.levels(self._cells(start, stop, c0, c1)).reshape(
                -1, stop - start, c1 - c0
            )

        parallel(block, range(r0, r1, height))
        return found

    def _cells(self, r0: int, r1: int, c0: int, c1: int) -> npt.NDArray[np.int8]:
        """``(cells, D) int8`` descriptors of a block of the index."""
        return self.index.rows_checked(r0, r1)[:, c0:c1].reshape(-1, self.index.dim)

    def weigh_track(
        self,
        belief: Belief,
        total: float,
        queries: list[Query],
        lever: Float64,
        exponent: float,
        shares: Float64,
    ) -> Float64:
        """The same for a belief finer than the index.

        The descriptor's scores, interpolated at the states, say how well the frame fits the belief as a whole.
        Which state it fits best is asked of the map's own pixels too (`DenseMatcher`), which know better. Planes
        of negligible share are passed over: `queries` hold the headings of the rest, and the passed ones take
        the ratio of a frame that says nothing. See `weigh_area` for arguments and result.
        """
        kept = significant_planes(belief)
        evidence = np.ones(len(queries))
        nothing = np.float32(self.dense.null**exponent)
        ratios = np.zeros_like(belief.mass)
        for scale, (share, query) in enumerate(zip(shares, queries, strict=True)):
            table = self.likelihood.table(query.background, exponent)
            fits = self._interpolated(belief, query, lever, kept, table)
            held = (belief.mass[k] * (fit - 1) for k, fit in zip(kept, fits, strict=True))
            evidence[scale] += sum(float(part.sum(dtype=np.float64)) for part in held) / max(total, 1e-300)
            found, (rows, cols) = self.dense.ratios(belief, kept, query.views, lever, exponent)
            weight = np.float32(share * evidence[scale])
            ratios += weight * nothing
            for k, fit, dense in zip(kept, fits, found, strict=True):
                local = (fit[rows, cols] / np.float32(evidence[scale])) ** np.float32(LOCAL_EXPONENT)
                ratios[k, rows, cols] += weight * (dense * local - nothing)
        belief.mass *= ratios
        return evidence

    def _interpolated(
        self, belief: Belief, query: Query, lever: Float64, kept: list[int], table: Float32
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
        levels = self._levels(query, r0, r1, c0, c1)
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


@dataclass(frozen=True)
class _Band:
    """Some rows of the index, scored: what the states that look at them are multiplied by.

    Attributes:
        row, col: of its first cell, in the window of the belief.
        levels: for each scale ``(K, rows, cols) uint8``.
        tables: for each scale the ratio of each level.
        valid: ``(rows, cols) bool``; None when every cell has data.
        mass: of the belief; changed in place.
        moved: ``(K, 2) int`` cells east and north of a state that each heading looks at.
        shares: prior share of each scale.
    """

    row: int
    col: int
    levels: list[npt.NDArray[np.uint8]]
    tables: list[Float32]
    valid: npt.NDArray[np.bool_] | None
    mass: Float32
    moved: npt.NDArray[np.int_]
    shares: Float64

    def weigh(self, k: int) -> Float64:
        """Multiply the states of a heading; returns what each scale would add to their sum."""
        _, rows, cols = self.levels[0].shape
        plane, (east, north) = self.mass[k], self.moved[k]
        # State (r, c) looks at index cell (r - north, c + east), in the window's coordinates.
        top, bottom = max(self.row + north, 0), min(self.row + rows + north, plane.shape[0])
        left, right = max(self.col - east, 0), min(self.col + cols - east, plane.shape[1])
        if bottom <= top or right <= left:
            return np.zeros(len(self.levels))
        seen = (
            slice(top - north - self.row, bottom - north - self.row),
            slice(left + east - self.col, right + east - self.col),
        )
        states = plane[top:bottom, left:right]
        held = sum_of(states)
        gained = np.zeros(len(self.levels))
        # A few rows at a time: their ratios stay in the cache, and no large array is made anew for each plane.
        height = max(1, BLOCK_CELLS * 4 // states.shape[1])
        for row in range(0, states.shape[0], height):
            some = slice(row, row + height)
            gained += self._multiply(states[some], k, (_within(seen[0], some), seen[1]))
        return gained - held

    def _multiply(self, states: Float32, k: int, seen: tuple[slice, slice]) -> Float64:
        """Multiply states in place; returns their sum under each scale."""
        ratios = (
            self._ratios(levels[k][seen], table, seen) for levels, table in zip(self.levels, self.tables, strict=True)
        )
        if len(self.levels) == 1:
            cv2.multiply(states, next(ratios), states)
            return np.array([sum_of(states)])
        parts = np.stack([states * ratio for ratio in ratios])
        states[...] = np.tensordot(self.shares.astype(np.float32), parts, 1)
        return np.asarray(parts.sum(axis=(1, 2), dtype=np.float64))

    def _ratios(self, levels: npt.NDArray[np.uint8], table: Float32, seen: tuple[slice, slice]) -> Float32:
        ratios = np.asarray(cv2.LUT(levels, table[None]), np.float32)
        if self.valid is not None:
            ratios[~self.valid[seen]] = 1
        return ratios


def _within(outer: slice, inner: slice) -> slice:
    """The part `inner` of a part `outer`."""
    return slice(outer.start + inner.start, min(outer.start + inner.stop, outer.stop))
