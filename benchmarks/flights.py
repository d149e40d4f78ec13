"""The protocol's flights: where a vehicle flew, what its odometry said, and what its camera saw.

The map is one date of a place, the camera looks at another; truth comes from georeference alone.
Every method that is compared flies the same flights: the same seed gives the same path, the same
odometry and the same patches.

    place = load_north_dakota(data_dir())
    plan = plan_flight(place.pairs, index=17, footprint_m=160.0, area=place.common_area, seed=7)
    for observation in fly(plan, place.rasters[plan.query_date]):
        fix = localizer.update(observation.step, list(observation.view.rgb))
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from places import Area, Raster

from kittiwake_runtime.localization.descriptor import LUMA

Array = NDArray[Any]

DISC_PX = 33
UPDATES = 50
STEP_M = 100.0
TURN_SIGMA_RAD = math.radians(15.0)
ODOMETRY_SHARE = 0.02
ODOMETRY_TURN_SIGMA_RAD = math.radians(1.5)
PHOTOMETRY = (0.8, 1.25)
PIXEL_NOISE = 0.03
COLOUR_NOISE = PIXEL_NOISE / math.hypot(*LUMA)
"""Of red, green and blue alone: their grey then has `PIXEL_NOISE`."""


@dataclass(frozen=True)
class Odometry:
    """What odometry measured between two frames, in the body (FLU) of the earlier one; 1-sigma, SI units."""

    forward_m: float
    left_m: float
    turn_rad: float
    sigma_m: float
    sigma_turn_rad: float


@dataclass(frozen=True)
class FlightPlan:
    """A flight before the camera looks: the truth, what odometry said, and the camera's photometry.

    Attributes:
        index: number of the flight; with `seed` it decides everything else.
        map_date, query_date: what the map shows and what the camera sees.
        poses: (UPDATES, 3) float64: easting, northing (metres), heading (radians, counter-clockwise from
            east) at each update.
        steps: what led to each update; the first is None.
        gain, gamma: of the camera on this flight.
        noise_seed: of the pixel noise.
    """

    index: int
    map_date: str
    query_date: str
    footprint_m: float
    poses: Array
    steps: tuple[Odometry | None, ...]
    gain: float
    gamma: float
    noise_seed: int


@dataclass(frozen=True)
class Observation:
    """One update's input: odometry since the last one, the view, and the truth for the scorer alone.

    Attributes:
        step: None at the first update.
        view: what the camera showed.
        pose: (3,) float64, the true easting, northing, heading.
    """

    step: Odometry | None
    view: View
    pose: Array


@dataclass(frozen=True)
class View:
    """The ground as an integrator hands it to a localizer: through a grey camera, and through one that sees colours.

    Attributes:
        patch: (33, 33) float32 in [0, 1], up is forward, NaN outside the footprint's disc and where nothing is seen.
        rgb: (33, 33, 3) the same in red, green and blue, once for each height that is to be tried; one where the
            height is known.
        lever: metres forward and left from the vehicle to the patch's centre.
    """

    patch: Array
    rgb: tuple[Array, ...]
    lever: tuple[float, float] = (0.0, 0.0)


class Sensor(Protocol):
    """How the ground becomes a view; siblings of `Nadir` are in observation.py."""

    def views(self, plan: FlightPlan, seen: Raster) -> Iterator[View]:
        """A view for each of the plan's poses."""


@dataclass(frozen=True)
class Nadir:
    """The disc straight below, at its true scale: what the protocol observes unless a row says otherwise."""

    def views(self, plan: FlightPlan, seen: Raster) -> Iterator[View]:
        """A view for each of the plan's poses."""
        rng = np.random.default_rng(plan.noise_seed)
        for pose in plan.poses:
            yield _view(seen, pose, plan.footprint_m, plan.gain, plan.gamma, rng)


def plan_flight(
    pairs: tuple[tuple[str, str], ...],
    *,
    index: int,
    footprint_m: float,
    area: Area,
    seed: int,
) -> FlightPlan:
    """The flight `index`; consecutive flights take the pairs in turn, so that any first n cover them evenly.

    Args:
        pairs: ordered (map date, query date).
        footprint_m: diameter of the ground disc that the camera sees.
        area: west, south, east, north in metres; the path stays one footprint inside.
        seed: of the whole benchmark.
    """
    rng = np.random.default_rng([seed, index])
    west, south, east, north = area
    inner = (west + footprint_m, south + footprint_m, east - footprint_m, north - footprint_m)
    return _planned(pairs, index, footprint_m, _walk(inner, rng), rng)


