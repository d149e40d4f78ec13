"""A point-mass belief on (x, y, heading): the arrays and what motion and matches do to them.

Every heading has its own plane of cells, and every plane carries the exact distance that it was moved beyond
whole cells. So a step moves planes by whole cells and remembers the rest: nothing is interpolated, and a belief
spreads by the odometry's noise alone, however many steps are taken (bilinear shifting would add up to a quarter
of a cell squared a step). A turn changes the headings' common zero and moves nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from .threads import parallel, single_threaded_blas

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

MIXING_VARIANCE = 0.06
"""Turn noise, in squared heading steps, that is saved up before neighbouring planes are mixed."""


@dataclass(frozen=True)
class Moments:
    """What a belief says in a few numbers.

    Attributes:
        mean: ``(2,) float64`` easting and northing, metres.
        covariance: ``(2, 2) float64``, square metres, the cells' own width included.
        heading_rad: circular mean, counter-clockwise from grid east.
        heading_std_rad: circular standard deviation, the bin's own width included.
        planes: ``(K,) float64`` share of each heading.
    """

    mean: Float64
    covariance: Float64
    heading_rad: float
    heading_std_rad: float
    planes: Float64

    @property
    def std_m(self) -> float:
        """Root of the covariance's trace, metres."""
        return float(np.sqrt(np.trace(self.covariance)))


