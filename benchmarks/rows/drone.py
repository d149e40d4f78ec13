"""Thirty real drone photos over a real map (drone_photos.py): each alone, and one after the other."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from baselines.ncc import NccMap
from drone_photos import write_drone_flight
from numpy.typing import NDArray
from places import Raster, data_dir, read_raster
from results import Figure
from scoring import FALSE_M

from kittiwake_runtime.engines.base import Engine
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.camera import Camera, load_camera
from kittiwake_runtime.localization.descriptor import Descriptor, in_colours
from kittiwake_runtime.localization.flight import Observation, fly
from kittiwake_runtime.localization.flight_log import Frame, odometry_steps, read_frames, read_image
from kittiwake_runtime.localization.footprint import DISC_PX
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.map_build import build_index
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.orthorectify import Patch, orthorectify
from rows.figures import share_figure
from rows.recall import best_state
from rows.run import SEED, Run, of_bundle

Array = NDArray[Any]

FOOTPRINT_M = 95.0
"""The largest disc, in steps of 5 m, that every photo shows whole."""
GEOREF_SIGMA_M = 2.0
WITHIN_M = 20.0
ODOMETRY_SEEDS = 10
NCC_ZOOM = 4.0
"""The baseline works in pixels of 10 m, for footprints of some hundreds: the ground is blown up to that."""
NCC_GSD_M = 1.25


@dataclass(frozen=True)
class Photos:
    """The photos on an index of their map.

    Attributes:
        truth: (N, 2) easting and northing on the index's grid; images: of each; patches: of the ground below each.
    """

    index: MapIndex
    map_file: Path
    camera: Camera
    frames: list[Frame]
    images: list[Array]
    patches: list[Patch]
    truth: Array


def measure_drone(run: Run) -> list[Figure]:
    """Against the corrected truth; against raw GPS and the map as it is beside it."""
    figures = []
    for suffix, corrected in (("", True), ("_raw", False)):
        with tempfile.TemporaryDirectory() as made, open_engine(run.bundle, device="cpu", threads=2) as engine:
            photos = _prepare(run, Path(made), corrected)
            data = f"fengyuan_dji, {'corrected' if corrected else 'raw GPS'} truth; {of_bundle(run.bundle)}"
            single = [_single_m(photos, engine, i) for i in range(len(photos.frames))]
            rival = ncc_single_m(photos)
            baseline = 100 * float(np.mean(np.array(rival) < WITHIN_M))
            note = "one photo at a time, heading unknown, on the whole map"
            bars = (">= 85", "<= 8") if corrected else (None, None)
            figures.append(
                share_figure(f"drone.single_20m{suffix}", [[error < WITHIN_M for error in single]], bar=bars[0],
                             baseline=baseline, data=data, note=note)
            )  # fmt: skip
            seeds = run.count(ODOMETRY_SEEDS, 2)
            errors = np.array([_flown_m(photos, engine, Path(made), corrected, seed) for seed in range(1, seeds + 1)])
            figures += _final(errors, suffix, bars[1], data)
            photos.index.close()
    return figures


def ncc_single_m(photos: Photos) -> list[float]:
    """The baseline's error of each photo, metres; it takes the same patch, on a map blown up to its pixels."""
    fine = read_raster(photos.map_file)
    shrink = fine.gsd_m / NCC_GSD_M
    grey = cv2.resize(fine.grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA)
    # Blown up about the north-west corner, which is the origin of what NCC sees.
    ncc_map = NccMap(Raster(grey, 0.0, 0.0, NCC_GSD_M * NCC_ZOOM), FOOTPRINT_M * NCC_ZOOM)
    eastings, northings = (fine.west_m + axis / NCC_ZOOM if i == 0 else fine.north_m + axis / NCC_ZOOM
                           for i, axis in enumerate(ncc_map.cell_centres()))  # fmt: skip
    errors = []
    for patch, truth in zip(photos.patches, photos.truth, strict=True):
        scores = ncc_map.scores(in_colours(patch.image, 1)[..., 0])
        heading, row, col = np.unravel_index(int(np.argmax(scores)), scores.shape)
        centre = (eastings[col], northings[row], 2 * math.pi * heading / len(scores))
        errors.append(math.dist(vehicle_at(centre, patch), truth))
    return errors