def _planned(
    pairs: tuple[tuple[str, str], ...], index: int, footprint_m: float, poses: Array, rng: np.random.Generator
) -> FlightPlan:
    """A path with its camera and its odometry."""
    map_date, query_date = pairs[index % len(pairs)]
    gain, gamma = _camera(rng)
    return FlightPlan(
        index=index,
        map_date=map_date,
        query_date=query_date,
        footprint_m=footprint_m,
        poses=poses,
        steps=(None, *_odometry(poses, rng)),
        gain=gain,
        gamma=gamma,
        noise_seed=int(rng.integers(2**62)),
    )


def plan_entry(
    pairs: tuple[tuple[str, str], ...],
    *,
    index: int,
    footprint_m: float,
    area: Area,
    outside_m: float,
    updates: int,
    seed: int,
) -> FlightPlan:
    """A flight that starts `outside_m` beyond one side of the area, heads for a place in it, and then wanders there.

    Args:
        updates: of the whole flight.
        pairs, index, footprint_m, area, seed: as for `plan_flight`; the area is the map.
    """
    rng = np.random.default_rng([seed, index])
    west, south, east, north = area
    middle, half = np.array([west + east, south + north]) / 2, np.array([east - west, north - south]) / 2
    side = rng.integers(4)
    outward = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)][side])
    along = outward[::-1] * rng.uniform(-0.8, 0.8)
    start = middle + outward * (half + outside_m) + along * half
    target = middle + rng.uniform(-0.5, 0.5, 2) * half
    inner = (west + footprint_m, south + footprint_m, east - footprint_m, north - footprint_m)
    poses = _walk(inner, rng, updates, tuple(start), tuple(target))
    return _planned(pairs, index, footprint_m, poses, rng)


def fly(plan: FlightPlan, seen: Raster, sensor: Sensor | None = None) -> Iterator[Observation]:
    """What the vehicle gets at each update, looking at `seen` (the raster of the plan's query date)."""
    views = (sensor or Nadir()).views(plan, seen)
    for step, pose, view in zip(plan.steps, plan.poses, views, strict=True):
        yield Observation(step, view, pose)


def glance(seen: Raster, pose: Array, footprint_m: float, rng: np.random.Generator) -> View:
    """One view outside any flight, through a camera of its own."""
    return _view(seen, pose, footprint_m, *_camera(rng), rng)


def _view(seen: Raster, pose: Array, footprint_m: float, gain: float, gamma: float, rng: np.random.Generator) -> View:
    """The disc straight below; colours have noise of their own, so that grey is what it is without them."""
    grey, rgb = (cut_patch(seen, pose, footprint_m, rgb=in_colour) for in_colour in (False, True))
    coloured = photographed(rgb, gain, gamma, rng.spawn(1)[0], COLOUR_NOISE)
    return View(photographed(grey, gain, gamma, rng), (coloured,))


def cut_patch(raster: Raster, pose: Array, footprint_m: float, *, rgb: bool = False) -> Array:
    """The ground disc under a vehicle, turned so that up is forward.

    A patch pixel coarser than the raster's averages a grid of points over its own area, so that nothing
    aliases at any heading; a finer one is interpolated.

    Args:
        raster: the ground.
        pose: easting, northing (metres), heading (radians, counter-clockwise from east).
        footprint_m: diameter of the disc.
        rgb: whether in colour.

    Returns:
        (33, 33) or (33, 33, 3) float32, NaN outside the disc and where the raster has no data.
    """
    gsd_m = footprint_m / DISC_PX
    points = max(1, math.ceil(gsd_m / raster.gsd_m))
    side = DISC_PX * points
    ahead, right = disc_offsets(side, gsd_m / points)
    easting, northing, heading = pose
    sampled = (raster.sample_rgb if rgb else raster.sample)(
        easting + ahead * math.cos(heading) + right * math.sin(heading),
        northing + ahead * math.sin(heading) - right * math.cos(heading),
    )
    patch: Array = sampled.reshape(DISC_PX, points, DISC_PX, points, *sampled.shape[2:]).mean(axis=(1, 3))
    patch[~disc_mask()] = np.nan
    return patch