@dataclass
class Belief:
    """Mass over cells and headings. Row 0 is the northernmost, as in an image.

    Attributes:
        mass: ``(K, rows, cols) float32``, not normalized.
        east_m, north_m: centre of cell (0, 0) of a plane that has no offset, metres.
        cell_m: width of a cell, metres.
        headings: ``(K,) float64`` radians counter-clockwise from grid east, evenly spaced.
        offset: ``(K, 2) float64`` east and north metres by which each plane lies beside the cells' grid.
        turn_variance: turn noise that was not mixed in yet, rad².
    """

    mass: Float32
    east_m: float
    north_m: float
    cell_m: float
    headings: Float64
    offset: Float64 = field(default_factory=lambda: np.zeros((0, 2)))
    turn_variance: float = 0.0
    _spare: Float32 | None = None

    def __post_init__(self) -> None:
        if not len(self.offset):
            self.offset = np.zeros((len(self.headings), 2))

    @property
    def heading_step(self) -> float:
        """Angle between neighbouring planes, radians."""
        return float((self.headings[1] - self.headings[0] + np.pi) % (2 * np.pi) - np.pi)

    @property
    def is_full_circle(self) -> bool:
        """Whether the last plane's neighbour is the first."""
        return len(self.headings) * self.heading_step > 2 * np.pi - 1e-6

    def total(self) -> float:
        """Sum of the mass."""
        return float(sum(parallel(sum_of, self.mass)))

    def moments(self) -> Moments:
        """Mean, covariance and heading of the belief, and each heading's share."""
        _, rows, cols = self.mass.shape
        x = np.arange(cols) * self.cell_m
        y = -np.arange(rows) * self.cell_m
        powers = np.stack([np.ones(cols), x, x * x], 1).astype(np.float32)

        def plane_sums(plane: Float32) -> Float64:
            by_row = (plane @ powers).astype(np.float64)
            one, first, second = by_row.T
            return np.array([one.sum(), first.sum(), y @ one, second.sum(), y @ first, (y * y) @ one])

        with single_threaded_blas():
            sums = np.array(parallel(plane_sums, self.mass))
        return self._moments_of(sums)

    def _moments_of(self, sums: Float64) -> Moments:
        m, sx, sy, sxx, sxy, syy = sums.T
        dx, dy = self.offset.T
        total = m.sum()
        mx, my = (sx + m * dx).sum() / total, (sy + m * dy).sum() / total
        xx = (sxx + 2 * dx * sx + m * dx * dx).sum() / total - mx * mx
        yy = (syy + 2 * dy * sy + m * dy * dy).sum() / total - my * my
        xy = (sxy + dx * sy + dy * sx + m * dx * dy).sum() / total - mx * my
        covariance = np.array([[max(xx, 0.0), xy], [xy, max(yy, 0.0)]]) + np.eye(2) * self.cell_m**2 / 12
        planes = m / total
        resultant = complex((planes * np.exp(1j * self.headings)).sum())
        spread = -2 * np.log(min(max(abs(resultant), 1e-12), 1.0)) + self.heading_step**2 / 12
        return Moments(
            np.array([self.east_m + mx, self.north_m + my]),
            covariance,
            float(np.angle(resultant)),
            float(np.sqrt(spread + self.turn_variance)),
            planes,
        )

    def marginal(self) -> Float32:
        """``(rows, cols) float32``: mass over all headings, for pictures and windows."""
        return np.asarray(self.mass.sum(axis=0), np.float32)

    def move(
        self,
        forward_m: float,
        left_m: float,
        turn_rad: float,
        sigma_m: float,
        sigma_turn_rad: float,
        *,
        window_shift: tuple[int, int] = (0, 0),
        everywhere: float = 0.0,
        entering: float = 0.0,
    ) -> None:
        """Predict: carry the belief along one step of odometry.

        Args:
            forward_m, left_m: displacement in the body's FLU frame before the turn, metres.
            turn_rad: change of heading, counter-clockwise.
            sigma_m: standard deviation of the displacement on each axis, metres.
            sigma_turn_rad: standard deviation of the turn.
            window_shift: whole cells (rows, cols) by which the window follows the vehicle.
            everywhere: mass added to every state (recovery from a wrong belief).
            entering: mass of every state whose predecessor lay outside the window (flying in).
        """
        self.turn_variance += sigma_turn_rad**2
        mixing = self._take_mixing()
        length = float(np.hypot(forward_m, left_m))
        # A plane stands for all headings of its bin: the chord between them is noise across the motion.
        across_m = length * self.heading_step / np.sqrt(12)
        c, s = np.cos(self.headings), np.sin(self.headings)
        beside = self.offset / self.cell_m
        self.offset = self.offset + np.stack([c * forward_m - s * left_m, s * forward_m + c * left_m], 1)
        cells = np.rint(self.offset / self.cell_m)
        self.offset -= cells * self.cell_m
        direction = np.arctan2(left_m, forward_m) + self.headings
        old, new = self.mass, self._buffer()

        def one(k: int) -> None:
            plane = old[k] if mixing == 0.0 else self._mixed(old, beside, k, mixing)
            kernel = blur_kernel(sigma_m / self.cell_m, across_m / self.cell_m, float(direction[k]), max(plane.shape))
            rows = int(-cells[k, 1]) - window_shift[0]
            cols = int(cells[k, 0]) - window_shift[1]
            _blur_and_shift(plane, kernel, rows, cols, new[k], everywhere, everywhere + entering)

        parallel(one, range(len(old)))
        self.mass, self._spare = new, old
        self.east_m += window_shift[1] * self.cell_m
        self.north_m -= window_shift[0] * self.cell_m
        self.headings = (self.headings + turn_rad) % (2 * np.pi)

    def _buffer(self) -> Float32:
        if self._spare is None or self._spare.shape != self.mass.shape:
            return np.empty_like(self.mass)
        return self._spare

    def _take_mixing(self) -> float:
        """Share that each neighbour gives and takes now: half the variance saved up, in squared heading steps."""
        variance = self.turn_variance / self.heading_step**2
        if variance < MIXING_VARIANCE:
            return 0.0
        taken = min(variance, 0.5)
        self.turn_variance -= taken * self.heading_step**2
        return taken / 2

    def _mixed(self, old: Float32, beside: Float64, k: int, share: float) -> Float32:
        """Plane k after it exchanged mass with its neighbours; `beside` are the planes' offsets in cells."""
        plane: Float32 = old[k] * np.float32(1 - 2 * share)
        for neighbour in (k - 1, k + 1):
            if not 0 <= neighbour < len(old):
                if not self.is_full_circle:
                    continue
                neighbour %= len(old)
            east, north = beside[neighbour] - beside[k]
            _add_shifted(plane, old[neighbour], -int(np.rint(north)), int(np.rint(east)), share)
        return plane

    def window(self, row: int, col: int, rows: int, cols: int) -> Belief:
        """The same belief in another window, cells beyond the present one being empty."""
        mass = np.zeros((len(self.mass), rows, cols), np.float32)
        r0, r1 = max(row, 0), min(row + rows, self.mass.shape[1])
        c0, c1 = max(col, 0), min(col + cols, self.mass.shape[2])
        if r1 > r0 and c1 > c0:
            mass[:, r0 - row : r1 - row, c0 - col : c1 - col] = self.mass[:, r0:r1, c0:c1]
        east, north = self.east_m + col * self.cell_m, self.north_m - row * self.cell_m
        return Belief(mass, east, north, self.cell_m, self.headings.copy(), self.offset.copy(), self.turn_variance)

    def turned_window(self, planes: int) -> Belief:
        """The same belief with its window of headings moved by whole planes; those that come in are empty."""
        mass, offset = np.roll(self.mass, -planes, 0), np.roll(self.offset, -planes, 0)
        fresh = slice(len(mass) - planes, None) if planes > 0 else slice(0, -planes)
        mass[fresh], offset[fresh] = 0, 0
        headings = (self.headings + planes * self.heading_step) % (2 * np.pi)
        return Belief(mass, self.east_m, self.north_m, self.cell_m, headings, offset, self.turn_variance)

    def refined(self, cells: int, headings: int, window: int, planes: int) -> Belief:
        """A finer belief around the mean: every cell split into cells², every heading into `headings`.

        Args:
            cells, headings: how many new ones stand where one stood, along each axis.
            window: rows and columns of the result, in new cells.
            planes: headings of the result, around the mean one.
        """
        moments = self.moments()
        k = int(np.argmax(np.cos(self.headings - moments.heading_rad)))
        per_side = planes // headings // 2
        source = [(k + i) % len(self.headings) for i in range(-per_side, per_side)]
        fine = self.cell_m / cells
        half = window // cells // 2 + 2
        col = round((moments.mean[0] - self.east_m) / self.cell_m) - half
        row = round((self.north_m - moments.mean[1]) / self.cell_m) - half
        part = self.window(row, col, 2 * half + 1, 2 * half + 1)
        big = (
            (part.mass[source] / np.float32(headings * cells**2)).repeat(headings, 0).repeat(cells, 1).repeat(cells, 2)
        )
        step = self.heading_step / headings
        within = (np.arange(headings) - (headings - 1) / 2) * step
        angles = (self.headings[source][:, None] + within).reshape(-1)
        edge = (cells - 1) / 2 * fine
        result = Belief(
            big,
            part.east_m - edge,
            part.north_m + edge,
            fine,
            angles,
            self.offset[source].repeat(headings, 0),
        )
        result._settle()
        trim = (big.shape[1] - window) // 2
        return result.window(trim, trim, window, window)

    def _settle(self) -> None:
        """Move planes by the whole cells of their offsets, as a finer grid needs."""
        cells = np.rint(self.offset / self.cell_m).astype(int)
        self.offset -= cells * self.cell_m
        moved = np.zeros_like(self.mass)
        for k, (east, north) in enumerate(cells):
            _add_shifted(moved[k], self.mass[k], -north, east, 1.0)
        self.mass = moved

    def deposit_into(self, coarse: Belief) -> None:
        """Add this belief's mass to a coarser one of a full circle, each cell's to the four cells around it.

        So the mean stays where it is, however narrow the belief. A heading goes to the nearest coarse one.
        """
        _, rows, cols = self.mass.shape
        x = self.east_m + np.arange(cols) * self.cell_m - coarse.east_m
        y = coarse.north_m - self.north_m + np.arange(rows) * self.cell_m
        for k, plane in enumerate(self.mass):
            into = int(np.argmax(np.cos(coarse.headings - self.headings[k])))
            east, north = self.offset[k] - coarse.offset[into]
            by_row = _shares((y - north) / coarse.cell_m, coarse.mass.shape[1])
            by_col = _shares((x + east) / coarse.cell_m, coarse.mass.shape[2])
            coarse.mass[into] += by_row.T @ plane @ by_col


