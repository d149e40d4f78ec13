"""``kittiwake locate``: a flight on disk, found on a map; a track, a page and a picture come out."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from ..bundle import Bundle
from ..command import Command
from ..engines.select import open_engine
from ..errors import FrameError
from .camera import Camera, load_camera
from .flight import Observation, fly, likely_scale, live_line, scale_std
from .flight_log import Frame, OdometryStep, odometry_steps, read_frames, read_image
from .frames import Grid
from .localizer import Localizer
from .map_index import MapIndex
from .outputs import write_track_csv, write_track_geojson
from .pictures import Canvas
from .report import Update, write_report
from .visual_odometry import VisualOdometer

NOTES_SHOWN = 5
"""Notes printed in words; the rest is counted."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--map", type=Path, required=True, help="index made by `kittiwake map build`")
    parser.add_argument("--camera", type=Path, required=True, help="ROS camera_info YAML with a mount")
    parser.add_argument("--frames", type=Path, required=True, help="frames.csv: images, attitude, height, odometry")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/locate"), help="folder (%(default)s)")
    parser.add_argument("--bundle", help="model, by path or name (default: the one that made the map)")
    parser.add_argument(
        "--prior",
        help="LAT,LON,RADIUS in degrees and metres (95 %%); soft. In the south with =, as --prior=-33.9,18.4,500",
    )
    parser.add_argument("--use-heading", action="store_true", help="take the first frame's yaw as a soft prior")
    parser.add_argument("--height-m", type=float, help="rough height above ground where the frames have none, ± 30 %%")
    parser.add_argument("--visual-odometry", action="store_true", help="take the motion from the images in any case")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")


def _run(args: argparse.Namespace) -> int:
    camera, frames = load_camera(args.camera), read_frames(args.frames)
    args.output.mkdir(parents=True, exist_ok=True)
    with MapIndex.open(args.map) as index:
        bundle = Bundle.open(args.bundle or index.meta.bundle_name)
        with open_engine(bundle) as engine:
            localizer = Localizer(index, engine)
            _apply_priors(localizer, frames, args)
            canvas, notes = Canvas.of(index), list[str]()
            updates = _fly(localizer, camera, frames, canvas, notes, args)
        summary = _summary(updates, notes)
        fixes = [update.fix for update in updates]
        write_track_csv(fixes, args.output / "track.csv")
        write_track_geojson(fixes, args.output / "track.geojson")
        facts = _facts(summary, index)
        page = write_report(args.output, canvas, updates, title=f"{args.frames} on {args.map.name}", facts=facts)
    if args.json:
        print(json.dumps(summary))
    else:
        print(_sentence(summary), f"track and report: {page}", sep="\n")
        _warn(notes)
    return 0 if summary["converged_at"] is not None else 1


def _apply_priors(localizer: Localizer, frames: Sequence[Frame], args: argparse.Namespace) -> None:
    if args.prior:
        localizer.set_prior(*parse_prior(args.prior))
    if args.use_heading:
        yaw = frames[0].yaw_deg
        if math.isnan(yaw):
            raise FrameError(f"{args.frames}: the first frame has no yaw_deg", "leave --use-heading out")
        localizer.set_heading(yaw)


def parse_prior(text: str) -> tuple[float, float, float]:
    """``LAT,LON,RADIUS`` as degrees and metres.

    Raises:
        FrameError: not three numbers, or beyond their range.
    """
    example = "for example --prior 60.01,24.9,300, in degrees and metres"
    try:
        lat, lon, radius = (float(part) for part in text.split(","))
    except ValueError as error:
        raise FrameError(f"--prior {text!r} is not LAT,LON,RADIUS", example) from error
    if not (abs(lat) <= 90 and abs(lon) <= 180 and 0 < radius < math.inf):
        raise FrameError(f"--prior {text!r} is beyond ±90, ±180 or not a positive radius", example)
    return lat, lon, radius


def _fly(
    localizer: Localizer,
    camera: Camera,
    frames: Sequence[Frame],
    canvas: Canvas,
    notes: list[str],
    args: argparse.Namespace,
) -> list[Update]:
    observations = _observations(localizer, camera, frames, notes, args)
    updates = []
    for update in tqdm(
        fly(localizer, camera, observations, canvas),
        total=len(frames),
        unit="frame",
        disable=True if args.json else None,
    ):
        updates.append(update)
        if not args.json:
            tqdm.write(live_line(len(updates), update), file=sys.stdout)
    return updates


def _observations(
    localizer: Localizer, camera: Camera, frames: Sequence[Frame], notes: list[str], args: argparse.Namespace
) -> Iterator[Observation]:
    """The frames, read as they are needed; what had to be handled is added to the notes."""
    from_images = args.visual_odometry or all(frame.odometry is None for frame in frames)
    measured = [None] if from_images else [None, *odometry_steps(frames)]
    odometer = VisualOdometer(camera)
    for i, frame in enumerate(frames):
        height, is_agl = _height(frame, args)
        problem, image = "", None
        try:
            image = read_image(frame.file)
            camera.check_image(image)
        except FrameError as error:
            if i == 0:  # then it is not the one image, but the folder or the camera model
                raise
            image, problem = None, error.message
        if from_images:
            step = odometer.step(image, frame.attitude_rad, height, frame.time_s)
            step = step if is_agl or step is None else _scaled(step, likely_scale(localizer), scale_std(localizer))
        else:
            step = measured[i]
        notes += [f"frame {i + 1}: {note}" for note in (problem, step.note if step else "") if note]
        yield Observation(
            time_s=frame.time_s,
            image=image,
            attitude_rad=frame.attitude_rad,
            height_m=height,
            height_is_agl=is_agl,
            step=step,
            truth=_truth(frame, localizer.index.grid),
            note=problem,
        )


