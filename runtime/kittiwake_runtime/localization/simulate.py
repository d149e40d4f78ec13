"""Flights over the procedural world: what camera, attitude sensor, rangefinder and odometry would have said.

Each image is made pixel by pixel from where its ray meets the ground, the inverse of what orthorectification
does, so the one checks the other. The ground is a plane; grid metres are taken as metres on the ground (they
differ by less than 0.04 % within a UTM zone).

    frames = simulate_flight(World(1), bounds=(0, 0, 10_000, 10_000), season="winter", date_seed=3, seed=7)
    write_flight(frames, DEFAULT_CAMERA, "flight")
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.localization.camera import Camera, save_camera
from kittiwake_runtime.localization.flight_log import Frame, Odometry, OdometryStep, write_frames
from kittiwake_runtime.localization.frames import Grid, body_to_ned, wrap_angle
from kittiwake_runtime.localization.world import (
    CRS,
    ORIGIN_EASTING_M,
    ORIGIN_NORTHING_M,
    Bounds,
    Season,
    World,
)

Floats = NDArray[np.float64]
Rgb8 = NDArray[np.uint8]

DEFAULT_CAMERA = Camera(
    360, 300, fx=186.0, fy=186.0, cx=180.4, cy=148.9, distortion=(-0.08, 0.012, 0.0006, -0.0004, 0.0),
    name="simulated",
)  # fmt: skip
"""Sees a disc of 160 m from 120 m above ground, with room for tilt."""

_MAX_VIEW_PX = 1000


@dataclass(frozen=True)
class Motion:
    """How the vehicle moves, and how well it is measured; the defaults are the benchmark's protocol.

    Attributes:
        step_m: distance between updates; speed_m_s: sets the time between them.
        walk_rad: standard deviation of the change of heading before a step.
        odometry_share: standard deviation of the measured step, per axis, as a share of its length.
        odometry_turn_rad: standard deviation of the measured turn.
    """

    step_m: float = 100.0
    speed_m_s: float = 20.0
    walk_rad: float = math.radians(15.0)
    odometry_share: float = 0.02
    odometry_turn_rad: float = math.radians(1.5)


@dataclass(frozen=True)
class Sensors:
    """What the sensors see, and how badly; standard deviations unless said otherwise.

    Attributes:
        height_agl_m: mean height above ground; height_walk_share: of the true height about it.
        height_noise_share: of the measured height about the true one.
        tilt_rad: of the true roll and pitch; attitude_noise_rad: of the measured angles about the true ones.
        exposure: gain and gamma of a flight lie between 1 / exposure and exposure, evenly in logarithms.
        pixel_noise: of a pixel, as a share of white.
    """

    height_agl_m: float = 120.0
    height_walk_share: float = 0.03
    height_noise_share: float = 0.01
    tilt_rad: float = math.radians(3.0)
    attitude_noise_rad: float = math.radians(0.4)
    exposure: float = 1.25
    pixel_noise: float = 0.03


@dataclass(frozen=True)
class SimulatedFrame:
    """One image with what was measured, and the truth.

    Attributes:
        time_s: UTC.
        image: (H, W, 3) uint8 RGB.
        attitude_rad: measured roll, pitch, yaw, body FRD in NED, yaw clockwise from true north.
        height_agl_m: measured.
        step: measured motion since the frame before, None for the first.
        odometry: the measured steps added up, in a local FLU frame that starts at zero.
        easting_m, northing_m, heading_rad: the truth on the grid; heading counter-clockwise from east.
    """

    time_s: float
    image: Rgb8
    attitude_rad: tuple[float, float, float]
    height_agl_m: float
    step: OdometryStep | None
    odometry: Odometry
    easting_m: float
    northing_m: float
    heading_rad: float


@dataclass(frozen=True)
class Truth:
    """Where the vehicle is, in the world's metres, its heading there, and the true attitude and height."""

    x_m: float
    y_m: float
    heading_rad: float
    roll_rad: float = 0.0
    pitch_rad: float = 0.0
    height_agl_m: float = 120.0


