"""The point-mass filter: where the vehicle is on the map, or that it is somewhere else.

Two hypotheses share the probability: a `Belief` over cells and headings, and *elsewhere*: off the map, or outside
the window that the belief has shrunk to. Elsewhere, the map's likelihood of a frame is that of any wrong place,
whose ratio is one (`likelihood.py`). So a frame that fits nowhere moves probability there by itself, and nothing
has to converge.

The belief has two levels. *Area*: the index's cells and 36 headings, over the whole map or the part of it that
holds the mass; a search over a map of more than `WIDE_ABOVE` such states takes squares of cells instead. *Track*:
once the mass is together, cells a quarter as wide and headings 2.5 degrees apart in a window that follows the
vehicle. Sources: the point-mass filter of LSVL (arXiv 2212.03581); the off-map hypothesis, the exact sub-cell motion
and the levels are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .belief import Belief, Float32, Float64, Moments, gaussian, uniform
from .flight_log import OdometryStep
from .footprint import HEADINGS
from .matcher import Matcher, significant_planes

REFINE = 4
"""How many fine cells and headings stand where one coarse stood, along each axis."""

WIDE = 2
"""Cells along the side of a square."""

WIDE_ABOVE = 24_000_000
"""States: four bytes each, twice while they move. 63 km² at a footprint of 160 m."""

TRACK_CELLS = 96
TRACK_HEADINGS = 32

SCALES_UNKNOWN = np.exp(np.linspace(np.log(0.7), np.log(1.3), 9))
"""Heights to try, over the assumed one, when the ground's height is not known (± 30 %)."""


@dataclass(frozen=True)
class FilterConfig:
    """What the filter assumes. Probabilities unless a unit is named.

    Attributes:
        off_map: prior of starting outside the map; also says how large "outside" is beside the map.
        kidnap: chance in 100 m of flight that the belief has become wrong (a lost odometry, a carried vehicle).
        recover: share of the elsewhere mass that 100 m of flight spread evenly over the map; hover spreads none.
        evidence_exponent: tempering of a frame that shares no ground with the last; less where they overlap.
        scale_forget: share of the belief in a scale that each frame spreads evenly over all of them.
        track_std_m: the belief is refined below this position spread,
        area_std_m: and coarsened again above this one.
        track_heading_std_rad: and only while the heading is known this well.
    """

    off_map: float = 0.1
    kidnap: float = 1e-4
    recover: float = 0.02
    evidence_exponent: float = 1.0
    scale_forget: float = 0.1
    track_std_m: float = 30.0
    area_std_m: float = 42.0
    track_heading_std_rad: float = 0.12


