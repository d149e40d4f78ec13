"""The 30 real drone photos as a user would have them: a map, a camera model and a flight log.

Turns the folder ``uav/fengyuan_dji`` of the data into ``map.tif``, ``camera.yaml`` and ``frames.csv``, which
``kittiwake map build`` and ``kittiwake locate`` take as they take anybody's. What stands in for what:

- **map.tif**: the map's picture with the affine that fits its four corners best (within 1.4 m), in UTM, moved back
  by the shift that ``camera.json`` measured against the photos.
- **camera.yaml**: pinhole from the field of view. The gimbal is stabilised, so the camera looks straight down and
  attitude is zero; the ground in the middle of a photo lies 19.7 m ahead of the GPS position, and is put there by
  the mount's lever arm. It stands for whatever causes the lead (``camera.json`` doesn't know), not for a boom.
- **frames.csv**: height is the barometer's above the take-off, taken as above ground (``--unknown-height``: not so);
  yaw is the airframe's; odometry is *made from GPS*, for there is none: the differences, with the noise of the
  benchmark's protocol; the truth is GPS. The photos are 27 to 127 m apart.

With ``--uncorrected``, the 19.7 m lead and the map's shift are left as they are: what a user without
``camera.json`` would have.

    python benchmarks/drone_photos.py -o out/drone
    kittiwake map build out/drone/map.tif -o out/drone/area.kwmap --footprint 95 --georef-sigma 2
    kittiwake locate --map out/drone/area.kwmap --camera out/drone/camera.yaml --frames out/drone/frames.csv

A photo shows 97 m of ground along the flight and 173 m across: a footprint of 95 m fits into it.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rasterio
from flights import ODOMETRY_SHARE, ODOMETRY_TURN_SIGMA_RAD
from places import data_dir
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_gcps

from kittiwake_runtime.localization.camera import Camera, Mount, save_camera
from kittiwake_runtime.localization.flight_log import Frame, Odometry, write_frames
from kittiwake_runtime.localization.frames import Grid, utm_crs


def write_drone_flight(
    source: Path,
    folder: Path,
    *,
    corrected: bool = True,
    odometry: bool = True,
    height_known: bool = True,
    seed: int = 1,
) -> None:
    """Write ``map.tif``, ``camera.yaml`` and ``frames.csv``.

    Args:
        source: with ``photo/``, ``poses.csv``, ``camera.json``, ``map.json`` and ``map_0163m.jpg``.
        folder: made when missing. The photos stay where they are.
        corrected: whether the photos' lead and the map's shift are taken into account.
        odometry: whether to write odometry, made from GPS and noise.
        height_known: whether the height is written as one above ground.
        seed: of the odometry's noise.

    Raises:
        FileNotFoundError: the folder of the photos is not there.
    """
    if not (source / "poses.csv").is_file():
        raise FileNotFoundError(f"no drone photos in {source}; set KITTIWAKE_DATA to the data's folder")
    folder.mkdir(parents=True, exist_ok=True)
    camera, corners = (json.loads((source / name).read_text()) for name in ("camera.json", "map.json"))
    crs = utm_crs(corners["TL"][1], corners["TL"][0])
    grid = Grid.from_crs(crs)
    shift = camera["map_offset_m"] if corrected else {"east": 0.0, "north": 0.0}
    _write_map(source / "map_0163m.jpg", folder / "map.tif", crs, _affine(corners, grid, shift))
    save_camera(_camera(camera, corrected), folder / "camera.yaml")
    with (source / "poses.csv").open(newline="") as file:
        poses = sorted(csv.DictReader(file), key=_time_s)
    walked = _odometry(poses, grid, seed) if odometry else [None] * len(poses)
    frames = [
        Frame(
            file=(source / "photo" / pose["file"]).resolve(),
            time_s=_time_s(pose),
            roll_deg=0.0,
            pitch_deg=0.0,
            yaw_deg=float(pose["flight_yaw"]) % 360,
            truth=(float(pose["lat"]), float(pose["lon"])),
            odometry=step,
            **{"height_agl_m" if height_known else "height_above_takeoff_m": float(pose["rel_alt_m"])},
        )
        for pose, step in zip(poses, walked, strict=True)
    ]
    write_frames(folder / "frames.csv", frames)


def _affine(corners: dict[str, Any], grid: Grid, shift: dict[str, float]) -> Affine:
    """Pixel corners to the grid: least squares through the map's corners, less what it is known to be off."""
    rows, cols = corners["height"], corners["width"]
    points = []
    for name, row, col in (("TL", 0, 0), ("TR", 0, cols), ("BL", rows, 0), ("BR", rows, cols)):
        lon, lat = corners[name]
        east, north = grid.from_wgs84(lat, lon)
        points.append(GroundControlPoint(row, col, float(east) - shift["east"], float(north) - shift["north"]))
    return from_gcps(points)


