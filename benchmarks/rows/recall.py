"""One frame, no filter: how often is the best of all places and headings the right one?"""

from __future__ import annotations

import csv
import math
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from baselines.ncc import NccMap, single_frame_hits
from flights import glance
from numpy.typing import NDArray
from places import Raster, data_dir, read_raster
from results import Figure
from runs import one_core_pool
from tqdm import tqdm

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.descriptor import Descriptor, rotated_views
from kittiwake_runtime.localization.footprint import HEADINGS
from kittiwake_runtime.localization.map_build import build_index
from kittiwake_runtime.localization.map_index import MapIndex
from rows.figures import share_figure
from rows.run import SEED, Run, bundle_root, of_bundle

Array = NDArray[Any]

CRS = "EPSG:32620"
"""A metric grid for pictures that have none; nothing but distances is taken from it."""

SNOW_GSD_M, SNOW_FOOTPRINT_M, SNOW_WITHIN_M = 10.0, 160.0, 60.0
SNOW_QUERIES = 6
"""A pair of dates: 8 of snow and 12 of summer make 576."""
SNOW_MONTHS, SUMMER_MONTHS = (12, 1, 2, 3), (6, 7, 8)
SNOW_BRIGHTEST_TENTH = 170
"""Grey of 255 above which a tenth of a winter picture lies where snow covers the open ground (seen by eye: 174 or
more; without snow 166 at most)."""

PAIR_QUERIES = 100
PAIR_SHORT_SIDE_M = 660.0
"""What a pair's short side is taken to measure, so that a quarter of it has samples of 5 m on 33 px."""


@dataclass(frozen=True)
class Job:
    """Views of one map's ground.

    Attributes:
        group: what the hits are counted under.
        map_file: a GeoTIFF; seen_file: another of the same ground.
        footprint_m: of the disc; within_m: of the truth is a hit.
        queries: how many views, uniform over the ground whose disc is wholly in the picture.
    """

    group: str
    map_file: Path
    seen_file: Path
    footprint_m: float
    within_m: float
    queries: int


@dataclass(frozen=True)
class Hits:
    """For each query of a job, whether each method hit, and the share of the map that would have been a hit."""

    group: str
    ours: list[bool] = field(default_factory=list)
    ncc: list[bool] = field(default_factory=list)
    chance: list[float] = field(default_factory=list)


def measure_realsnow(run: Run) -> list[Figure]:
    """Real snow against summer, of one place: a forest in Nova Scotia at 10 m."""
    folder = data_dir() / "uav" / "season_train" / "ns_forest"
    snow, summer = snow_and_summer(folder)
    dates = list(product(summer, snow))[: 2 if run.quick else None]
    with tempfile.TemporaryDirectory() as made:
        tifs = {path: as_geotiff(path, Path(made) / f"{path.stem}.tif", SNOW_GSD_M) for pair in dates for path in pair}
        jobs = [Job(f"{a.stem} {b.stem}", tifs[a], tifs[b], SNOW_FOOTPRINT_M, SNOW_WITHIN_M, SNOW_QUERIES)
                for a, b in dates]  # fmt: skip
        hits = recall_all(run, jobs, "realsnow")
    note = f"one place; {len(dates)} pairs of a summer and a snow date, within 60 m at 160 m, the map at 10 m"
    return _figures(run, "realsnow.recall", hits, ">= 60", f"season_train/ns_forest, {of_bundle(run.bundle)}", note)


