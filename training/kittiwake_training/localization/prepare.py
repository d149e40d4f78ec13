"""From raw imagery to places: which data trains, which validates, and which must never be seen.

What ships trains on three sources: ``season_train`` (Sentinel-2, real dates and seasons), a Sentinel-2 pair
over Germany, and the procedural world (finer pixels, and snow). The test places of the benchmark
(``naip_nd``, ``baviaans``, ``season_pairs``, ``season_train/ns_forest``) are not read here at all.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kittiwake_runtime.localization.descriptor import LUMA
from kittiwake_runtime.localization.raster_file import colour_bands
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.places import WORLD, Place, load_place
from kittiwake_training.localization.prairie import prairie_place

TEST_ONLY = frozenset({"ns_forest"})

# Neighbouring numbers are mostly one flood event seen in several tiles. Two events are named and are kept
# back whole; of the unnamed ones a run is kept back, and five places on each side of it go unused.
HELD_OUT_OMB = frozenset(chain(range(101, 111), range(225, 241), range(302, 312)))
UNUSED_OMB = frozenset(chain(range(96, 101), range(111, 116)))
HELD_OUT = frozenset({"bouconne"})

WORLD_DATES = tuple((season, year) for season in ("summer", "autumn", "winter") for year in (0, 1))
WORLD_SEED = 1_000_000
"""First seed of the training worlds; demo, tests and benchmarks use small seeds."""
VALIDATION_SEED = 2_000_000


def prepare(raw: Path, folder: Path) -> list[Path]:
    """Turn the raw collections under ``raw`` into one ``.npz`` a place in ``folder``.

    Args:
        raw: a folder with ``season_train`` and, or, ``s2_pair_germany`` (the latter needs rasterio).
        folder: is made when missing; places already there are written anew.

    Raises:
        TrainingError: neither collection is there, or one of its files can't be read.
    """
    readers = {"season_train": season_train, "s2_pair_germany": germany}
    present = [name for name in readers if (raw / name).is_dir()]
    if not present:
        raise TrainingError(f"{raw} holds neither of {', '.join(readers)}", "give the folder above them")
    places = chain.from_iterable(readers[name](raw / name) for name in present)
    return [place.save(folder) for place in tqdm(places, desc="places", unit="", disable=None)]


def season_train(folder: Path) -> Iterator[Place]:
    """The places of ``season_train``, less those that only test, each with its split."""
    with (folder / "places.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if split_of(row["label"]) is not None]
    for row in rows:
        yield _season_place(folder / row["label"], row)


def split_of(label: str) -> str | None:
    """``train``, ``validation`` or, for places that training must not see, ``None``."""
    if label in TEST_ONLY:
        return None
    number = int(label[4:]) if label.startswith("omb_") else 0
    if number in UNUSED_OMB:
        return None
    return "validation" if label in HELD_OUT or number in HELD_OUT_OMB else "train"


def _season_place(folder: Path, row: dict[str, str]) -> Place:
    paths = sorted(path for path in folder.iterdir() if not path.stem.endswith("_nir"))
    stack = np.stack([_read_channels(path) for path in paths])
    channels = stack.shape[1]
    # Of SWIR, NIR and green a camera sees only the green; NIR beside RGB it does not see at all.
    gray = {1: (1.0,), 3: LUMA, 4: (*LUMA, 0.0)}[channels]
    if row["label"].startswith("omb_"):
        gray = (0.0, 0.0, 1.0)
    nodata = (stack == 0).all(axis=(0, 1))
    return Place(
        name=row["label"],
        stack=stack,
        valid=np.broadcast_to(~nodata, (len(stack), *nodata.shape)).copy(),
        gsd_m=float(row["gsd_m"]),
        dates=tuple(path.stem.removeprefix(f"{row['label']}_") for path in paths),
        gray=gray,
        source="season_train",
        licence=row["licence"],
        split=split_of(row["label"]) or "train",
    )


def _read_channels(path: Path) -> NDArray[np.uint8]:
    """(C, H, W): R G B, or one band, and the near infrared that may lie beside it."""
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise TrainingError(f"{path} can't be read as an image")
    bands = [image] if image.ndim == 2 else [image[..., 2], image[..., 1], image[..., 0]]
    infrared = path.with_name(f"{path.stem}_nir{path.suffix}")
    if infrared.exists():
        bands.append(cv2.imread(str(infrared), cv2.IMREAD_UNCHANGED))
    return np.stack(bands).astype(np.uint8)


def germany(folder: Path) -> Iterator[Place]:
    """The Sentinel-2 pair over Germany, cloud removed by its brightness."""
    licence = "contains modified Copernicus Sentinel data 2016"
    yield place_from_rasters(sorted(folder.glob("*.jp2")), "s2_pair_germany", licence, cloud_factor=2.2)


def place_from_rasters(
    paths: Iterable[Path], name: str, licence: str = "the operator's own", cloud_factor: float | None = None
) -> Place:
    """Bring georeferenced rasters of one area to one grid: their overlap, at the coarsest of their
    resolutions.

    Args:
        paths: two or more files that rasterio reads, one a date; of each four bands at the most are taken, red, green
            and blue first where they are named. What an alpha band masks is not seen.
        name: the place's.
        licence: terms of the imagery.
        cloud_factor: pixels brighter than this many medians are taken for cloud; none when omitted.

    Raises:
        TrainingError: fewer than two files, no georeference, different bands, or no overlap.
    """
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    paths = list(paths)
    if len(paths) < 2:
        raise TrainingError(f"{name}: {len(paths)} maps given, training needs two dates of the same ground")
    grid = _common_grid(paths)
    stack, valid = [], []
    for path in tqdm(paths, desc=name, unit="map", disable=None):
        with (
            rasterio.open(path) as source,
            WarpedVRT(source, resampling=Resampling.bilinear, **grid) as warped,
        ):
            bands = warped.read(colour_bands(source.colorinterp)[:4])
            seen = (warped.dataset_mask() > 0) & (bands > 0).any(axis=0)
        image, clear = _to_bytes(bands, seen, cloud_factor)
        stack.append(image)
        valid.append(clear)
    channels = {len(image) for image in stack}
    if len(channels) > 1:
        raise TrainingError(f"{name}: the maps have {sorted(channels)} bands", "give maps of the same bands")
    count = channels.pop()
    return Place(
        name=name,
        stack=np.stack(stack),
        valid=np.stack(valid),
        gsd_m=float(grid["transform"].a),
        dates=tuple(path.stem for path in paths),
        source=name,
        licence=licence,
        gray=LUMA + (0.0,) * (count - 3) if count >= 3 else (1.0,) + (0.0,) * (count - 1),
    )


def _common_grid(paths: list[Path]) -> dict[str, Any]:
    """CRS, affine, width and height of the maps' overlap, in metres and at the coarsest of their
    resolutions."""
    import rasterio
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.warp import calculate_default_transform, transform_bounds

    with rasterio.open(paths[0]) as first:
        crs = first.crs
        if crs is None:
            raise TrainingError(f"{paths[0]} has no CRS", "write one with: rio edit-info --crs EPSG:... FILE")
        west, south, east, north = transform_bounds(crs, "EPSG:4326", *first.bounds)
    if not crs.is_projected or crs.to_epsg() == 3857:
        zone = int((west + east) / 2 // 6) + 31
        crs = CRS.from_epsg((32600 if south + north > 0 else 32700) + zone)
    boxes, resolutions = [], []
    for path in paths:
        with rasterio.open(path) as source:
            if source.crs is None:
                raise TrainingError(f"{path} has no CRS", "write one with: rio edit-info --crs EPSG:... FILE")
            boxes.append(transform_bounds(source.crs, crs, *source.bounds))
            affine, _, _ = calculate_default_transform(source.crs, crs, source.width, source.height, *source.bounds)
            resolutions.append(affine.a)
    gsd = max(resolutions)
    low, high = np.max(boxes, axis=0)[:2], np.min(boxes, axis=0)[2:]
    width, height = np.floor((high - low) / gsd).astype(int)
    if width < 1 or height < 1:
        raise TrainingError(f"{', '.join(map(str, paths))} show no common ground", "give maps of one area")
    transform = Affine(gsd, 0, float(low[0]), 0, -gsd, float(high[1]))
    return {"crs": crs, "transform": transform, "width": int(width), "height": int(height)}


def _to_bytes(
    bands: NDArray[Any], seen: NDArray[np.bool_], cloud_factor: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """(C, H, W) of any type to uint8 by the 1st to 99th percentile of what is seen and no cloud; and that
    mask."""
    if cloud_factor is not None and seen.any():
        bright = bands.mean(axis=0) > cloud_factor * np.median(bands[:, seen])
        seen = seen & ~cv2.dilate(bright.astype(np.uint8), np.ones((11, 11), np.uint8)).astype(bool)
    if bands.dtype == np.uint8 or not seen.any():
        return bands.astype(np.uint8), seen
    low, high = np.percentile(bands[:, seen], [1, 99])
    scaled = (bands.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    return np.clip(scaled, 0, 255).astype(np.uint8), seen


def world_places(
    folder: Path,
    count: int,
    *,
    size_m: float,
    gsds_m: tuple[float, ...],
    workers: int,
    split: str,
    kind: str = WORLD,
) -> list[Place]:
    """Procedural places: each its own world, at six dates over three seasons, or open country in six years.

    What is in the folder already is read back, so that an interrupted run renders nothing twice.

    Args:
        folder: keeps the rendered places.
        count: how many.
        size_m: the side of each.
        gsds_m: metres a pixel, taken in turn.
        workers: processes.
        split: ``train`` or ``validation``, which also chooses disjoint seeds.
        kind: ``world`` (the runtime's) or ``prairie`` (`prairie_place`).
    """
    first = WORLD_SEED if split == "train" else VALIDATION_SEED
    jobs = [(first + i, gsds_m[i % len(gsds_m)]) for i in range(count)]
    render = partial(_kept_place, folder, kind, size_m=size_m, split=split)
    if workers <= 1:
        return [render(job) for job in tqdm(jobs, desc=f"{kind}, {split}", unit="place", disable=None)]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = pool.map(render, jobs)
        return list(tqdm(done, total=count, desc=f"{kind}, {split}", unit="place", disable=None))


def _kept_place(folder: Path, kind: str, job: tuple[int, float], *, size_m: float, split: str) -> Place:
    seed, gsd_m = job
    kept = folder / f"{kind}_{seed}_{gsd_m:g}m.npz"
    if kept.exists():
        return load_place(kept)
    make = prairie_place if kind == "prairie" else _world_place
    place = make(seed, size_m=size_m, gsd_m=gsd_m, split=split)
    place.save(folder)
    return place


def _world_place(seed: int, *, size_m: float, gsd_m: float, split: str) -> Place:
    from kittiwake_runtime.localization.world import World

    world, bounds = World(seed), (0.0, 0.0, size_m, size_m)
    images = [world.render(bounds, gsd_m, season, date, threads=1) for season, date in WORLD_DATES]
    stack = np.stack([image.transpose(2, 0, 1) for image in images])
    return Place(
        name=f"{WORLD}_{seed}_{gsd_m:g}m",
        stack=stack,
        valid=np.ones((len(stack), *stack.shape[2:]), bool),
        gsd_m=gsd_m,
        dates=tuple(f"{season} {date}" for season, date in WORLD_DATES),
        gray=LUMA,
        source=WORLD,
        licence="Apache-2.0, made by Kittiwake",
        split=split,
    )
