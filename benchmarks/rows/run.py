"""One invocation of the benchmark: how much is flown, with which models, over which grounds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from places import Place, data_dir, load_baviaans, load_north_dakota, read_raster
from runs import key_of
from timing import world_map

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.localization.map_build import find_bundle
from kittiwake_runtime.localization.world import Season

SEED = 20261123
NCC_FLIGHTS = 60
NCC_FLIGHTS_LARGE = 20
"""On areas of 100 km² and more."""
WORLD_SEED = 7
QUICK_PAIRS = 2


@dataclass(frozen=True)
class Run:
    """One invocation: how much to fly, with what.

    Attributes:
        quick: a few flights of each kind over small grounds, written to files of their own.
        flights: of the product, a row; None for the row's own number.
        processes: to fly in.
        bundle_path: of the model under test; None takes the installed one.
        tuned_path: of the model that was fine-tuned on the western half of North Dakota.
    """

    quick: bool
    flights: int | None = None
    processes: int = 2
    bundle_path: str | None = None
    tuned_path: str | None = None

    @property
    def name(self) -> str:
        """Stem of the result files."""
        return "localization.quick" if self.quick else "localization"

    @property
    def key(self) -> str:
        """Of what was asked for, the code aside."""
        tuned = self.tuned_path and find_bundle(self.tuned_path).sha256
        return key_of(self.quick, self.flights, self.bundle.sha256, tuned)

    def count(self, full: int, quick: int = 3) -> int:
        """How many flights of the product a row flies."""
        return self.flights or (quick if self.quick else full)

    def ncc_count(self, full: int = NCC_FLIGHTS, quick: int = 0) -> int:
        """How many of the same flights the baseline flies; a quick run compares in one row only."""
        return quick if self.quick else full

    @property
    def world_side_m(self) -> float:
        """Of the procedural area that stands for 100 km²."""
        return 4_000.0 if self.quick else 10_000.0

    @cached_property
    def bundle(self) -> Bundle:
        """The model under test."""
        return find_bundle(self.bundle_path)

    @cached_property
    def north_dakota(self) -> Place:
        """The place of the nd rows; a quick run takes two pairs that share their map."""
        place = load_north_dakota(data_dir())
        return replace(place, pairs=place.pairs[:QUICK_PAIRS]) if self.quick else place

    @cached_property
    def baviaans(self) -> Place:
        """The aerial mosaic over Sentinel-2."""
        return load_baviaans(data_dir())

    def world(self, map_season: Season, seen_season: Season, side_m: float | None = None) -> Place:
        """A square of the procedural world at two seasons."""
        return world_place(WORLD_SEED, map_season, seen_season, side_m or self.world_side_m)


def world_place(seed: int, map_season: Season, seen_season: Season, side_m: float) -> Place:
    """A square of a procedural world, in one season on the map and in another from above: its truth is exact."""
    rasters = {
        season: read_raster(world_map(seed, season, (0.0, 0.0, side_m, side_m))) for season in (map_season, seen_season)
    }
    return Place(f"world{seed}", rasters, ((map_season, seen_season),))


def of_data(place: Place, made_by: str) -> str:
    """Which data a figure stands on, and who flew."""
    return f"{place.name} {place.sha256[:16]}, {made_by}"


def of_bundle(bundle: Bundle) -> str:
    """Which model."""
    return f"bundle {bundle.sha256[:16]}"


def bundle_root(bundle: Bundle) -> Path:
    """Its folder, absolute: other processes open it."""
    return bundle.root.absolute()