def _write_map(picture: Path, path: Path, crs: str, transform: Affine) -> None:
    image = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    if image is None:
        raise FileNotFoundError(f"{picture}: missing or damaged")
    rows, cols = image.shape[:2]
    profile = {"driver": "GTiff", "width": cols, "height": rows, "count": 3, "dtype": "uint8"}
    layout = {"photometric": "RGB", "tiled": True, "compress": "deflate"}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile, **layout) as file:
        file.write(np.moveaxis(image[..., ::-1], -1, 0))


def _camera(facts: dict[str, Any], corrected: bool) -> Camera:
    lead = facts["ground_point_of_image_centre_m"] if corrected else None
    mount = Mount(x_m=lead["forward_of_gps_along_flight_yaw"], y_m=lead["right"]) if lead else Mount()
    return Camera.from_fov(*facts["image_size_px"], facts["hfov_deg"], mount)


def _time_s(pose: dict[str, str]) -> float:
    """Seconds UTC, if the camera's clock were on it: only differences matter."""
    moment = datetime.datetime.strptime(pose["time"], "%Y:%m:%d %H:%M:%S")
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


def _odometry(poses: list[dict[str, str]], grid: Grid, seed: int) -> list[Odometry]:
    """GPS differences with the protocol's noise, added up from zero."""
    rng = np.random.default_rng(seed)
    east, north = grid.from_wgs84([float(p["lat"]) for p in poses], [float(p["lon"]) for p in poses])
    heading = grid.heading_rad([float(p["flight_yaw"]) for p in poses], east, north)
    at, yaw = 0j, 0.0
    walked = [Odometry(0.0, 0.0, 0.0)]
    for before, after in zip(range(len(poses) - 1), range(1, len(poses)), strict=True):
        step = complex(east[after] - east[before], north[after] - north[before])
        noise = complex(*rng.normal(0.0, ODOMETRY_SHARE * abs(step), 2))
        body = step * np.exp(-1j * heading[before]) + noise
        at += body * np.exp(1j * yaw)
        yaw += heading[after] - heading[before] + rng.normal(0.0, ODOMETRY_TURN_SIGMA_RAD)
        walked.append(Odometry(at.real, at.imag, math.degrees(math.remainder(yaw, math.tau))))
    return walked


def main() -> None:
    """Write the flight into a folder, and say what to do with it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/drone"), help="folder (default: %(default)s)")
    parser.add_argument("--source", type=Path, help="folder of the photos (default: uav/fengyuan_dji of the data)")
    parser.add_argument("--uncorrected", action="store_true", help="leave lead and shift as they are")
    parser.add_argument("--no-odometry", action="store_true", help="leave the odometry columns out")
    parser.add_argument("--unknown-height", action="store_true", help="write the height as one above take-off")
    parser.add_argument("--seed", type=int, default=1, help="of the odometry's noise (default: %(default)s)")
    args = parser.parse_args()
    try:
        write_drone_flight(
            args.source or data_dir() / "uav" / "fengyuan_dji",
            args.output,
            corrected=not args.uncorrected,
            odometry=not args.no_odometry,
            height_known=not args.unknown_height,
            seed=args.seed,
        )
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from None
    odometry = "no odometry" if args.no_odometry else f"odometry made from GPS, with noise of seed {args.seed}"
    print(f"{args.output}: map.tif, camera.yaml, frames.csv ({odometry})")


if __name__ == "__main__":
    main()