class PointMassFilter:
    """The belief and the elsewhere hypothesis, moved by odometry and weighed by frames.

    Args:
        matcher: scores frames against the map's index.
        config: what it assumes.

    Attributes:
        belief: mass over cells and headings, given that the vehicle is within its window.
        elsewhere: probability that it is not.
        scale_shares: ``(scales,)`` probability of each assumed scale, once several were given.
    """

    def __init__(self, matcher: Matcher, config: FilterConfig | None = None) -> None:
        self.matcher = matcher
        self.config = config or FilterConfig()
        self.scale_shares: Float64 = np.ones(1)
        self.reset()

    def reset(self) -> None:
        """Forget everything: uniform over the map, with the prior of being outside it."""
        index = self.matcher.index
        width = WIDE if HEADINGS * index.rows * index.cols > WIDE_ABOVE else 1
        rows, cols = -(-index.rows // width), -(-index.cols // width)
        middle_m = (width - 1) / 2 * index.cell_m
        east_m, north_m = index.e0 + middle_m, index.n0 - middle_m
        self.__dict__.pop("belief", None)  # a large map's is not to be held twice
        self.belief: Belief = uniform(rows, cols, east_m, north_m, width * index.cell_m, HEADINGS)
        self.elsewhere = self.config.off_map
        self._total = 1.0

    def set_prior(self, mean: Float64, std_m: float, weight: float = 0.9) -> None:
        """A soft prior: most of the mass around a position, the rest even over the map, so a wrong one only delays.

        Args:
            mean: ``(2,)`` easting and northing, metres.
            std_m: standard deviation on each axis, metres.
            weight: share that the prior takes.
        """
        self.reset()
        self._blend(gaussian(self.belief, mean, np.eye(2) * std_m**2), weight)

    def turn_to(self, heading_rad: float, std_rad: float, weight: float = 0.9) -> None:
        """A soft prior of the heading: most of each cell's mass turns to it, the rest stays as it was."""
        headings = self.belief.headings
        difference = (headings - heading_rad + np.pi) % (2 * np.pi) - np.pi
        wanted = np.exp(-0.5 * (difference / np.hypot(std_rad, self.belief.heading_step / 2)) ** 2)
        share = self.belief.mass.sum(axis=(1, 2), dtype=np.float64) @ wanted / self._total
        factor = (1 - weight) + weight * wanted / max(float(share), 1e-12)
        self.belief.mass *= factor.astype(np.float32)[:, None, None]

    def widen(self, weight: float = 0.2) -> None:
        """Give up the present window: even over the map, with some mass left around where it was."""
        moments = self.belief.moments()
        self.reset()
        spread = moments.covariance + np.eye(2) * self.config.area_std_m**2
        self._blend(gaussian(self.belief, moments.mean, spread), weight)

    def _blend(self, mass: Float32, weight: float) -> None:
        self.belief.mass *= np.float32(1 - weight)
        mass *= np.float32(weight)
        self.belief.mass += mass

    @property
    def width(self) -> int:
        """Cells of the index along the side of a state; 1 for a track's, which are smaller."""
        return max(1, round(self.belief.cell_m / self.matcher.index.cell_m))

    @property
    def is_tracking(self) -> bool:
        """Whether the belief is at its fine level."""
        return bool(self.belief.cell_m < 0.99 * self.matcher.index.cell_m)

    @property
    def covers_map(self) -> bool:
        """Whether the belief's window is the whole map."""
        index = self.matcher.index
        whole = self.belief.mass.shape[1:] == (index.rows, index.cols) and not self.is_tracking
        return whole or self.width > 1

    def predict(self, step: OdometryStep) -> None:
        """Carry the belief along a step of odometry; mass that leaves the map joins the elsewhere hypothesis."""
        config = self.config
        flown = float(np.hypot(step.forward_m, step.left_m)) / 100
        self.elsewhere += (1 - (1 - config.kidnap) ** flown) * (1 - self.elsewhere)
        if self.is_tracking:
            self._keep_together(step)
        shift, inside, entering = (0, 0), 0.0, 0.0
        if self.is_tracking:
            shift = self._follow(step)
        elif self.covers_map:
            states = self.belief.mass.size
            odds = self.elsewhere / max(1 - self.elsewhere, 1e-9) * self._total
            inside = (1 - (1 - config.recover) ** flown) * odds / states
            entering = odds / (states * self._outside(step))
        else:
            self._make_room(step)
        before = self._total
        self.belief.move(
            step.forward_m,
            step.left_m,
            step.turn_rad,
            step.sigma_m,
            step.sigma_turn_rad,
            window_shift=shift,
            everywhere=inside,
            entering=entering,
        )
        self._total = self.belief.total()
        self._exchange(before, inside, entering)
        self._refill()

    def _outside(self, step: OdometryStep) -> float:
        """States outside over states on the map: what the prior says, but never less than a step brings in twice."""
        config, index = self.config, self.matcher.index
        length = float(np.hypot(step.forward_m, step.left_m))
        swept = length / index.cell_m * (1 / index.rows + 1 / index.cols)
        return max(config.off_map / (1 - config.off_map), 2 * swept)

    def _keep_together(self, step: OdometryStep) -> None:
        """Coarsen before a step that would spread the belief beyond its small window (a reset, a long blind leg)."""
        moments = self.belief.moments()
        across_m = float(np.hypot(step.forward_m, step.left_m)) * moments.heading_std_rad
        if np.sqrt(moments.std_m**2 + 2 * step.sigma_m**2 + across_m**2) > self.config.area_std_m:
            self._coarsen(moments)

    def _follow(self, step: OdometryStep) -> tuple[int, int]:
        """Whole cells (rows, cols) that keep the window around the vehicle."""
        moments = self.belief.moments()
        c, s = np.cos(moments.heading_rad), np.sin(moments.heading_rad)
        east = moments.mean[0] + c * step.forward_m - s * step.left_m
        north = moments.mean[1] + s * step.forward_m + c * step.left_m
        half = (TRACK_CELLS - 1) / 2
        cols = round((east - self.belief.east_m) / self.belief.cell_m - half)
        rows = round((self.belief.north_m - north) / self.belief.cell_m - half)
        return rows, cols

    def _make_room(self, step: OdometryStep) -> None:
        """Grow a window that is a part of the map by what the step may move."""
        belief, index = self.belief, self.matcher.index
        reach = float(np.hypot(step.forward_m, step.left_m)) + 4 * step.sigma_m
        margin = int(np.ceil(reach / belief.cell_m)) + 3
        row = round((index.n0 - belief.north_m) / belief.cell_m)
        col = round((belief.east_m - index.e0) / belief.cell_m)
        r0, c0 = max(row - margin, 0), max(col - margin, 0)
        r1 = min(row + belief.mass.shape[1] + margin, index.rows)
        c1 = min(col + belief.mass.shape[2] + margin, index.cols)
        self.belief = belief.window(r0 - row, c0 - col, max(r1 - r0, 1), max(c1 - c0, 1))

    def _exchange(self, before: float, inside: float, entering: float) -> None:
        """Book what left the window and what came in from elsewhere."""
        on_map = 1 - self.elsewhere
        if inside or entering:
            # Mass and probability are in proportion: what the belief gained or lost, elsewhere lost or gained.
            now = on_map * self._total / before
            self.elsewhere = min(max(1 - now, 1e-12), 1 - 1e-9)
            return
        kept = min(self._total / max(before, 1e-300), 1.0)
        self.elsewhere = min(1 - on_map * kept, 1 - 1e-9)

    def _refill(self) -> None:
        """A belief that has left the map altogether starts again, all of its probability being elsewhere."""
        if self._total < 1e-30:
            self.reset()
            self.elsewhere = 1 - 1e-9

    def weigh(self, patches: list[Float32], lever: tuple[float, float], exponent: float) -> float:
        """Update with a frame.

        Args:
            patches: ``(33, 33)`` or ``(33, 33, 3) float32`` views, up is forward; one for each assumed scale.
            lever: forward and left metres from the vehicle to the view's centre.
            exponent: how much of the frame is news, 0..1.

        Returns:
            The frame's evidence: natural logarithm of the belief's mean likelihood ratio against elsewhere.
        """
        if len(patches) != len(self.scale_shares):
            self.scale_shares = np.full(len(patches), 1 / len(patches))
        # The ground rises and falls, and frames seen while several places fit may have favoured a wrong scale.
        forget = self.config.scale_forget
        self.scale_shares = (1 - forget) * self.scale_shares + forget / len(patches)
        headings = self.belief.headings
        tracking = self.is_tracking
        asked = headings[significant_planes(self.belief)] if tracking else headings
        queries = [self.matcher.query(patch, asked, self.width) for patch in patches]
        c, s = np.cos(headings), np.sin(headings)
        offset = np.stack([c * lever[0] - s * lever[1], s * lever[0] + c * lever[1]], 1)
        weigh = self.matcher.weigh_track if tracking else self.matcher.weigh_area
        exponent *= self.config.evidence_exponent
        by_scale = weigh(self.belief, self._total, queries, offset, exponent, self.scale_shares)
        evidence = float(self.scale_shares @ by_scale)
        self.scale_shares = self.scale_shares * by_scale / evidence
        # Refinement changes the sum of a track's mass besides; an area's is large, and known.
        self._total = self.belief.total() if tracking else self._total * evidence
        on_map = (1 - self.elsewhere) * evidence
        self.elsewhere = float(np.clip(self.elsewhere / (self.elsewhere + on_map), 1e-12, 1 - 1e-9))
        self._normalize()
        return float(np.log(evidence))

    def _normalize(self) -> None:
        """Keep float32 in range; the mass is in proportion only, so this is rarely needed."""
        if not 1e-3 < self._total < 1e3:
            self.belief.mass *= np.float32(1 / self._total)
            self._total = 1.0

    def adapt(self) -> Moments:
        """Choose the level and the window that the mass asks for; returns the belief's moments."""
        moments, config = self.belief.moments(), self.config
        narrow = moments.heading_std_rad < config.track_heading_std_rad
        if self.is_tracking:
            if moments.std_m > config.area_std_m or not moments.heading_std_rad < 2 * config.track_heading_std_rad:
                self._coarsen(moments)
            else:
                self._center_headings(moments)
        elif moments.std_m < config.track_std_m and narrow and self.elsewhere < 0.1:
            self._replace(self.belief.refined(REFINE * self.width, REFINE, TRACK_CELLS, TRACK_HEADINGS))
        elif self.width == 1 and moments.std_m < 0.3 * self.belief.cell_m * max(self.belief.mass.shape[1:]):
            self._shrink()  # a wider belief fills its window
        return moments

    def _center_headings(self, moments: Moments) -> None:
        """Turn the track's window of headings by whole planes, so that the mean stays near its middle."""
        belief = self.belief
        middle = belief.headings[0] + belief.heading_step * (TRACK_HEADINGS - 1) / 2
        off = (moments.heading_rad - middle + np.pi) % (2 * np.pi) - np.pi
        planes = round(float(off) / belief.heading_step)
        if abs(planes) >= TRACK_HEADINGS // 8:
            self._replace(belief.turned_window(planes))

    def _coarsen(self, moments: Moments) -> None:
        """Back to the index's cells, in a window of the map around the mass."""
        index = self.matcher.index
        half = int(np.ceil((TRACK_CELLS / 2 * self.belief.cell_m + index.cell_m) / index.cell_m)) + 1
        row = int(np.clip(round((index.n0 - moments.mean[1]) / index.cell_m) - half, 0, index.rows - 1))
        col = int(np.clip(round((moments.mean[0] - index.e0) / index.cell_m) - half, 0, index.cols - 1))
        rows, cols = min(2 * half + 1, index.rows - row), min(2 * half + 1, index.cols - col)
        east, north = index.e0 + col * index.cell_m, index.n0 - row * index.cell_m
        coarse = uniform(rows, cols, east, north, index.cell_m, HEADINGS)
        coarse.mass[...] = 0
        # The mean heading is one of the coarse ones, or else a long step would go astray by half their spacing.
        coarse.headings = (coarse.headings + moments.heading_rad) % (2 * np.pi)
        self.belief.deposit_into(coarse)
        self._replace(coarse)

    def _shrink(self) -> None:
        """Keep the rows and columns that hold all but a millionth of the mass, when that is far fewer."""
        marginal = self.belief.marginal()
        spans = [_span(marginal.sum(axis=axis, dtype=np.float64)) for axis in (1, 0)]
        (r0, r1), (c0, c1) = spans
        if (r1 - r0) * (c1 - c0) < 0.5 * marginal.size:
            self._replace(self.belief.window(r0, c0, r1 - r0, c1 - c0))

    def _replace(self, belief: Belief) -> None:
        """Take another window; what it leaves out is elsewhere from now on."""
        kept = belief.total()
        share = min(kept / max(self._total, 1e-300), 1.0)
        self.belief, self._total = belief, kept
        self.elsewhere = min(1 - (1 - self.elsewhere) * share, 1 - 1e-9)
        self._refill()


def _span(profile: Float64, left_out: float = 5e-7) -> tuple[int, int]:
    cumulative = np.cumsum(profile) / max(profile.sum(), 1e-300)
    first = int(np.searchsorted(cumulative, left_out / 2))
    last = int(np.searchsorted(cumulative, 1 - left_out / 2)) + 1
    return min(first, len(profile) - 1), max(min(last, len(profile)), first + 1)
