"""A frame against the map: rotated queries, standardized scores, likelihood ratios for the states of a belief."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

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

BLOCK_CELLS = 32768
"""Cells scored at once: their scores stay in the processor's cache until they are levels."""

BAND_BYTES = 64 << 20
"""Of levels that are kept at once."""

KEPT_BYTES = 128 << 20
"""Of descriptors that stay in memory between frames: 190 km² at a footprint of 160 m. To map pages again takes time."""

NO_DATA = 0
"""Level of a cell that the map has no data of; what has data is at the next one at least."""

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
        views: ``(K, C + 1, 33, 33) float32`` the patch turned north up for each heading.
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
        self._samples = {1: self._even_sample(1)}
        self._kept = np.empty(0, np.uint8)

    def _even_sample(self, width: int) -> npt.NDArray[np.int8]:
        """``(width², n, D) int8``: squares of cells that begin at valid ones, a few from each of many rows."""
        rows, cols = self.valid.shape
        used = np.unique(np.linspace(0, max(rows - width, 0), min(rows, 256)).astype(int))
        every = max(1, len(used) * cols // BACKGROUND_CELLS)
        sample = []
        for number, row in enumerate(used):
            # Neighbouring rows begin at other columns, so that no fence line is sampled from end to end.
            columns = np.arange(number * 7919 % every, cols, every)
            columns = columns[self.valid[row, columns]]
            beside = np.minimum(columns + np.arange(width)[:, None], cols - 1)
            squares = self.index.rows_checked(int(row), int(row) + width)[:, beside]
            sample.append(squares.reshape(width * width, len(columns), self.index.dim))
        return np.concatenate(sample, axis=1)

    def query(self, patch: Float32, headings: Float64, width: int = 1) -> Query:
        """Describe a patch at several headings and standardize it.

        Args:
            patch: ``(33, 33)`` or ``(33, 33, 3) float32``, up is forward, NaN unseen.
            headings: ``(K,)`` radians counter-clockwise from grid east.
            width: cells of the index along the side of a state that it is to weigh.
        """
        views = rotated_views(patch, headings, self.descriptor.colours)
        vectors = self.descriptor.describe(views)[:, :, 0, 0]
        sample = self._samples[1][0]
        if not len(sample):
            return Query(views, LevelScorer(vectors, 0.0), np.ones(LEVELS, np.int64))
        with single_threaded_blas():
            scores = sample[::BACKGROUND_STRIDE].astype(np.float32) @ vectors.T
        mean, per_score = float(scores.mean()), self.likelihood.steps_per_z / max(float(scores.std()), 1e-9)
        zero = -mean * per_score - self.likelihood.lo * self.likelihood.steps_per_z
        levels = LevelScorer(vectors * np.float32(per_score), zero)
        if width not in self._samples:
            self._samples[width] = self._even_sample(width)
        squares = self._samples[width]
        best = levels(squares.reshape(-1, self.index.dim)).reshape(len(vectors), *squares.shape[:2]).max(axis=1)
        return Query(views, levels, np.bincount(best.ravel(), minlength=LEVELS))

    def weigh_area(
        self,
        belief: Belief,
        total: float,
        queries: list[Query],
        lever: Float64,
        exponent: float,
        shares: Float64,
    ) -> Float64:
        """Multiply a belief over cells of the index, or over squares of them, by the likelihood of a frame.

        A square is as likely as the best of its cells, over a background of such squares.

        Args:
            belief: its window lies on the index's grid; changed in place.
            total: sum of its mass.
            queries: for each assumed scale, the queries at the belief's headings, made for the width of its cells.
            lever: ``(K, 2)`` east and north of the view's centre from the vehicle, metres.
            exponent: tempering, 0..1.
            shares: ``(scales,)`` prior share of each scale.

        Returns:
            ``(scales,) float64`` mean ratio over the belief for each scale: its evidence.
        """
        cell_m, width = self.index.cell_m, round(belief.cell_m / self.index.cell_m)
        row0 = round((self.index.n0 - belief.north_m) / cell_m - (width - 1) / 2)
        col0 = round((belief.east_m - self.index.e0) / cell_m - (width - 1) / 2)
        moved = np.rint((belief.offset + lever) / cell_m).astype(int)
        # Planes look up to a few cells beyond the window, where the index has them.
        margin = int(np.abs(moved).max())
        r_lo, r_hi = max(row0 - margin, 0), min(row0 + width * belief.mass.shape[1] + margin, self.index.rows)
        c_lo, c_hi = max(col0 - margin, 0), min(col0 + width * belief.mass.shape[2] + margin, self.index.cols)
        if r_hi <= r_lo or c_hi <= c_lo:
            return np.ones(len(queries))
        tables = [self.likelihood.table(query.background, exponent) for query in queries]
        for table in tables:
            table[NO_DATA] = 1
        gained = np.zeros(len(queries))
        height = max(1, BAND_BYTES // (len(queries) * len(belief.mass) * (c_hi - c_lo)))
        for start in range(r_lo, r_hi, height):
            stop = min(start + height, r_hi)
            end = min(stop + width - 1, self.index.rows)  # squares that begin in the band's last row end beyond it
            levels = self._room(len(queries), len(belief.mass), end - start, c_hi - c_lo)
            for query, found in zip(queries, levels, strict=True):
                self._score(query, start, c_lo, found)
            band = _Band(start - row0, stop - row0, c_lo - col0, width, levels, tables, belief.mass, moved, shares)
            gained += np.sum(parallel(band.weigh, range(len(moved))), axis=0)
            if width > 1 and self.index.descriptors.nbytes > KEPT_BYTES:
                self.index.let_go(start, stop)
        return np.asarray(1 + gained / max(total, 1e-300))

    def _room(self, scales: int, headings: int, rows: int, cols: int) -> list[npt.NDArray[np.uint8]]:
        """For each scale ``(headings, rows, cols) uint8``; kept between frames, since new memory costs milliseconds."""
        size = scales * headings * rows * cols
        if self._kept.size < size:
            self._kept = np.empty(size, np.uint8)
        return list(self._kept[:size].reshape(scales, headings, rows, cols))

    def _score(self, query: Query, r0: int, c0: int, found: npt.NDArray[np.uint8]) -> None:
        """Fill ``(K, rows, cols) uint8`` with the levels of the index from a cell on, `NO_DATA` where it has none."""
        _, rows, cols = found.shape
        height, c1 = max(1, BLOCK_CELLS // cols), c0 + cols
        flat = found.reshape(len(found), -1)

        def block(row: int) -> None:
            stop = min(row + height, rows)
            part = flat[:, row * cols : stop * cols]
            query.levels(self._cells(r0 + row, r0 + stop, c0, c1), part)
            if not self.all_valid:
                cv2.max(part, NO_DATA + 1, part)  # type: ignore[call-overload]
                part &= -self.valid[r0 + row : r0 + stop, c0:c1].reshape(-1).astype(np.uint8)

        parallel(block, range(0, rows, height))

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
        levels = np.empty((query.levels.headings, r1 - r0, c1 - c0), np.uint8)
        self._score(query, r0, c0, levels)
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
        row, stop, col: its first row, the row after its last, its first column: cells from the window's first.
        width: cells along the side of a state.
        levels: for each scale ``(K, rows, cols) uint8``, with the rows below that the last squares end in.
        tables: for each scale the ratio of each level.
        mass: of the belief; changed in place.
        moved: ``(K, 2) int`` cells east and north of a state that each heading looks at.
        shares: prior share of each scale.
    """

    row: int
    stop: int
    col: int
    width: int
    levels: list[npt.NDArray[np.uint8]]
    tables: list[Float32]
    mass: Float32
    moved: npt.NDArray[np.int_]
    shares: Float64

    def weigh(self, k: int) -> Float64:
        """Multiply the states of a heading; returns what each scale would add to their sum."""
        plane, (east, north), width = self.mass[k], self.moved[k], self.width
        # State (r, c) looks at index cell (width r - north, width c + east), in the window's coordinates.
        top, bottom = (_ceil(row + north, width) for row in (self.row, self.stop))
        left, right = (_ceil(col - east, width) for col in (self.col, self.col + self.levels[0].shape[2]))
        top, bottom = max(top, 0), min(bottom, plane.shape[0])
        left, right = max(left, 0), min(right, plane.shape[1])
        if bottom <= top or right <= left:
            return np.zeros(len(self.levels))
        first = width * top - north - self.row, width * left + east - self.col
        states = plane[top:bottom, left:right]
        held = sum_of(states)
        gained = np.zeros(len(self.levels))
        # A few rows at a time: their ratios stay in the cache, and no large array is made anew for each plane.
        height = max(1, BLOCK_CELLS * 8 // states.shape[1])
        for row in range(0, states.shape[0], height):
            some = states[row : row + height]
            gained += self._multiply(some, k, first[0] + width * row, first[1])
        return gained - held

    def _multiply(self, states: Float32, k: int, row: int, col: int) -> Float64:
        """Multiply states in place, which look at the band from this cell on; returns their sum under each scale."""
        rows, cols = (self.width * count for count in states.shape)
        seen = slice(row, row + rows), slice(col, col + cols)
        ratios = (
            np.asarray(cv2.LUT(best_of_squares(levels[k][seen], self.width), table[None]), np.float32)
            for levels, table in zip(self.levels, self.tables, strict=True)
        )
        if len(self.levels) == 1:
            cv2.multiply(states, next(ratios), states)
            return np.array([sum_of(states)])
        parts = np.stack([states * ratio for ratio in ratios])
        states[...] = np.tensordot(self.shares.astype(np.float32), parts, 1)
        return np.asarray(parts.sum(axis=(1, 2), dtype=np.float64))


def best_of_squares(values: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """The largest of each square.

    Args:
        values: ``(rows, cols)``; the last squares may be cut.
        width: of a square.

    Returns:
        ``(ceil(rows / width), ceil(cols / width)) uint8``.
    """
    if width == 1:
        return values
    below, right = (-count % width for count in values.shape)
    if below or right:
        values = np.pad(values, ((0, below), (0, right)))
    rows = reduce(_larger, [values[i::width] for i in range(width)])
    return reduce(_larger, [np.asarray(part, np.uint8) for part in cv2.split(rows.reshape(len(rows), -1, width))])


def _larger(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.max(one, other), np.uint8)


def _ceil(number: int, by: int) -> int:
    """A quotient, rounded up."""
    return -(-int(number) // by)
