"""Makes a map index from rasters: every cell of a map described once, in dense passes over large tiles.

    with build_index(["north.tif", "south.tif"], "area.kwmap", footprint_m=160, bundle="NAME") as index:
        ...

The map is cut into tiles that know nothing of each other (map_tiles.py), so they are described on one core,
on several, or on a Dask cluster, and the file comes out the same. Whoever describes, one process writes.
"""

from __future__ import annotations

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from kittiwake_runtime.bundle import Bundle, installed_bundles
from kittiwake_runtime.errors import MapError
from kittiwake_runtime.localization.footprint import DISC_PX, cell_m, sample_m
from kittiwake_runtime.localization.map_format import (
    TILE_PX,
    MapMeta,
    check_date,
    encode_tile,
    halve,
    make_levels,
)
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.map_tiles import (
    MIN_SEEN_SHARE,
    SCALE,
    Job,
    close_state,
    cut_picture,
    describe_cells,
)
from kittiwake_runtime.localization.map_writer import MapWriter
from kittiwake_runtime.localization.raster import MapSource

DEFAULT_GEOREF_SIGMA_M = 10.0
TASK = "localization.descriptor"
DEFAULT_BUNDLE = "localization-descriptor"
TRAINED_GSD_M = (1.0, 10.0)

_TILE_CELLS = 384


