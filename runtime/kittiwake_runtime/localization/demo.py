"""``kittiwake demo``: a made-up area, mapped in summer, flown under snow, from an unknown start.

Everything is done as on real input: the map is a GeoTIFF, the index is built from it, the images come through a
camera model with distortion and tilt, height and attitude are noisy. Nothing but the final report sees the truth.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..bundle import Bundle
from ..command import Command
from ..engines.base import Engine
from ..engines.select import open_engine
from .flight import Observation, fly, live_line
from .localizer import Localizer
from .map_build import DEFAULT_BUNDLE, build_index
from .map_index import MapIndex
from .outputs import write_track_csv, write_track_geojson
from .pictures import Canvas
from .report import Update, write_report
from .simulate import DEFAULT_CAMERA, SimulatedFrame, simulate_flight
from .world import SEASONS, Season, World, write_geotiff

FOOTPRINT_M = 160.0
MAP_GSD_M = 5.0


@dataclass(frozen=True)
class Scene:
    """What is flown.

    Attributes:
        seed: of the world and the flight.
        season: of the flight; the map is of another summer's day.
        side_m: of the square area.
        updates: frames flown, 100 m apart.
    """

    seed: int = 7
    season: Season = "winter"
    side_m: float = 10_000.0
    updates: int = 50


def run_demo(folder: Path, scene: Scene, bundle: Bundle) -> list[Update]:
    """Make the area, index it, fly over it, and write the report.

    Args:
        folder: gets map.tif, area.kwmap, track.csv, track.geojson, track.png, belief.png and report.html.
        scene: what is flown.
        bundle: the model.

    Returns:
        The updates, with their errors.
    """
    folder.mkdir(parents=True, exist_ok=True)
    world = World(scene.seed)
    bounds = (0.0, 0.0, scene.side_m, scene.side_m)
    area_km2 = scene.side_m**2 / 1e6
    print(f"1/3  a map of {area_km2:.0f} km² in summer, {MAP_GSD_M:.0f} m a pixel")
    write_geotiff(world, folder / "map.tif", bounds, MAP_GSD_M, "summer")
    print(f"2/3  its index, with {bundle.name}")
    started = time.perf_counter()
    index = build_index(
        [folder / "map.tif"],
        folder / "area.kwmap",
        footprint_m=FOOTPRINT_M,
        bundle=bundle,
        source=f"procedural world {scene.seed}",
        licence="Apache-2.0",
        georef_sigma_m=1.0,
    )
    build_s = time.perf_counter() - started
    print(f"3/3  a flight in {scene.season} from an unknown start, {scene.updates} frames 100 m apart")
    with index, open_engine(bundle) as engine:
        canvas = Canvas.of(index)
        updates = _fly(world, scene, index, engine, canvas)
        facts = _facts(scene, index, engine, build_s, updates)
        write_report(folder, canvas, updates, title="Kittiwake demo: where am I?", facts=facts)
    fixes = [update.fix for update in updates]
    write_track_csv(fixes, folder / "track.csv")
    write_track_geojson(fixes, folder / "track.geojson")
    return updates


def _fly(world: World, scene: Scene, index: MapIndex, engine: Engine, canvas: Canvas) -> list[Update]:
    frames = simulate_flight(
        world,
        bounds=(0.0, 0.0, scene.side_m, scene.side_m),
        season=scene.season,
        date_seed=1,
        updates=scene.updates,
        seed=scene.seed,
    )
    updates = []
    for update in fly(Localizer(index, engine), DEFAULT_CAMERA, _observed(frames), canvas):
        updates.append(update)
        print(live_line(len(updates), update), flush=True)
    return updates


def _observed(frames: Iterator[SimulatedFrame]) -> Iterator[Observation]:
    for frame in frames:
        yield Observation(
            time_s=frame.time_s,
            image=frame.image,
            attitude_rad=frame.attitude_rad,
            height_m=frame.height_agl_m,
            height_is_agl=True,
            step=frame.step,
            truth=(frame.easting_m, frame.northing_m),
        )


def _facts(scene: Scene, index: MapIndex, engine: Engine, build_s: float, updates: list[Update]) -> dict[str, str]:
    believed = [update for update in updates if update.fix.is_believed]
    first = next((i + 1 for i, update in enumerate(updates) if update.fix.is_believed), None)
    errors = [update.error_m for update in believed]
    facts = {
        "area": f"{scene.side_m**2 / 1e6:.0f} km², procedural world {scene.seed}; start and heading unknown",
        "map": f"summer, {MAP_GSD_M:.0f} m a pixel",
        "flight": f"{scene.season}, {scene.updates} frames 100 m apart, camera {FOOTPRINT_M:.0f} m of ground wide",
        "index": f"{index.path.stat().st_size / 1e6:.1f} MB, built in {build_s:.0f} s",
        "converged": f"at update {first}" if first else "never",
    }
    if errors:
        facts["error once converged"] = f"{median(errors):.1f} m median, {max(errors):.1f} m at most"
        inside = sum(update.error_m <= update.fix.radius95_m for update in believed)
        facts["inside the 95 % radius"] = f"{inside} of {len(believed)} updates"
    report = engine.report
    where = f"{platform.machine()}, {platform.system()}"
    return facts | {"runs on": f"{report.backend}, {report.device}, {report.precision}; {where}"}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"), help="folder (%(default)s)")
    parser.add_argument("--season", choices=SEASONS, default=Scene.season, help="of the flight (%(default)s)")
    parser.add_argument("--seed", type=int, default=Scene.seed, help="another world and flight (%(default)s)")
    parser.add_argument("--bundle", default=DEFAULT_BUNDLE, help="model, by path or name (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="4 km² and 15 frames, for a first look")


def _run(args: argparse.Namespace) -> int:
    scene = Scene(args.seed, args.season)
    if args.quick:
        scene = Scene(args.seed, args.season, side_m=2_000.0, updates=15)
    run_demo(args.output, scene, Bundle.open(args.bundle))
    print(f"report: {args.output / 'report.html'}")
    return 0


command = Command(
    name="demo",
    help="fly over a procedural area from an unknown start, and write a report",
    add_arguments=_add_arguments,
    run=_run,
    epilog="""\
examples:
  kittiwake demo                       100 km², map in summer, flight under snow; about a minute
  kittiwake demo --quick               4 km², to see that everything runs
  kittiwake demo --season autumn --seed 11

Writes out/demo/report.html (one page that holds everything), track.png, belief.png, track.csv, track.geojson,
map.tif and area.kwmap.
""",
)
