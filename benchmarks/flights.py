"""The protocol's flights: where a vehicle flew, what its odometry said, and what its camera saw.

The map is one date of a place, the camera looks at another; truth comes from georeference alone.
Every method that is compared flies the same flights: the same seed gives the same path, the same
odometry and the same patches.

    place = load_north_dakota(data_dir())
    plan = plan_flight(place.pairs, index=17, footprint_m=160.0, area=place.common_area, seed=7)
    for observation in fly(plan, place.rasters[plan.query_date]):
        fix = localizer.update(observation.step, observation.patch)
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DISC_PX = 33
UPDATES = 50
STEP_M = 100.0
TURN_SIGMA_RAD = math.radians(15.0)
ODOMETRY_SHARE = 0.02
ODOMETRY_TURN_SIGMA_RAD = math.radians(1.5)
PHOTOMETRY = (0.8, 1.25)
PIXEL_NOISE = 0.03
YEARS_APART = 5


@dataclass(frozen=True)
class Raster:
    """A georeferenced grey image on a north-up grid.

    Attributes:
        grey: (H, W) float32 in [0, 1], row 0 north, NaN where there is no data.
        west_m, north_m: easting and northing of the outer corner of pixel (0, 0).
        gsd_m: a pixel's side, metres.
        crs: its CRS, as rasterio takes it.
        path: the file it came from.
        sha256: of that file.
    """

    grey: Array
    west_m: float
    north_m: float
    gsd_m: float
    crs: str = ""
    path: Path = Path()
    sha256: str = ""

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the outer edges, metres."""
        rows, cols = self.grey.shape
        return (
            self.west_m,
            self.north_m - rows * self.gsd_m,
            self.west_m + cols * self.gsd_m,
            self.north_m,
        )

    def sample(self, easting_m: Array, northing_m: Array) -> Array:
        """Grey at points of the ground, bilinear between pixel centres, NaN outside: same shape, float32."""
        cols = (easting_m - self.west_m) / self.gsd_m - 0.5
        rows = (self.north_m - northing_m) / self.gsd_m - 0.5
        return cv2.remap(
            self.grey,
            cols.astype(np.float32),
            rows.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(math.nan,),
        )


@dataclass(frozen=True)
class Place:
    """One ground at several dates: rasters by date (ISO), and the ordered pairs (map, query) to fly."""

    name: str
    rasters: dict[str, Raster]
    pairs: tuple[tuple[str, str], ...]

    @property
    def common_area(self) -> tuple[float, float, float, float]:
        """West, south, east, north of the ground that every date shows, metres."""
        bounds = np.array([raster.bounds for raster in self.rasters.values()])
        west, south = bounds[:, :2].max(axis=0)
        east, north = bounds[:, 2:].min(axis=0)
        return float(west), float(south), float(east), float(north)

    @property
    def sha256(self) -> str:
        """One hash of all files, in the order of their dates."""
        joined = "".join(self.rasters[date].sha256 for date in sorted(self.rasters))
        return hashlib.sha256(joined.encode()).hexdigest()


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
        patch: (33, 33) float32 in [0, 1], up is forward, NaN outside the footprint's disc.
        pose: (3,) float64, the true easting, northing, heading.
    """

    step: Odometry | None
    patch: Array
    pose: Array


def data_dir() -> Path:
    """Where the real data lie: ``$KITTIWAKE_DATA``, else ``../shared/data`` from the project's root."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    return Path(os.environ.get("KITTIWAKE_DATA", default)).resolve()


def load_north_dakota(data: Path) -> Place:
    """The seven NAIP dates of one ground in North Dakota, with every ordered pair of years 5 or more apart.

    Raises:
        FileNotFoundError: when the rasters are not there.
    """
    folder = data / "uav" / "naip_nd"
    files = sorted(folder.glob("m_4709963_se_14_1_*.tif"))
    if not files:
        raise FileNotFoundError(f"no NAIP rasters in {folder}; set KITTIWAKE_DATA to the data's folder")
    rasters = {}
    for file in files:
        day = file.stem[-8:]
        rasters[f"{day[:4]}-{day[4:6]}-{day[6:]}"] = read_grey(file)
    return Place("naip_nd", rasters, year_pairs(tuple(rasters)))