def simulate_flight(
    world: World,
    *,
    bounds: Bounds,
    season: Season,
    date_seed: int = 0,
    camera: Camera = DEFAULT_CAMERA,
    updates: int = 50,
    start: tuple[float, float] | None = None,
    heading_rad: float | None = None,
    motion: Motion | None = None,
    sensors: Sensors | None = None,
    border_m: float = 160.0,
    seed: int = 0,
    start_time_s: float = 1_750_000_000.0,
    crs: str = CRS,
    origin_m: tuple[float, float] = (ORIGIN_EASTING_M, ORIGIN_NORTHING_M),
    threads: int | None = None,
) -> Iterator[SimulatedFrame]:
    """Fly a random walk over the world.

    Args:
        bounds: (x_min, y_min, x_max, y_max) in the world's metres; the walk is reflected ``border_m`` inside.
        season, date_seed: the date of the flight, as for :meth:`World.render`.
        camera: its mount counts.
        updates: frames to make.
        start: in the world's metres; uniform within the bounds when None, and so is ``heading_rad``.
        motion, sensors: how it flies, and what is measured.
        seed: of all random numbers of the flight.
        start_time_s: time of the first frame.
        crs, origin_m: where the world lies, as given to ``write_geotiff``: true north depends on it.
        threads: to render with.

    Yields:
        A frame for each update; the same flight for the same arguments.

    Raises:
        ValueError: the bounds hold no ground ``border_m`` inside, or the start is not on it.
    """
    motion, sensors = motion or Motion(), sensors or Sensors()
    rng = np.random.default_rng(seed)
    grid = Grid.from_crs(crs)
    inner = _inner(bounds, border_m, motion.step_m)
    x, y = start if start is not None else (rng.uniform(inner[0], inner[2]), rng.uniform(inner[1], inner[3]))
    if not (inner[0] <= x <= inner[2] and inner[1] <= y <= inner[3]):
        raise ValueError(f"the start ({x:.0f}, {y:.0f}) is not {border_m:.0f} m inside the bounds {bounds}")
    heading = rng.uniform(-math.pi, math.pi) if heading_rad is None else heading_rad
    gain, gamma = np.exp(rng.uniform(-1, 1, 2) * math.log(sensors.exposure))
    log = _Log(motion, rng)
    for update in range(updates):
        step = None
        if update:
            turned = _turn(heading, x, y, inner, motion, rng)
            x, y = x + motion.step_m * math.cos(turned), y + motion.step_m * math.sin(turned)
            step, heading = log.step(float(wrap_angle(turned - heading))), turned
        truth = _sway(x, y, heading, sensors, rng)
        image = photograph(world, camera, truth, season, date_seed, threads=threads)
        easting, northing = x + origin_m[0], y + origin_m[1]
        noise = rng.normal(0.0, sensors.attitude_noise_rad, 3)
        yaw = math.radians(float(grid.yaw_deg(heading, easting, northing)))
        yield SimulatedFrame(
            time_s=start_time_s + update * motion.step_m / motion.speed_m_s,
            image=expose(image, float(gain), float(gamma), sensors.pixel_noise, rng),
            attitude_rad=(truth.roll_rad + noise[0], truth.pitch_rad + noise[1], (yaw + noise[2]) % math.tau),
            height_agl_m=truth.height_agl_m * (1 + sensors.height_noise_share * rng.normal()),
            step=step,
            odometry=log.pose,
            easting_m=easting,
            northing_m=northing,
            heading_rad=heading,
        )


