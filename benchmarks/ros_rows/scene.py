"""What the rows share: how much to measure, the area that is flown over, and its index."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runs import CACHE, code_hash, key_of, product_code
from timing import build_seconds, world_map

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.localization.camera import Camera, save_camera
from kittiwake_runtime.localization.map_build import find_bundle
from kittiwake_runtime.localization.world import VERSION

SEED = 20261127
WORLD_SEED = 7
MAP_DATE = "2024-06-15"
"""The flights, which are of the world's next year, start a year later (`simulate_flight`)."""


@dataclass(frozen=True)
class Plan:
    """One invocation: how much to measure."""

    quick: bool
    soak_minutes: float = 2.0
    processes: int = 2

    def count(self, full: int, quick: int) -> int:
        """How many of something."""
        return quick if self.quick else full


def bundle() -> Bundle:
    """The model that ships."""
    return find_bundle(None)


def index_of(side_m: float) -> Path:
    """The index of a square of the world in summer, made when this code has not made it yet."""
    key = key_of(code_hash(product_code()), bundle().sha256)
    path = CACHE / "indexes" / f"ros-{side_m:.0f}m-{key}.kwmap"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        source = world_map(WORLD_SEED, "summer", (0.0, 0.0, side_m, side_m))
        build_seconds(source, path, 160.0, bundle().root.absolute(), MAP_DATE)
    return path


def camera_file(camera: Camera, name: str) -> Path:
    """A camera.yaml in the cache."""
    path = CACHE / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_camera(camera, path)
    return path


def of_world(side_m: float) -> str:
    """Which data."""
    area = f"procedural world {WORLD_SEED}, version {VERSION}, {side_m**2 / 1e6:.0f} km2"
    return f"{area}; bundle {bundle().sha256[:16]}"