def vehicle_at(centre: tuple[float, float, float], patch: Patch) -> tuple[float, float]:
    """Easting and northing of the vehicle whose view is centred there, at that heading."""
    c, s = math.cos(centre[2]), math.sin(centre[2])
    forward, left = patch.centre_forward_m, patch.centre_left_m
    return centre[0] - c * forward + s * left, centre[1] - s * forward - c * left


def _prepare(run: Run, folder: Path, corrected: bool) -> Photos:
    write_drone_flight(data_dir() / "uav" / "fengyuan_dji", folder, corrected=corrected)
    index = build_index(
        [folder / "map.tif"], folder / "area.kwmap", footprint_m=FOOTPRINT_M, bundle=run.bundle,
        georef_sigma_m=GEOREF_SIGMA_M,
    )  # fmt: skip
    camera, frames = load_camera(folder / "camera.yaml"), read_frames(folder / "frames.csv")
    images = [read_image(frame.file) for frame in frames]
    patches = [
        orthorectify(image, camera, frame.attitude_rad, _height_m(frame), index.gsd_m, DISC_PX)
        for image, frame in zip(images, frames, strict=True)
    ]
    truth = np.array([index.grid.from_wgs84(*frame.truth) for frame in frames if frame.truth is not None])
    return Photos(index, folder / "map.tif", camera, frames, images, patches, truth)


def _single_m(photos: Photos, engine: Engine, number: int) -> float:
    patch = photos.patches[number]
    centre = best_state(photos.index, Descriptor(engine), patch.image)
    return math.dist(vehicle_at(centre, patch), photos.truth[number])


def _flown_m(photos: Photos, engine: Engine, folder: Path, corrected: bool, seed: int) -> list[float]:
    """The error at each photo of one flight, NaN where it is not converged."""
    write_drone_flight(data_dir() / "uav" / "fengyuan_dji", folder / "flown", corrected=corrected, seed=seed)
    frames = read_frames(folder / "flown" / "frames.csv")
    steps = [None, *odometry_steps(frames)]
    observations = [
        Observation(frame.time_s, image, frame.attitude_rad, _height_m(frame), True, step, (truth[0], truth[1]))
        for frame, image, step, truth in zip(frames, photos.images, steps, photos.truth, strict=True)
    ]
    updates = fly(Localizer(photos.index, engine), photos.camera, observations)
    return [update.error_m if update.fix.is_believed else math.nan for update in updates]


def _final(errors: Array, suffix: str, bar: str | None, data: str) -> list[Figure]:
    """Of (flights, photos) errors."""
    rng = np.random.default_rng(SEED)
    photos = rng.integers(errors.shape[1], size=(2000, errors.shape[1]))
    drawn = [float(np.nanmedian(errors[:, some])) for some in photos]
    note = f"median over the photos in state converged; {len(errors)} flights over the same {errors.shape[1]} photos, "
    note += "odometry made of GPS differences with the protocol's noise; the interval draws photos"
    interval = (float(np.percentile(drawn, 2.5)), float(np.percentile(drawn, 97.5)))
    median_m = float(np.nanmedian(errors)) if np.isfinite(errors).any() else None
    false = float(np.sum(np.nanmax(np.where(np.isnan(errors), 0, errors), axis=1) > FALSE_M))
    figures = [Figure(f"drone.final_m{suffix}", median_m, "m", errors.shape[1], interval if median_m else None, bar,
                      data=data, note=note)]  # fmt: skip
    if not suffix:
        share = 100 * float(np.isfinite(errors).mean())
        figures.append(Figure("drone.converged_share", share, "%", errors.size, data=data, note="of the photos flown"))
        figures.append(Figure("drone.false", false, "flights", len(errors), bar="0", data=data,
                              note="converged and more than 90 m off"))  # fmt: skip
    return figures


def _height_m(frame: Frame) -> float:
    assert frame.height_agl_m is not None, "drone_photos writes it"
    return frame.height_agl_m