def build_index(
    sources: Sequence[str | Path],
    out: str | os.PathLike[str],
    *,
    footprint_m: float,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    crs: str | None = None,
    grid_crs: str | None = None,
    imagery_date: str | None = None,
    source: str = "",
    licence: str = "",
    georef_sigma_m: float | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> MapIndex:
    """Describe a map and write its index.

    Args:
        sources: rasters of the map, best first (see `MapSource`).
        out: the ``.kwmap`` file to write.
        footprint_m: diameter of the ground that a descriptor sees; a flight is to see as much.
        bundle: the model, opened, or its folder or name; None takes what `find_bundle` finds.
        crs: CRS of rasters that have none; grid_crs: projected metric CRS of the index, chosen by default.
        imagery_date: ``YYYY-MM-DD``; source, licence: of the imagery, kept in the index.
        georef_sigma_m: how exact the imagery lies on the ground, one standard deviation per axis, metres;
            10 m with a warning when not given.
        workers: processes. One uses all cores inside the network; more than one needs the caller's script to
            have the usual ``if __name__ == "__main__"``.
        scheduler: address of a Dask cluster whose workers see the same files and bundle; instead of
            `workers`.
        progress: show a bar on stderr, if that is a terminal.

    Returns:
        The index, open.

    Raises:
        MapError: a raster or a value can't be used, or the map is smaller than a footprint or has no data.
        BundleError: the bundle can't be used.
    """
    if not (math.isfinite(footprint_m) and footprint_m > 0):
        raise MapError(f"the footprint is {footprint_m} m", "give the diameter on the ground, such as 160")
    if workers < 1:
        raise MapError(f"{workers} workers can't build a map", "give 1 or more")
    model = bundle if isinstance(bundle, Bundle) else find_bundle(bundle)
    out = Path(out)
    if not out.parent.is_dir():
        raise MapError(f"there is no folder {out.parent}", "make it first, or write elsewhere")
    with MapSource(sources, crs=crs, grid_crs=grid_crs) as rasters:
        meta = _describe_map(rasters, footprint_m, model)
        meta = replace(
            meta,
            imagery_date=None if imagery_date is None else check_date(imagery_date),
            source=source,
            licence=licence,
            georef_sigma_m=_checked_sigma(georef_sigma_m),
            files=tuple(Path(path).name for path in sources),
        )
        job = Job(
            paths=tuple(_absolute(path) for path in sources),
            crs=crs,
            grid_wkt=rasters.grid.wkt,
            stretch=rasters.stretch,
            bundle_root=str(model.root.absolute()),
            meta=meta,
            threads=None if workers == 1 and scheduler is None else 1,
        )
    try:
        with MapWriter(out, meta) as writer, _executor(workers, scheduler) as (executor, at_once):
            _write_all(job, writer, executor, at_once, progress)
            if not writer.valid_cells:
                raise MapError(
                    f"no place of the map shows {MIN_SEEN_SHARE:.0%} of a footprint of {footprint_m:g} m",
                    "the map is empty there, or its nodata value is wrong; look at gdalinfo -stats",
                )
    finally:
        close_state()
    return MapIndex.open(out)


def find_bundle(path_or_name: str | os.PathLike[str] | None = None) -> Bundle:
    """The model to describe ground with: the one that is named, or else the one that ships with Kittiwake.

    Where that is not installed, the only other one.

    Raises:
        BundleError: the named one can't be opened.
        MapError: it is a model for something else; or none is named, and it is not clear which is meant.
    """
    if path_or_name is not None:
        named = Bundle.open(path_or_name)
        if named.task != TASK:
            raise MapError(f"{named.name} is a model for {named.task}", f"name a bundle for {TASK}")
        return named
    found = [bundle for bundle in map(Bundle.open, installed_bundles()) if bundle.task == TASK]
    best = [bundle for bundle in found if bundle.name == DEFAULT_BUNDLE][:1] or found
    if len(best) != 1:
        names = ", ".join(bundle.name for bundle in best) or "none"
        raise MapError(
            f"{len(best)} models for {TASK} are installed: {names}",
            "name one with --bundle" if best else "install kittiwake-models, or set KITTIWAKE_MODELS",
        )
    return best[0]


def check_bundle(index: MapIndex, bundle: Bundle) -> None:
    """Refuse an index that was made by another model: its descriptors mean nothing to this one.

    Raises:
        MapError: with the command that builds the index again.
    """
    if index.bundle_sha256 != bundle.sha256:
        files, footprint_m = " ".join(index.meta.files), index.footprint_m
        raise MapError(
            f"{index.path} was made by the model {index.meta.bundle_name} ({index.bundle_sha256[:12]}), "
            f"not by {bundle.name} ({bundle.sha256[:12]})",
            f"kittiwake map build {files} -o {index.path} --footprint {footprint_m:g} --bundle {bundle.name}",
        )


def _describe_map(rasters: MapSource, footprint_m: float, model: Bundle) -> MapMeta:
    """The grid of cells over a map, and its pyramid; what the imagery is remains to be said."""
    west, south, east, north = rasters.bounds_m
    if min(east - west, north - south) < footprint_m:
        raise MapError(
            f"the map is {east - west:.0f} × {north - south:.0f} m, under a footprint ({footprint_m:g} m)",
            "take a larger map or a smaller footprint",
        )
    spacing_m, gsd_m = cell_m(footprint_m), sample_m(footprint_m)
    if not TRAINED_GSD_M[0] <= gsd_m <= TRAINED_GSD_M[1]:
        _warn(f"a footprint of {footprint_m:g} m means {gsd_m:.2f} m a sample; models are trained at 1 to 10 m")
    if rasters.gsd_m > 1.5 * gsd_m:
        _warn(
            f"the map has {rasters.gsd_m:.1f} m a pixel, coarser than the {gsd_m:.1f} m that a footprint of "
            f"{footprint_m:g} m needs; {rasters.gsd_m * DISC_PX:.0f} m would suit it"
        )
    rows, cols = math.ceil((north - south) / spacing_m), math.ceil((east - west) / spacing_m)
    is_fine = rasters.gsd_m <= gsd_m / 2 * 1.001
    return MapMeta(
        crs=rasters.grid.wkt,
        west_m=west,
        north_m=north,
        rows=rows,
        cols=cols,
        dim=int(model.outputs[0].shape[1]),
        cell_m=spacing_m,
        footprint_m=footprint_m,
        scale=SCALE,
        bundle_name=model.name,
        bundle_sha256=model.sha256,
        imagery_date=None,
        imagery_gsd_m=rasters.gsd_m,
        source="",
        licence="",
        georef_sigma_m=DEFAULT_GEOREF_SIGMA_M,
        proj=rasters.operations(),
        files=(),
        levels=make_levels(rows, cols, spacing_m, gsd_m / 2 if is_fine else gsd_m),
    )


def _checked_sigma(georef_sigma_m: float | None) -> float:
    if georef_sigma_m is None:
        _warn(
            "nothing says how exact the map lies on the ground (georef_sigma_m): "
            f"{DEFAULT_GEOREF_SIGMA_M:g} m is assumed"
        )
        return DEFAULT_GEOREF_SIGMA_M
    if not (math.isfinite(georef_sigma_m) and georef_sigma_m >= 0):
        raise MapError(f"georef_sigma_m is {georef_sigma_m}", "give a standard deviation in metres")
    return georef_sigma_m


def _write_all(job: Job, writer: MapWriter, executor: Executor | None, at_once: int, progress: bool) -> None:
    from tqdm import tqdm

    cells = list(_tiles(job.meta.rows, job.meta.cols, _TILE_CELLS))
    tile_rows, tile_cols = job.meta.levels[0].tiles
    pictures = [(row, col) for row in range(tile_rows) for col in range(tile_cols)]
    with tqdm(total=job.meta.rows * job.meta.cols, unit="cell", unit_scale=True, desc="describing",
              disable=None if progress else True) as bar:  # fmt: skip
        for (r0, r1, c0, c1), (values, valid) in _in_order(executor, at_once, describe_cells, job, cells):
            writer.put_cells(r0, c0, values, valid)
            bar.update((r1 - r0) * (c1 - c0))
    with tqdm(total=len(pictures), unit="tile", desc="pictures", disable=None if progress else True) as bar:
        for (row, col), (jpeg, mask) in _in_order(executor, at_once, cut_picture, job, pictures):
            writer.put_tile(0, row, col, jpeg, mask)
            bar.update()
    for number, level in enumerate(job.meta.levels[1:], start=1):
        for row in range(level.tiles[0]):
            for col in range(level.tiles[1]):
                writer.put_tile(number, row, col, *_coarser_tile(writer, number, row, col))


def _coarser_tile(writer: MapWriter, number: int, row: int, col: int) -> tuple[bytes, bytes]:
    """A tile of a level, from the four below it."""
    finer = writer.meta.levels[number - 1]
    height, width = (min(2 * TILE_PX, n) for n in (finer.height - 2 * row * TILE_PX, finer.width - 2 * col * TILE_PX))
    rgb, mask = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.bool_)
    for i in range(-(-height // TILE_PX)):
        for j in range(-(-width // TILE_PX)):
            window = np.s_[i * TILE_PX : (i + 1) * TILE_PX, j * TILE_PX : (j + 1) * TILE_PX]
            rgb[window], mask[window] = writer.tile(number - 1, 2 * row + i, 2 * col + j)
    return encode_tile(*halve(rgb, mask))


def _tiles(rows: int, cols: int, largest: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows (r0, r1, c0, c1) of nearly equal size that cover all cells."""
    row_cuts, col_cuts = (
        [round(n * count / -(-count // largest)) for n in range(-(-count // largest) + 1)] for count in (rows, cols)
    )
    for r0, r1 in pairwise(row_cuts):
        for c0, c1 in pairwise(col_cuts):
            yield r0, r1, c0, c1


def _in_order(
    executor: Executor | None,
    at_once: int,
    work: Callable[..., Any],
    job: Job,
    tasks: Sequence[tuple[int, ...]],
) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Tasks and their results in the tasks' order, a few ahead at a time: the file doesn't depend on who was
    fastest, and results don't pile up."""
    if executor is None:
        yield from ((task, work(job, *task)) for task in tasks)
        return
    waiting: deque[tuple[tuple[int, ...], Future[Any]]] = deque()
    for task in tasks:
        if len(waiting) >= at_once:
            first, future = waiting.popleft()
            yield first, future.result()
        waiting.append((task, executor.submit(work, job, *task)))
    yield from ((task, future.result()) for task, future in waiting)


@contextmanager
def _executor(workers: int, scheduler: str | None) -> Iterator[tuple[Executor | None, int]]:
    """Who does the work (None: this process), and how many tiles to hand out at once."""
    if scheduler is not None:
        with _dask_client(scheduler) as client:
            yield client.get_executor(pure=False), 3 * max(1, sum(client.nthreads().values()))
    elif workers == 1:
        yield None, 1
    else:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        # A fork would copy the locks of the threads of ONNX Runtime and GDAL, in whatever state they are.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            try:
                yield pool, 3 * workers
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _dask_client(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ModuleNotFoundError as error:
        raise MapError("Dask is not installed", "pip install 'kittiwake-runtime[dask]'") from error
    try:
        return Client(scheduler, timeout=20)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TypeError) as error:
        raise MapError(f"no Dask scheduler answers at {scheduler}: {error}", "give tcp://HOST:8786") from error


def _absolute(path: str | Path) -> str:
    """A path that holds in another process; GDAL's own names stay as they are."""
    return str(Path(path).absolute()) if Path(path).exists() else str(path)


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)