def _shares(at: Float64, cells: int) -> Float32:
    """``(n, cells) float32``: what each of two neighbouring cells gets of a point at a fractional cell."""
    return np.asarray(np.maximum(1 - np.abs(at[:, None] - np.arange(cells)), 0), np.float32)


def sum_of(plane: Float32) -> float:
    """The sum of an array of two axes, in float64; OpenCV's is four times as fast as numpy's."""
    return float(cv2.sumElems(plane)[0])


def blur_kernel(along: float, across: float, direction_rad: float, reach: int = 1 << 30) -> Float32:
    """A kernel with the exact second moments of odometry noise, in cells.

    Args:
        along: standard deviation on both axes.
        across: more of it across the direction of motion.
        direction_rad: of the motion, counter-clockwise from east.
        reach: cells beyond which nothing is blurred, the plane's size: what would land there is left out.

    Returns:
        ``(2 n + 1, 2 n + 1) float32``, rows towards the south, summing to one within its reach.
    """
    s, c = np.sin(direction_rad), np.cos(direction_rad)
    xx = along**2 + (across * s) ** 2
    yy = along**2 + (across * c) ** 2
    xy = -(across**2) * s * c
    if along >= 1:
        return _sampled_gaussian(xx, yy, xy, min(int(np.ceil(5 * np.sqrt(max(xx, yy)))), reach))
    times = max(1, int(np.ceil(max(xx, yy) / 0.4)))
    return _repeated_kernel(times, round(xx / times, 4), round(yy / times, 4), round(xy / times, 4))