def measure_pairs(run: Run) -> list[Figure]:
    """Pairs of pictures of other places and seasons, never trained on; mean over their labels."""
    folder = data_dir() / "uav" / "season_pairs"
    with (_there(folder) / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    figures = []
    for registered, suffix, bar in (("yes", "", "NCC + 20"), ("approx", "_approx", None)):
        chosen = [row for row in rows if row["registered"] == registered][: 2 if run.quick else None]
        with tempfile.TemporaryDirectory() as made:
            hits = recall_all(run, [pair_job(row, folder, Path(made), run) for row in chosen], f"pairs{suffix}")
        note = (
            f"{len(chosen)} pairs registered {registered!r} under {len(hits)} labels; within a tenth of the short side"
        )
        data = f"season_pairs, {of_bundle(run.bundle)}"
        figures += _figures(run, f"pairs.recall{suffix}", hits, bar, data, note)
    return figures


def snow_and_summer(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures of a folder with snow, and those of June to August."""
    pictures = sorted(path for path in _there(folder).glob("*.png") if not path.stem.endswith("_nir"))
    months = {path: int(path.stem[-5:-3]) for path in pictures}
    snow = [
        path
        for path, month in months.items()
        if month in SNOW_MONTHS and np.percentile(_grey(path), 90) >= SNOW_BRIGHTEST_TENTH
    ]
    return snow, [path for path, month in months.items() if month in SUMMER_MONTHS]


def pair_job(row: dict[str, str], folder: Path, made: Path, run: Run) -> Job:
    """A pair on a grid on which its short side is `PAIR_SHORT_SIDE_M`; the disc is a quarter of it."""
    short_px = min(int(row["width"]), int(row["height"]))
    a, b = (
        as_geotiff(folder / row[f"file_{which}"], made / f"{row['pair']}_{which}.tif", PAIR_SHORT_SIDE_M / short_px)
        for which in "ab"
    )
    queries = 10 if run.quick else PAIR_QUERIES
    return Job(row["label"], a, b, PAIR_SHORT_SIDE_M / 4, PAIR_SHORT_SIDE_M / 10, queries)


def as_geotiff(picture: Path, path: Path, gsd_m: float) -> Path:
    """A picture on a grid of its own, its corner at an arbitrary place."""
    import rasterio
    from rasterio.transform import from_origin

    bgr = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    if bgr is None:
        raise FileNotFoundError(f"{picture}: missing or damaged")
    profile = {"driver": "GTiff", "width": bgr.shape[1], "height": bgr.shape[0], "count": 3, "dtype": "uint8"}
    transform = from_origin(500_000.0, 5_000_000.0, gsd_m, gsd_m)
    with rasterio.open(path, "w", crs=CRS, transform=transform, photometric="RGB", **profile) as file:
        file.write(np.moveaxis(bgr[..., ::-1], -1, 0))
    return path


def recall_all(run: Run, jobs: Sequence[Job], title: str) -> list[Hits]:
    """The hits of all jobs, gathered by group, in the order of their first job."""
    root, gathered = bundle_root(run.bundle), {}
    with one_core_pool(run.processes) as pool:
        results = pool.map(recall_one, jobs, [root] * len(jobs))
        for hits in tqdm(results, total=len(jobs), desc=title, unit="pair", disable=None):
            group = gathered.setdefault(hits.group, Hits(hits.group))
            for name in ("ours", "ncc", "chance"):
                getattr(group, name).extend(getattr(hits, name))
    return list(gathered.values())


def recall_one(job: Job, bundle_root: Path) -> Hits:
    """Both methods on the same views of one map."""
    seen = read_raster(job.seen_file)
    poses, seed = _poses(seen, job), [SEED, *job.group.encode()]
    ncc = single_frame_hits(
        NccMap(read_raster(job.map_file), job.footprint_m), seen, poses, np.random.default_rng(seed), job.within_m
    )
    rng, ours, chance = np.random.default_rng(seed), [], []
    bundle = Bundle.open(bundle_root)
    with tempfile.TemporaryDirectory() as made, open_engine(bundle, device="cpu", threads=1) as engine:
        with warnings.catch_warnings():  # a picture coarser than its samples is what some of these are
            warnings.simplefilter("ignore")
            index = build_index(
                [job.map_file], Path(made) / "map.kwmap", footprint_m=job.footprint_m, bundle=bundle,
                georef_sigma_m=0.0, progress=False,
            )  # fmt: skip
        with index:
            describe = Descriptor(engine)
            for pose in poses:
                place = best_state(index, describe, glance(seen, pose, job.footprint_m, rng).rgb[0])
                ours.append(math.dist(place[:2], pose[:2]) < job.within_m)
                chance.append(share_within(index, pose, job.within_m))
    return Hits(job.group, ours, ncc, chance)


def best_state(index: MapIndex, descriptor: Descriptor, patch: Array) -> tuple[float, float, float]:
    """Easting, northing and heading at which a view's descriptor fits a map best."""
    headings = np.arange(HEADINGS) * 2 * math.pi / HEADINGS
    vectors = descriptor.describe(rotated_views(patch, headings, descriptor.colours))[:, :, 0, 0]
    scores = index.descriptors.astype(np.float32) @ vectors.T
    scores[~index.valid] = -np.inf
    row, col, heading = np.unravel_index(int(np.argmax(scores)), scores.shape)
    return index.e0 + col * index.cell_m, index.n0 - row * index.cell_m, float(headings[heading])


def share_within(index: MapIndex, pose: Array, within_m: float) -> float:
    """Share of the map's cells that a guess would have to be among."""
    east = index.e0 + np.arange(index.cols) * index.cell_m - pose[0]
    north = index.n0 - np.arange(index.rows) * index.cell_m - pose[1]
    near = np.hypot(*np.meshgrid(east, north)) < within_m
    return float(near[index.valid].mean())


def _poses(seen: Raster, job: Job) -> Array:
    """(queries, 3): uniform where the disc is wholly in the picture, at random headings."""
    rng = np.random.default_rng([SEED, job.queries, *job.group.encode(), *job.seen_file.stem.encode()])
    west, south, east, north = seen.bounds
    radius = job.footprint_m / 2
    lows, highs = (west + radius, south + radius, -math.pi), (east - radius, north - radius, math.pi)
    return rng.uniform(lows, highs, (job.queries, 3))


def _figures(run: Run, id_: str, hits: Sequence[Hits], bar: str | None, data: str, note: str) -> list[Figure]:
    """A recall with NCC's beside it, and what chance gives."""
    chance = 100 * float(np.mean([np.mean(group.chance) for group in hits]))
    ncc = share_figure(f"{id_}.ncc", [group.ncc for group in hits], data=data, note=note)
    if bar == "NCC + 20":
        bar = f">= {(ncc.value or 0.0) + 20:.1f}"
    note = f"{note}; chance {chance:.1f} %"
    ours = share_figure(id_, [group.ours for group in hits], bar=bar, baseline=ncc.value, data=data, note=note)
    return [ours, ncc]


def _grey(path: Path) -> Array:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"no {folder}; set KITTIWAKE_DATA to the data's folder")
    return folder
