"""`kittiwake map build|info|preview|verify`."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import MapError

if TYPE_CHECKING:
    from kittiwake_runtime.localization.map_index import MapIndex

_EXAMPLES = """\
examples:
  kittiwake map build ortho.tif -o area.kwmap --footprint 160 --date 2024-06-01 --georef-sigma 5
  kittiwake map build north.tif south.tif -o area.kwmap --workers 4
  kittiwake map info area.kwmap --camera camera.yaml      from which heights this camera can use it
  kittiwake map preview area.kwmap -o preview.png
  kittiwake map verify area.kwmap

A map is any raster that GDAL reads, in any coordinate reference system; several are taken as one, and where
they overlap, the first that has data wins.
"""

_TYPICAL_FOVS_DEG = (45.0, 65.0, 85.0)
_TYPICAL_SIZE_PX = (1280, 960)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    _add_build(actions.add_parser("build", help="describe a map and write its index"))
    info = actions.add_parser("info", help="what an index covers, how old and exact it is, who can use it")
    info.add_argument("--camera", help="camera.yaml: from which heights it can use the map")
    info.add_argument("--json", action="store_true", help="print JSON for machines")
    preview = actions.add_parser("preview", help="draw the whole map")
    preview.add_argument("-o", "--output", required=True, help="picture to write, such as preview.png")
    preview.add_argument("--size", type=int, default=1000, help="pixels of the longer side (default: 1000)")
    verify = actions.add_parser("verify", help="compare every byte of an index with its hash")
    verify.add_argument("--bundle", help="also ask whether this model made it")
    verify.add_argument("--json", action="store_true", help="print JSON for machines")
    for action in (info, preview, verify):
        action.add_argument("map", help="a .kwmap file")


def _add_build(build: argparse.ArgumentParser) -> None:
    build.add_argument("sources", nargs="+", help="rasters of the map, best first")
    build.add_argument("-o", "--output", required=True, help="the .kwmap file to write")
    build.add_argument("--footprint", type=float, default=160.0, metavar="M",
                       help="diameter of the ground that a descriptor sees (default: 160)")  # fmt: skip
    build.add_argument("--bundle", help="a model's folder or name (default: the one that ships with Kittiwake)")
    build.add_argument("--crs", help="CRS of rasters that have none, such as EPSG:32633")
    build.add_argument("--grid", help="projected metric CRS of the index (default: the map's own, or UTM)")
    build.add_argument("--date", help="day of the imagery, YYYY-MM-DD: the older, the less it is trusted "
                                      "(without it, as imagery of six years)")  # fmt: skip
    build.add_argument("--source", default="", help="where the imagery comes from")
    build.add_argument("--licence", default="", help="licence of the imagery")
    build.add_argument("--georef-sigma", type=float, metavar="M",
                       help="how exact the imagery lies on the ground: standard deviation per axis, metres; "
                            "it enters every published position (default: 10, with a note)")  # fmt: skip
    build.add_argument("--workers", type=int, default=1, help="processes (default: 1, on all cores)")
    build.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, such as tcp://host:8786")


def _run(arguments: argparse.Namespace) -> int:
    actions = {"build": _build, "info": _info, "preview": _preview, "verify": _verify}
    return actions[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from kittiwake_runtime.localization.map_build import build_index

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        index = build_index(
            arguments.sources,
            arguments.output,
            footprint_m=arguments.footprint,
            bundle=arguments.bundle,
            crs=arguments.crs,
            grid_crs=arguments.grid,
            imagery_date=arguments.date,
            source=arguments.source,
            licence=arguments.licence,
            georef_sigma_m=arguments.georef_sigma,
            workers=arguments.workers,
            scheduler=arguments.scheduler,
        )
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"note: {warning.message}", file=sys.stderr)
    with index:
        print(_describe(_facts(index)))
    return 0


def _info(arguments: argparse.Namespace) -> int:
    with _open(arguments) as index:
        facts = _facts(index, arguments.camera)
    print(json.dumps(facts, indent=2) if arguments.json else _describe(facts))
    return 0


def _preview(arguments: argparse.Namespace) -> int:
    import cv2

    from kittiwake_runtime.localization.map_preview import draw_preview

    if not 100 <= arguments.size <= 16000:
        raise MapError(f"a picture of {arguments.size} pixels can't be drawn", "give --size 100 to 16000")
    with _open(arguments) as index:
        picture = draw_preview(index, arguments.size)
    try:
        encoded = cv2.imencode(Path(arguments.output).suffix or ".png", picture[..., ::-1])[1]
    except cv2.error as error:
        raise MapError(f"{arguments.output} is no picture", "name it .png or .jpg") from error
    Path(arguments.output).write_bytes(encoded.tobytes())
    print(arguments.output)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from kittiwake_runtime.localization.map_build import check_bundle, find_bundle

    problem: MapError | None = None
    with _open(arguments) as index:
        try:
            index.verify()
            if arguments.bundle:
                check_bundle(index, find_bundle(arguments.bundle))
        except MapError as error:
            problem = error
    if arguments.json:
        found = "" if problem is None else problem.message
        print(json.dumps({"file": arguments.map, "ok": problem is None, "problem": found}, indent=2))
    elif problem is None:
        print(f"{arguments.map}: every byte has its hash")
    else:
        print(f"{problem.message}\nhint: {problem.hint}")
    return 0 if problem is None else 1


def _open(arguments: argparse.Namespace) -> MapIndex:
    from kittiwake_runtime.localization.map_index import MapIndex

    return MapIndex.open(arguments.map)


def _facts(index: MapIndex, camera: str | None = None) -> dict[str, Any]:
    """All that `map info` tells, as JSON; names end in units."""
    import numpy as np
    from pyproj import CRS

    west, south, east, north = index.bounds_m
    lat, lon = index.grid.to_wgs84([west, west, east, east, (west + east) / 2],
                                   [south, north, south, north, (south + north) / 2])  # fmt: skip
    crs = CRS.from_wkt(index.crs_wkt)
    age = None if index.imagery_date is None else _today() - date.fromisoformat(index.imagery_date)
    proj = index.meta.proj
    return {
        "file": str(index.path),
        "size_mb": round(index.path.stat().st_size / 1e6, 3),
        "south_deg": float(np.min(lat)),
        "north_deg": float(np.max(lat)),
        "west_deg": float(np.min(lon)),
        "east_deg": float(np.max(lon)),
        "centre_lat_deg": float(lat[4]),
        "centre_lon_deg": float(lon[4]),
        "width_m": east - west,
        "height_m": north - south,
        "area_km2": (east - west) * (north - south) / 1e6,
        "valid_share": float(index.valid.mean()),
        "rows": index.rows,
        "cols": index.cols,
        "dim": index.dim,
        "cell_m": index.cell_m,
        "gsd_m": index.gsd_m,
        "footprint_m": index.footprint_m,
        "picture_gsd_m": index.meta.levels[0].gsd_m,
        "crs": crs.name + (f" (EPSG:{crs.to_epsg()})" if crs.to_epsg() else ""),
        "grid_m": {"west": west, "south": south, "east": east, "north": north},
        "imagery_date": index.imagery_date,
        "age_years": None if age is None else round(age.days / 365.25, 2),
        "source": index.source,
        "licence": index.licence,
        "imagery_gsd_m": index.meta.imagery_gsd_m,
        "georef_sigma_m": index.georef_sigma_m,
        "proj": proj,
        "bundle": {"name": index.meta.bundle_name, "sha256": index.bundle_sha256},
        "files": list(index.meta.files),
        "heights_agl_m": _heights(index.footprint_m, camera),
    }


def _heights(footprint_m: float, camera: str | None) -> list[dict[str, Any]]:
    """From which heights above ground a camera, or typical ones, can use the index."""
    from kittiwake_runtime.localization.camera import Camera, load_camera
    from kittiwake_runtime.localization.orthorectify import usable_heights_m

    width, height = _TYPICAL_SIZE_PX
    if camera is not None:
        cameras = {camera: load_camera(camera)}
    else:
        cameras = {
            f"{width}×{height}, {fov:g}° across": Camera.from_fov(width, height, fov) for fov in _TYPICAL_FOVS_DEG
        }
    heights = ((name, usable_heights_m(one, footprint_m)) for name, one in cameras.items())
    return [{"camera": name, "lowest": round(low, 1), "highest": round(high, 1)} for name, (low, high) in heights]


def _describe(facts: dict[str, Any]) -> str:
    f = facts
    age = "" if f["age_years"] is None else f", {f['age_years']:.1f} years old"
    operations = [*f["proj"].get("map_to_grid", []), f["proj"].get("grid_to_wgs84", {})]
    lines = [
        f"{f['file']}   {f['size_mb']:.1f} MB",
        f"covers     {f['area_km2']:.1f} km², {f['width_m'] / 1e3:.2f} × {f['height_m'] / 1e3:.2f} km, "
        f"{f['valid_share']:.1%} with data",
        f"latitude   {f['south_deg']:.5f} to {f['north_deg']:.5f}°",
        f"longitude  {f['west_deg']:.5f} to {f['east_deg']:.5f}°",
        f"footprint  {f['footprint_m']:g} m; {f['rows']} × {f['cols']} cells of {f['cell_m']:.2f} m",
        f"pictures   {f['picture_gsd_m']:.2f} m a pixel",
        f"grid       {f['crs']}",
        *(f"PROJ       {_operation(operation)}" for operation in operations if operation),
        f"imagery    {f['imagery_date'] or 'of an unknown date'}{age}, {f['imagery_gsd_m']:.3g} m a pixel; "
        f"source {f['source'] or 'not said'}; "
        f"licence {f['licence'] or 'not said'}",
        f"exact to   {f['georef_sigma_m']:g} m (one standard deviation per axis)",
        f"model      {f['bundle']['name']} {f['bundle']['sha256'][:12]}",
        f"made of    {', '.join(f['files'])}",
        *(f"usable     {_range(entry)} with {entry['camera']}" for entry in f["heights_agl_m"]),
    ]
    return "\n".join(lines)


def _operation(operation: dict[str, Any]) -> str:
    if operation["description"] == "none":
        return f"{operation['from']}: nothing to do"
    accuracy = operation["accuracy_m"]
    exact = "of unknown accuracy" if accuracy is None else f"exact to {accuracy:g} m"
    better = "" if operation["best_available"] else "; a better one needs a datum grid that is not installed"
    return f"{operation['from']} → {operation['to']}: {operation['description']}, {exact}{better}"


def _range(entry: dict[str, Any]) -> str:
    if entry["lowest"] > entry["highest"]:
        return "from no height (too few pixels)"
    return f"from {entry['lowest']:.0f} to {entry['highest']:.0f} m above ground"


def _today() -> date:
    return datetime.now(timezone.utc).date()


command = Command(
    name="map",
    help="build, inspect, preview and verify map indexes",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