def _sampled_gaussian(xx: float, yy: float, xy: float, radius: int) -> Float32:
    """Exact where no axis is narrower than a cell; repeated stencils would take its square of steps."""
    x = np.arange(-radius, radius + 1)
    y = -x[:, None]
    determinant = xx * yy - xy * xy
    exponent = (yy * x * x - 2 * xy * x * y + xx * y * y) / (2 * determinant)
    return np.asarray(np.exp(-exponent) / (2 * np.pi * np.sqrt(determinant)), np.float32)


@lru_cache(maxsize=4096)
def _repeated_kernel(times: int, xx: float, yy: float, xy: float) -> Float32:
    # The 3x3 stencil of these moments; where the axes are too unlike, its correlation is cut, never its width.
    corner = np.clip(xy, -min(xx, yy), min(xx, yy))
    up, down = max(corner, 0) / 2, max(-corner, 0) / 2
    x, y = (xx - abs(corner)) / 2, (yy - abs(corner)) / 2
    # Row 0 is north: the product of east and north is positive at the upper right and the lower left.
    stencil = np.array([[down, y, up], [x, 1 - 2 * (x + y + up + down), x], [up, y, down]])
    kernel = stencil
    for _ in range(times - 1):
        kernel = cv2.filter2D(np.pad(kernel, 1), -1, stencil, borderType=cv2.BORDER_CONSTANT)
    return kernel.astype(np.float32)


def _blur_and_shift(
    plane: Float32, kernel: Float32, rows: int, cols: int, out: Float32, inside: float, entering: float
) -> None:
    """``out`` = the blurred plane moved by whole cells, plus `inside` everywhere and `entering` where it came in."""
    if rows == 0 and cols == 0:
        cv2.filter2D(plane, -1, kernel, dst=out, delta=inside, borderType=cv2.BORDER_CONSTANT)
        return
    blurred = cv2.filter2D(plane, -1, kernel, delta=inside, borderType=cv2.BORDER_CONSTANT)
    out[...] = entering
    target, source = _overlap(out.shape, rows, cols)
    out[target] = blurred[source]


def _add_shifted(target: Float32, source: Float32, rows: int, cols: int, share: float) -> None:
    into, of = _overlap(target.shape, rows, cols)
    target[into] += source[of] * np.float32(share)


def _overlap(shape: tuple[int, ...], rows: int, cols: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where a plane moved by (rows, cols) lands in itself, and what of it lands there."""
    height, width = shape
    target = (
        slice(min(max(rows, 0), height), max(min(height + rows, height), 0)),
        slice(min(max(cols, 0), width), max(min(width + cols, width), 0)),
    )
    source = (
        slice(min(max(-rows, 0), height), max(min(height - rows, height), 0)),
        slice(min(max(-cols, 0), width), max(min(width - cols, width), 0)),
    )
    return target, source


def uniform(rows: int, cols: int, east_m: float, north_m: float, cell_m: float, headings: int) -> Belief:
    """A belief that knows nothing: one over all states."""
    angles = np.arange(headings) * 2 * np.pi / headings
    mass = np.full((headings, rows, cols), 1 / (headings * rows * cols), np.float32)
    return Belief(mass, east_m, north_m, cell_m, angles)


def gaussian(grid: Belief, mean: Float64, covariance: Float64, heading: tuple[float, float] | None = None) -> Float32:
    """Mass of a Gaussian on a belief's grid, summing to one.

    Args:
        grid: gives cells and headings.
        mean, covariance: ``(2,)`` and ``(2, 2)``, metres.
        heading: mean and standard deviation, radians; None says nothing about it.
    """
    _, rows, cols = grid.mass.shape
    dx = grid.east_m + np.arange(cols) * grid.cell_m - mean[0]
    dy = grid.north_m - np.arange(rows) * grid.cell_m - mean[1]
    inverse = np.linalg.inv(covariance + np.eye(2) * grid.cell_m**2 / 12)
    exponent = inverse[0, 0] * dx**2 + 2 * inverse[0, 1] * dx * dy[:, None] + inverse[1, 1] * dy[:, None] ** 2
    plane = np.exp(-0.5 * exponent)
    weight = np.ones(len(grid.headings))
    if heading is not None:
        difference = (grid.headings - heading[0] + np.pi) % (2 * np.pi) - np.pi
        weight = np.exp(-0.5 * (difference / np.hypot(heading[1], grid.heading_step / np.sqrt(12))) ** 2)
    mass, total = np.empty(grid.mass.shape, np.float32), max(plane.sum(), 1e-300)
    for k, share in enumerate(weight / weight.sum()):  # one at a time: all of a large map's in float64 are too many
        mass[k] = share * plane / total
    return mass