def disc_offsets(side: int, gsd_m: float) -> tuple[Array, Array]:
    """Metres ahead and to the right of the centre, for each pixel of a square view: two (side, side) arrays."""
    offset = (np.arange(side) - (side - 1) / 2) * gsd_m
    right, behind = np.meshgrid(offset, offset)
    return -behind, right


def disc_mask() -> Array:
    """(33, 33) bool: True within 16.5 px of the centre."""
    ahead, right = disc_offsets(DISC_PX, 1.0)
    return np.hypot(ahead, right) <= DISC_PX / 2


def _camera(rng: np.random.Generator) -> tuple[float, float]:
    """Gain and gamma of a flight, uniform in their logarithm."""
    gain, gamma = np.exp(rng.uniform(math.log(PHOTOMETRY[0]), math.log(PHOTOMETRY[1]), size=2))
    return float(gain), float(gamma)


def photographed(view: Array, gain: float, gamma: float, rng: np.random.Generator, noise: float = PIXEL_NOISE) -> Array:
    """The view as the camera gives it: exposure, tone curve, then noise, within [0, 1]; float32."""
    exposed = np.clip(gain * view**gamma, 0.0, 1.0)
    noisy: Array = np.clip(exposed + rng.normal(0.0, noise, view.shape), 0.0, 1.0)
    return noisy.astype(np.float32)


def _walk(
    inner: Area,
    rng: np.random.Generator,
    updates: int = UPDATES,
    start: tuple[float, float] | None = None,
    target: tuple[float, float] | None = None,
) -> Array:
    """Uniform start (or a given one), constant steps along a heading that wanders; (updates, 3).

    The heading, not the path, is mirrored where the next step would leave `inner`: the vehicle turns on
    the spot, and every step is `STEP_M` long, straight ahead. A start outside flies towards `target`, its
    heading wavering about the bearing, until it is within `inner`.
    """
    west, south, east, north = inner
    if east - west < 2 * STEP_M or north - south < 2 * STEP_M:
        raise ValueError(f"no room to fly: {east - west:.0f} x {north - south:.0f} m inside the border")
    poses = np.empty((updates, 3))
    x, y = start or (rng.uniform(west, east), rng.uniform(south, north))
    heading = rng.uniform(-math.pi, math.pi)
    for pose in poses:
        if target is not None and not (west <= x <= east and south <= y <= north):
            heading = math.atan2(target[1] - y, target[0] - x) + rng.normal(0.0, TURN_SIGMA_RAD)
        else:
            if not west <= x + STEP_M * math.cos(heading) <= east:
                heading = math.pi - heading
            if not south <= y + STEP_M * math.sin(heading) <= north:
                heading = -heading
        pose[:] = x, y, _wrapped(heading)
        x, y = x + STEP_M * math.cos(heading), y + STEP_M * math.sin(heading)
        heading += rng.normal(0.0, TURN_SIGMA_RAD)
    return poses


def _odometry(poses: Array, rng: np.random.Generator) -> Iterator[Odometry]:
    """Noisy measurements of the steps between consecutive poses."""
    for before, after in pairwise(poses):
        east, north, heading = after[0] - before[0], after[1] - before[1], before[2]
        sigma_m = ODOMETRY_SHARE * math.hypot(east, north)
        yield Odometry(
            forward_m=east * math.cos(heading) + north * math.sin(heading) + rng.normal(0.0, sigma_m),
            left_m=north * math.cos(heading) - east * math.sin(heading) + rng.normal(0.0, sigma_m),
            turn_rad=_wrapped(after[2] - heading + rng.normal(0.0, ODOMETRY_TURN_SIGMA_RAD)),
            sigma_m=sigma_m,
            sigma_turn_rad=ODOMETRY_TURN_SIGMA_RAD,
        )


def _wrapped(angle: float) -> float:
    return math.remainder(angle, 2 * math.pi)