def year_pairs(dates: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Every ordered pair of ISO dates whose calendar years are at least `YEARS_APART` apart."""
    pairs = permutations(sorted(dates), 2)
    return tuple((a, b) for a, b in pairs if abs(int(a[:4]) - int(b[:4])) >= YEARS_APART)


def read_grey(path: Path) -> Raster:
    """Read the first three bands of a north-up GeoTIFF as grey (ITU-R 601 weights), placed by its georeference."""
    import rasterio

    with rasterio.open(path) as file:
        rgb = np.moveaxis(file.read([1, 2, 3]), 0, -1)
        seen = file.dataset_mask() > 0
        transform, crs = file.transform, file.crs.to_string()
    grey = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255.0
    grey[~seen] = np.nan
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Raster(grey, transform.c, transform.f, transform.a, crs, path, digest)


def plan_flight(
    pairs: tuple[tuple[str, str], ...],
    *,
    index: int,
    footprint_m: float,
    area: tuple[float, float, float, float],
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
    map_date, query_date = pairs[index % len(pairs)]
    west, south, east, north = area
    inner = (west + footprint_m, south + footprint_m, east - footprint_m, north - footprint_m)
    poses = _walk(inner, rng)
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


def fly(plan: FlightPlan, seen: Raster) -> Iterator[Observation]:
    """What the vehicle gets at each update, looking at `seen` (the raster of the plan's query date)."""
    rng = np.random.default_rng(plan.noise_seed)
    for step, pose in zip(plan.steps, plan.poses, strict=True):
        view = cut_patch(seen, pose, plan.footprint_m)
        yield Observation(step, _photographed(view, plan.gain, plan.gamma, rng), pose)


def glance(seen: Raster, pose: Array, footprint_m: float, rng: np.random.Generator) -> Array:
    """One view outside any flight, through a camera of its own: (33, 33) as in `Observation`."""
    return _photographed(cut_patch(seen, pose, footprint_m), *_camera(rng), rng)


def cut_patch(raster: Raster, pose: Array, footprint_m: float) -> Array:
    """The ground disc under a vehicle, turned so that up is forward.

    A patch pixel coarser than the raster's averages a grid of points over its own area, so that nothing
    aliases at any heading; a finer one is interpolated.

    Args:
        raster: the ground.
        pose: easting, northing (metres), heading (radians, counter-clockwise from east).
        footprint_m: diameter of the disc.

    Returns:
        (33, 33) float32, NaN outside the disc and where the raster has no data.
    """
    gsd_m = footprint_m / DISC_PX
    points = max(1, math.ceil(gsd_m / raster.gsd_m))
    side = DISC_PX * points
    ahead, right = disc_offsets(side, gsd_m / points)
    easting, northing, heading = pose
    sampled = raster.sample(
        easting + ahead * math.cos(heading) + right * math.sin(heading),
        northing + ahead * math.sin(heading) - right * math.cos(heading),
    )
    patch: Array = sampled.reshape(DISC_PX, points, DISC_PX, points).mean(axis=(1, 3))
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


def _photographed(view: Array, gain: float, gamma: float, rng: np.random.Generator) -> Array:
    """The view as the camera gives it: exposure, tone curve, then noise, within [0, 1]; float32."""
    exposed = np.clip(gain * view**gamma, 0.0, 1.0)
    noisy: Array = np.clip(exposed + rng.normal(0.0, PIXEL_NOISE, view.shape), 0.0, 1.0)
    return noisy.astype(np.float32)


def _walk(inner: tuple[float, float, float, float], rng: np.random.Generator) -> Array:
    """Uniform start, constant steps along a heading that wanders; (UPDATES, 3).

    The heading, not the path, is mirrored where the next step would leave `inner`: the vehicle turns on
    the spot, and every step is `STEP_M` long, straight ahead.
    """
    west, south, east, north = inner
    if east - west < 2 * STEP_M or north - south < 2 * STEP_M:
        raise ValueError(f"no room to fly: {east - west:.0f} x {north - south:.0f} m inside the border")
    poses = np.empty((UPDATES, 3))
    x, y = rng.uniform(west, east), rng.uniform(south, north)
    heading = rng.uniform(-math.pi, math.pi)
    for pose in poses:
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