def _scaled(step: OdometryStep, scale: float, std: float) -> OdometryStep:
    """A step measured in images from an assumed height, with what is known of the true height over that one."""
    sigma_m = math.hypot(scale * step.sigma_m, std * math.hypot(step.forward_m, step.left_m))
    return replace(step, forward_m=step.forward_m * scale, left_m=step.left_m * scale, sigma_m=sigma_m)


def _height(frame: Frame, args: argparse.Namespace) -> tuple[float, bool]:
    if frame.height_agl_m is not None:
        return frame.height_agl_m, True
    rough = frame.height_above_takeoff_m or args.height_m
    if rough is None or not rough > 0:
        raise FrameError(
            f"{frame.file.name}: neither height_agl_m nor height_above_takeoff_m is known",
            "give a rough height with --height-m; the scale is then searched within ± 30 %",
        )
    return rough, False


def _truth(frame: Frame, grid: Grid) -> tuple[float, float] | None:
    if frame.truth is None:
        return None
    east, north = grid.from_wgs84(*frame.truth)
    return float(east), float(north)


def _summary(updates: Sequence[Update], notes: list[str]) -> dict[str, Any]:
    believed = [update for update in updates if update.fix.is_believed]
    errors = [update.error_m for update in believed if update.truth is not None]
    last = believed[-1].fix.wgs84() if believed else None
    return {
        "frames": len(updates),
        "converged_at": next((i + 1 for i, update in enumerate(updates) if update.fix.is_believed), None),
        "believed_frames": len(believed),
        "final_state": updates[-1].fix.state,
        "last_lat_deg": round(last[0], 7) if last else None,
        "last_lon_deg": round(last[1], 7) if last else None,
        "last_radius95_m": round(believed[-1].fix.radius95_m, 1) if believed else None,
        "median_error_m": round(median(errors), 1) if errors else None,
        "largest_error_m": round(max(errors), 1) if errors else None,
        "why_not": updates[-1].fix.reason or None,
        "notes": notes,
    }


def _sentence(summary: dict[str, Any]) -> str:
    if summary["converged_at"] is None:
        return f"not found on this map in {summary['frames']} frames: {summary['why_not']}"
    text = f"found at frame {summary['converged_at']} of {summary['frames']}; believed in {summary['believed_frames']}"
    if summary["median_error_m"] is not None:
        text += f"; error {summary['median_error_m']} m median, {summary['largest_error_m']} m at most"
    return text


def _facts(summary: dict[str, Any], index: MapIndex) -> dict[str, str]:
    """What the page says beside the pictures."""
    facts = {"result": _sentence(summary)}
    if summary["converged_at"] is not None:
        place = f"{summary['last_lat_deg']:.6f}°, {summary['last_lon_deg']:.6f}°"
        facts["last believed"] = f"{place}, within {summary['last_radius95_m']} m with 95 %"
    if notes := summary["notes"]:
        facts["handled"] = "; ".join(notes[:NOTES_SHOWN]) + (f"; {len(notes)} in all" if notes[NOTES_SHOWN:] else "")
    imagery = f"imagery of {index.imagery_date or 'an unknown date'}, exact to {index.georef_sigma_m:g} m"
    return facts | {
        "map": f"{index.path.name}, {imagery}",
        "footprint": f"{index.footprint_m:g} m",
        "model": index.meta.bundle_name,
    }


def _warn(notes: Sequence[str]) -> None:
    """What had to be handled, counted, the first of it in words."""
    for note in notes[:NOTES_SHOWN]:
        print(f"note: {note}", file=sys.stderr)
    if len(notes) > NOTES_SHOWN:
        print(f"note: … and {len(notes) - NOTES_SHOWN} more; --json lists all {len(notes)}", file=sys.stderr)


command = Command(
    name="locate",
    help="find a flight on a map from its images",
    add_arguments=_add_arguments,
    run=_run,
    epilog="""\
examples:
  kittiwake locate --map area.kwmap --camera camera.yaml --frames frames.csv
  kittiwake locate --map area.kwmap --camera camera.yaml --frames frames.csv --prior 60.01,24.93,500 -o out

frames.csv has a row a frame: file,time_s,roll_deg,pitch_deg,yaw_deg,height_agl_m and, if known,
odom_x_m,odom_y_m,odom_yaw_deg. Without odometry the motion is taken from the images; without a height above
ground (height_above_takeoff_m, or --height-m) the scale is searched. Yaw is not used unless --use-heading.
Into the output folder go track.csv, track.geojson, report.html, track.png and belief.png.
The exit status is 1 when no position was ever believed.
""",
)