def photograph(
    world: World,
    camera: Camera,
    truth: Truth,
    season: Season,
    date_seed: int = 0,
    *,
    threads: int | None = None,
) -> Rgb8:
    """(H, W, 3) uint8 RGB of what a camera sees of the world; black above the horizon.

    The ground is rendered at the finest sample among the image's pixels at nadir, and read off at the point
    where each pixel's ray meets it.
    """
    points = _ground_points(camera, truth)
    seen = np.isfinite(points).all(axis=-1)
    if not seen.any():
        return np.zeros((camera.height, camera.width, 3), np.uint8)
    low, high = points[seen].min(axis=0), points[seen].max(axis=0)
    gsd = max(truth.height_agl_m / max(camera.fx, camera.fy), float((high - low).max()) / _MAX_VIEW_PX)
    west, north = low[0] - 2 * gsd, high[1] + 2 * gsd
    columns, rows = (math.ceil(extent) + 4 for extent in (high - low) / gsd)
    ground = world.render(
        (west, north - rows * gsd, west + columns * gsd, north), gsd, season, date_seed, threads=threads
    )
    column = (points[..., 0] - west) / gsd - 0.5
    row = (north - points[..., 1]) / gsd - 0.5
    at = [np.where(seen, axis, -10.0).astype(np.float32) for axis in (column, row)]
    return np.asarray(cv2.remap(ground, at[0], at[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT), dtype=np.uint8)


def write_flight(frames: Iterable[SimulatedFrame], camera: Camera, folder: str | Path, *, crs: str = CRS) -> Path:
    """Write a flight as ``kittiwake locate`` reads it: ``frames.csv``, ``camera.yaml`` and ``images/*.jpg``.

    Args:
        frames: of :func:`simulate_flight`; each image is written as it comes.
        camera: that made them.
        folder: made when missing.
        crs: the same as for the flight, for the truth's latitude and longitude.

    Returns:
        The path of ``frames.csv``.
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    grid, rows = Grid.from_crs(crs), []
    for number, frame in enumerate(frames):
        file = folder / "images" / f"{number:05}.jpg"
        if not cv2.imwrite(str(file), frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92]):
            raise OSError(f"{file}: the image could not be written")
        lat, lon = grid.to_wgs84(frame.easting_m, frame.northing_m)
        roll, pitch, yaw = (math.degrees(angle) for angle in frame.attitude_rad)
        rows.append(
            Frame(
                file=file, time_s=frame.time_s, roll_deg=roll, pitch_deg=pitch, yaw_deg=yaw,
                height_agl_m=frame.height_agl_m, odometry=frame.odometry, truth=(float(lat), float(lon)),
            )
        )  # fmt: skip
    save_camera(camera, folder / "camera.yaml")
    write_frames(folder / "frames.csv", rows)
    return folder / "frames.csv"


@dataclass
class _Log:
    """Odometry as it is measured: noisy steps, and their sum."""

    motion: Motion
    rng: np.random.Generator
    pose: Odometry = field(default_factory=lambda: Odometry(0.0, 0.0, 0.0))

    def step(self, turn_rad: float) -> OdometryStep:
        """Measure a step that first turned by so much."""
        motion = self.motion
        sigma = motion.odometry_share * motion.step_m
        forward = motion.step_m * math.cos(turn_rad) + self.rng.normal(0.0, sigma)
        left = motion.step_m * math.sin(turn_rad) + self.rng.normal(0.0, sigma)
        turn = turn_rad + self.rng.normal(0.0, motion.odometry_turn_rad)
        yaw = math.radians(self.pose.yaw_deg)
        self.pose = Odometry(
            self.pose.x_m + forward * math.cos(yaw) - left * math.sin(yaw),
            self.pose.y_m + forward * math.sin(yaw) + left * math.cos(yaw),
            math.degrees(float(wrap_angle(yaw + turn))),
        )
        dt = motion.step_m / motion.speed_m_s
        return OdometryStep(forward, left, turn, sigma, motion.odometry_turn_rad, dt)


def _inner(bounds: Bounds, border_m: float, step_m: float) -> Bounds:
    inner = (bounds[0] + border_m, bounds[1] + border_m, bounds[2] - border_m, bounds[3] - border_m)
    if min(inner[2] - inner[0], inner[3] - inner[1]) < step_m:
        raise ValueError(f"the bounds {bounds} leave no step of {step_m:.0f} m {border_m:.0f} m inside their border")
    return inner


def _turn(heading: float, x: float, y: float, inner: Bounds, motion: Motion, rng: np.random.Generator) -> float:
    """The next step's heading: a random walk, mirrored at the border."""
    heading += rng.normal(0.0, motion.walk_rad)
    if not inner[0] <= x + motion.step_m * math.cos(heading) <= inner[2]:
        heading = math.pi - heading
    if not inner[1] <= y + motion.step_m * math.sin(heading) <= inner[3]:
        heading = -heading
    return float(wrap_angle(heading))


def _sway(x: float, y: float, heading: float, sensors: Sensors, rng: np.random.Generator) -> Truth:
    roll, pitch = rng.normal(0.0, sensors.tilt_rad, 2)
    height = sensors.height_agl_m * (1 + sensors.height_walk_share * rng.normal())
    return Truth(x, y, heading, float(roll), float(pitch), float(height))


def _ground_points(camera: Camera, truth: Truth) -> Floats:
    """(H, W, 2) east and north in the world where the pixels' rays meet the ground, NaN where they do not."""
    # The grid's north stands in for north here: only the angle against the grid matters to the picture.
    body_to_grid = body_to_ned(truth.roll_rad, truth.pitch_rad, math.pi / 2 - truth.heading_rad)
    rays = _pixel_rays(camera) @ (body_to_grid @ camera.mount.optical_to_body).T
    north, east, down = body_to_grid @ camera.mount.position_m
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(rays[..., 2] > 0.1, (truth.height_agl_m - down) / rays[..., 2], np.nan)
    return np.stack([truth.x_m + east + rays[..., 1] * reach, truth.y_m + north + rays[..., 0] * reach], axis=-1)


@functools.lru_cache(maxsize=4)
def _pixel_rays(camera: Camera) -> Floats:
    """(H, W, 3) directions of all pixels in the optical frame; undistorting takes longer than the rest of a picture."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = camera.rays(np.stack([u, v], axis=-1))
    rays.setflags(write=False)
    return rays


def expose(image: Rgb8, gain: float, gamma: float, noise: float, rng: np.random.Generator) -> Rgb8:
    """What a camera's sensor makes of a view.

    Args:
        image: (H, W, 3) uint8 RGB.
        gain, gamma: of the exposure.
        noise: standard deviation of a pixel, as a share of white.
        rng: of the noise.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    value = (image.astype(np.float32) / 255) ** np.float32(gamma)
    value *= min(gain, 0.98 / max(float(np.quantile(value, 0.98)), 0.1))  # no camera leaves snow blown out
    value += rng.normal(0.0, noise, image.shape).astype(np.float32)
    return np.asarray(np.clip(value * 255 + 0.5, 0, 255), dtype=np.uint8)
