"""The baseline: gradient-orientation NCC over every position and heading, and a point-mass filter.

- Feature: gradient direction averaged to 10 m a pixel. With ``fold=2`` the angle is doubled, so that a border
  between two fields stays the same where the crops swap their brightness: a stronger rival than the
  ``fold=1`` that the project's first figures were measured with, and given beside it.
- Match: normalised correlation of the view's disc, turned to 36 headings, with the whole map by FFT.
- Likelihood: kernel-density ratio of the scores of right and of wrong places, learned on other dates of
  the same ground than the two at hand.
- Filter: point mass on 20 m cells and 36 headings, uniform start; converged below 60 m of spread.

One thread, numpy and scipy. Orientation correlation: Fitch et al., BMVC 2002; score to probability by
kernel density: Kinnari et al., ICAR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import scipy.fft  # type: ignore[import-untyped,unused-ignore]
from flights import DISC_PX, Odometry, disc_mask, disc_offsets, glance
from numpy.typing import NDArray
from places import Raster

Array = NDArray[Any]

PIXEL_M = 10.0
POOL = 2
CELL_M = PIXEL_M * POOL
HEADINGS = 36
HEADING_STEP_RAD = 2 * math.pi / HEADINGS
CONVERGED_M = 60.0
RECALL_M = 60.0

FLAT_GRADIENT = 0.03
"""Grey levels a pixel, of 1, below which a gradient's direction is noise."""
FLAT_AVERAGE = 0.1
"""Length below which an averaged direction is noise."""
SMOOTH_PX = 0.7
SUBSAMPLES = 3

OUTLIERS = 0.1
"""Share of right places whose score says nothing: floors the likelihood ratio of any one frame."""
SCORE_BINS = 400
CALIBRATION_VIEWS = 100
WRONG_PER_VIEW = 4000


@dataclass(frozen=True)
class NccFix:
    """The filter's answer: grid metres and radians, covariance (2, 2) in m², converged by spread alone."""

    easting_m: float
    northing_m: float
    heading_rad: float
    covariance: Array
    converged: bool

    @property
    def position_std_m(self) -> float:
        """Square root of the covariance's trace."""
        return math.sqrt(float(np.trace(self.covariance)))


class NccMap:
    """A map as orientations at 10 m a pixel, with its spectrum ready for views of one footprint.

    Scores are defined where the view's disc lies wholly on the map; (rows, cols) of them, pooled to cells.
    Cell (r, c) has its centre at easting ``east_m + c * CELL_M``, northing ``north_m - r * CELL_M``.
    """

    def __init__(self, raster: Raster, footprint_m: float, fold: int = 1) -> None:
        self.footprint_m = footprint_m
        self._fold = fold
        west, south, east, north = raster.bounds
        rows, cols = int((north - south) // PIXEL_M), int((east - west) // PIXEL_M)
        self._side = _template_side(footprint_m)
        valid_rows, valid_cols = rows - self._side + 1, cols - self._side + 1
        if min(valid_rows, valid_cols) < POOL:
            raise ValueError(f"the map is smaller than the footprint of {footprint_m:g} m")
        self.rows, self.cols = valid_rows // POOL, valid_cols // POOL
        margin_m = self._side // 2 * PIXEL_M + CELL_M / 2
        self.east_m, self.north_m = west + margin_m, north - margin_m

        features = _map_features(raster, rows, cols, fold)
        self._shape = tuple(scipy.fft.next_fast_len(n) for n in (rows, cols))
        self._spectrum = self._spectrum_of(features)
        disc = _turned_views(_inner(disc_mask()), footprint_m)[:1]
        strength = self._spectrum_of(np.abs(features) ** 2)
        self._energy = np.maximum(self._correlate(strength, disc)[0], 1e-3)

    def scores(self, patch: Array) -> Array:
        """Correlation in [-1, 1] of a view with every cell and heading: (36, rows, cols) float32.

        Heading k is ``2 π k / 36`` of the vehicle's forward axis; a cell takes the best of its pixels.
        """
        templates = view_features(patch, self.footprint_m, self._fold)
        norms = np.sqrt(np.sum(np.abs(templates) ** 2, axis=(1, 2), keepdims=True) + 1e-9)
        scores = self._correlate(self._spectrum, templates / norms) / np.sqrt(self._energy)
        pooled: Array = scores.reshape(HEADINGS, self.rows, POOL, self.cols, POOL).max(axis=(2, 4))
        return pooled

    def nearest_state(self, pose: Array) -> tuple[int, int, int] | None:
        """Index (heading, row, col) of the state at a pose; None off the scored ground."""
        row = round((self.north_m - pose[1]) / CELL_M)
        col = round((pose[0] - self.east_m) / CELL_M)
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            return None
        return round(pose[2] / HEADING_STEP_RAD) % HEADINGS, row, col

    def cell_centres(self) -> tuple[Array, Array]:
        """Eastings (cols,) and northings (rows,) of the cells, metres."""
        return (
            self.east_m + np.arange(self.cols) * CELL_M,
            self.north_m - np.arange(self.rows) * CELL_M,
        )

    def _spectrum_of(self, image: Array) -> Array:
        spectrum: Array = scipy.fft.fft2(image.astype(np.complex64), self._shape, workers=None)
        return spectrum

    def _correlate(self, spectrum: Array, templates: Array) -> Array:
        """Real part of the correlation where a template lies wholly on the map: (N, rows * 2, cols * 2)."""
        views = scipy.fft.fft2(templates.astype(np.complex64), self._shape, workers=None)
        surface = scipy.fft.ifft2(spectrum * np.conj(views), workers=None, overwrite_x=True).real
        return np.ascontiguousarray(surface[:, : self.rows * POOL, : self.cols * POOL])


class NccLocalizer:
    """Point mass over (heading, row, col), fed with one view and one odometry step at a time."""

    def __init__(self, ncc_map: NccMap, likelihood: ScoreLikelihood) -> None:
        self._map = ncc_map
        self._likelihood = likelihood
        states = (HEADINGS, ncc_map.rows, ncc_map.cols)
        self.belief = np.full(states, 1.0 / np.prod(states), np.float32)

    def update(self, step: Odometry | None, patch: Array) -> NccFix:
        """Move the belief by the step, weigh it by the view, and say where that puts the vehicle."""
        if step is not None:
            self.belief = predict(self.belief, step)
        self.belief *= self._likelihood.ratio(self._map.scores(patch))
        self.belief /= self.belief.sum(dtype=np.float64)
        return self._fix()

    def _fix(self) -> NccFix:
        eastings, northings = self._map.cell_centres()
        ground = self.belief.sum(axis=0, dtype=np.float64)
        over_cols, over_rows = ground.sum(axis=0), ground.sum(axis=1)
        easting, northing = float(over_cols @ eastings), float(over_rows @ northings)
        de, dn = eastings - easting, northings - northing
        mixed = float(dn @ ground @ de)
        covariance = np.array([[over_cols @ de**2, mixed], [mixed, over_rows @ dn**2]])
        covariance += np.eye(2) * CELL_M**2 / 12
        angles = np.arange(HEADINGS) * HEADING_STEP_RAD
        heading = np.angle(self.belief.sum(axis=(1, 2), dtype=np.float64) @ np.exp(1j * angles))
        converged = math.sqrt(float(np.trace(covariance))) < CONVERGED_M
        return NccFix(easting, northing, float(heading), covariance, converged)


@dataclass(frozen=True)
class ScoreLikelihood:
    """Likelihood ratio of a right place over any place, as a table over scores from -1 to 1."""

    table: Array

    def ratio(self, scores: Array) -> Array:
        """p(score | right) / p(score | wrong), same shape, float32."""
        index = ((scores + 1.0) * (SCORE_BINS / 2)).astype(np.int32)
        ratios: Array = self.table[np.clip(index, 0, SCORE_BINS - 1)]
        return ratios

    @classmethod
    def fit(cls, right: Array, wrong: Array) -> ScoreLikelihood:
        """Kernel densities of both kinds of scores, their ratio made monotone and floored by `OUTLIERS`."""
        ratio = _density(right) / _density(wrong)
        pivot = int((np.median(wrong) + 1.0) * SCORE_BINS / 2)  # both tails are thin: trust the middle
        ratio[pivot:] = np.maximum.accumulate(ratio[pivot:])
        ratio[:pivot] = np.minimum.accumulate(ratio[:pivot][::-1])[::-1]
        return cls(((1 - OUTLIERS) * ratio + OUTLIERS).astype(np.float32))


def calibrate(
    pairs: Iterable[tuple[Raster, Raster]],
    footprint_m: float,
    rng: np.random.Generator,
    fold: int = 1,
) -> ScoreLikelihood:
    """Fit the likelihood on pairs of dates (map, seen) that are not flown.

    Args:
        pairs: rasters of other dates of the ground.
        rng: decides poses, photometry and which wrong scores are kept.
        fold: of the maps that the likelihood is for.
    """
    pairs = list(pairs)
    views = math.ceil(CALIBRATION_VIEWS / len(pairs))
    right: list[float] = []
    wrong: list[Array] = []
    for map_raster, seen in pairs:
        ncc_map = NccMap(map_raster, footprint_m, fold)
        for _ in range(views):
            pose = _random_pose(ncc_map, rng)
            scores = ncc_map.scores(glance(seen, pose, ncc_map.footprint_m, rng).patch)
            state = ncc_map.nearest_state(pose)
            assert state is not None
            right.append(float(scores[state]))
            wrong.append(rng.choice(scores.ravel(), WRONG_PER_VIEW))
    return ScoreLikelihood.fit(np.array(right), np.concatenate(wrong))


def single_frame_hits(
    ncc_map: NccMap, seen: Raster, poses: Array, rng: np.random.Generator, within_m: float = RECALL_M
) -> list[bool]:
    """Of each view, whose best-scoring state is found, whether that is within `within_m` of the true position.

    Args:
        ncc_map: the map of one date.
        seen: what the camera looks at, another date or season.
        poses: (N, 3) easting, northing, heading.
        rng: decides each view's photometry.
    """
    eastings, northings = ncc_map.cell_centres()
    hits = []
    for pose in poses:
        scores = ncc_map.scores(glance(seen, pose, ncc_map.footprint_m, rng).patch)
        _, row, col = np.unravel_index(int(np.argmax(scores)), scores.shape)
        hits.append(math.hypot(eastings[col] - pose[0], northings[row] - pose[1]) < within_m)
    return hits


def predict(belief: Array, step: Odometry) -> Array:
    """Shift each heading's ground by the step, turn, and blur by the noise; mass that leaves the map is lost.

    The blur across a step is the odometry's noise and the width of a heading bin over the step's length.
    """
    length_m = math.hypot(step.forward_m, step.left_m)
    bin_sigma_m = length_m * HEADING_STEP_RAD / math.sqrt(12)
    blur_cells = math.hypot(step.sigma_m, bin_sigma_m) / CELL_M
    rows, cols = belief.shape[1:]
    moved = np.empty_like(belief)
    for k in range(HEADINGS):
        heading = k * HEADING_STEP_RAD
        east = step.forward_m * math.cos(heading) - step.left_m * math.sin(heading)
        north = step.forward_m * math.sin(heading) + step.left_m * math.cos(heading)
        shift = np.array([[1, 0, east / CELL_M], [0, 1, -north / CELL_M]])
        moved[k] = cv2.warpAffine(belief[k], shift, (cols, rows), flags=cv2.INTER_LINEAR)
        moved[k] = cv2.GaussianBlur(moved[k], (5, 5), blur_cells, borderType=cv2.BORDER_CONSTANT)
    turn = step.turn_rad / HEADING_STEP_RAD
    whole, part = math.floor(turn), turn - math.floor(turn)
    turned = (1 - part) * np.roll(moved, whole, axis=0) + part * np.roll(moved, whole + 1, axis=0)
    side = 0.5 * (step.sigma_turn_rad / HEADING_STEP_RAD) ** 2
    turned = (1 - 2 * side) * turned + side * (np.roll(turned, 1, axis=0) + np.roll(turned, -1, axis=0))
    return turned.astype(np.float32)


def view_features(patch: Array, footprint_m: float, fold: int) -> Array:
    """Orientations of a view, turned to each heading and averaged to 10 m: (36, T, T) complex64, map frame."""
    seen = np.isfinite(patch)
    filled = np.where(seen, patch, np.mean(patch[seen])).astype(np.float32)
    fine = _orientations(filled, fold) * _inner(seen)
    turned = _turned_views(fine.real, footprint_m) + 1j * _turned_views(fine.imag, footprint_m)
    angles = np.arange(HEADINGS) * HEADING_STEP_RAD - math.pi / 2
    return _softened(turned * np.exp(1j * fold * angles)[:, None, None])


def _map_features(raster: Raster, rows: int, cols: int, fold: int) -> Array:
    """Orientations of the map averaged to 10 m: (rows, cols) complex64, zero without data."""
    fine = _orientations(np.nan_to_num(raster.grey, nan=float(np.nanmean(raster.grey))), fold)
    east = raster.west_m + (np.arange(cols * 2) + 0.5) * PIXEL_M / 2
    north = raster.north_m - (np.arange(rows * 2) + 0.5) * PIXEL_M / 2
    points = np.meshgrid(east, north)
    averaged = []
    for part in (fine.real, fine.imag):
        layer = Raster(np.ascontiguousarray(part), raster.west_m, raster.north_m, raster.gsd_m)
        sampled = np.nan_to_num(layer.sample(*points))
        averaged.append(sampled.reshape(rows, 2, cols, 2).mean(axis=(1, 3)))
    return _softened(averaged[0] + 1j * averaged[1])


def _orientations(grey: Array, fold: int) -> Array:
    """Gradient angle (counter-clockwise from image right) times `fold`; length 0 to 1 by its strength."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), SMOOTH_PX)
    right = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) / 8
    up = -cv2.Sobel(smooth, cv2.CV_32F, 0, 1) / 8
    gradient = right + 1j * up
    direction = gradient / np.sqrt(np.abs(gradient) ** 2 + FLAT_GRADIENT**2)
    folded: Array = (direction**fold).astype(np.complex64)
    return folded


def _inner(seen: Array) -> Array:
    """Where a gradient has all its neighbours: the seen pixels less their rim, uint8."""
    return cv2.erode(seen.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0)


def _softened(averaged: Array) -> Array:
    softened: Array = (averaged / (np.abs(averaged) + FLAT_AVERAGE)).astype(np.complex64)
    return softened


def _template_side(footprint_m: float) -> int:
    """Pixels of a template's side, odd, so that it has a centre."""
    return math.ceil(footprint_m / PIXEL_M) | 1


def _turned_views(image: Array, footprint_m: float) -> Array:
    """A body-frame patch resampled north-up under each heading: (36, T, T) float32, zero outside."""
    side = _template_side(footprint_m)
    image = np.ascontiguousarray(image, dtype=np.float32)
    cols, rows = _turning_grid(footprint_m)
    turned = cv2.remap(image, cols, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(0,))
    averaged: Array = turned.reshape(HEADINGS, side, SUBSAMPLES, side, SUBSAMPLES).mean(axis=(2, 4))
    return averaged


@lru_cache(maxsize=8)
def _turning_grid(footprint_m: float) -> tuple[Array, Array]:
    """Patch columns and rows to read for every heading and sub-pixel: two (36 * S, S) float32."""
    side = _template_side(footprint_m) * SUBSAMPLES
    north, east = disc_offsets(side, PIXEL_M / SUBSAMPLES)
    headings = (np.arange(HEADINGS) * HEADING_STEP_RAD)[:, None, None]
    ahead = east * np.cos(headings) + north * np.sin(headings)
    right = east * np.sin(headings) - north * np.cos(headings)
    centre, gsd_m = (DISC_PX - 1) / 2, footprint_m / DISC_PX
    shape = (HEADINGS * side, side)
    return (
        (centre + right / gsd_m).reshape(shape).astype(np.float32),
        (centre - ahead / gsd_m).reshape(shape).astype(np.float32),
    )


def _random_pose(ncc_map: NccMap, rng: np.random.Generator) -> Array:
    eastings, northings = ncc_map.cell_centres()
    return np.array(
        [
            rng.uniform(eastings[0], eastings[-1]),
            rng.uniform(northings[-1], northings[0]),
            rng.uniform(-math.pi, math.pi),
        ]
    )


def _density(scores: Array) -> Array:
    """Gaussian kernel density (Scott's bandwidth) over the score bins; positive everywhere."""
    counts, edges = np.histogram(scores, bins=SCORE_BINS, range=(-1.0, 1.0))
    sigma_bins = float(np.std(scores)) * len(scores) ** -0.2 / (edges[1] - edges[0])
    density = cv2.GaussianBlur(counts[None].astype(np.float64), (0, 0), max(sigma_bins, 0.5))[0]
    normal: Array = density / density.sum() + 1e-9
    return normal
