from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from kittiwake_training.localization.places import Place


def make_place(name: str, size: int = 128, seed: int = 0, split: str = "train", change: float = 0.1) -> Place:
    """Blobs of 4 to 32 px; the second date is the first, half as bright, with ``change`` of its own."""
    rng = np.random.default_rng(seed)

    def ground() -> np.ndarray:
        layers = [
            cv2.resize(rng.random((size // px, size // px)), (size, size), interpolation=cv2.INTER_CUBIC)
            for px in (4, 8, 16, 32)
        ]
        return np.mean(layers, axis=0)

    first = ground()
    second = 0.5 * ((1 - change) * first + change * ground())
    stack = np.stack([first, second])[:, None]
    return Place(
        name=name,
        stack=np.clip(255 * stack, 0, 255).astype(np.uint8),
        valid=np.ones((2, size, size), bool),
        gsd_m=5.0,
        dates=("2020-06-01", "2021-10-01"),
        gray=(1.0,),
        source="made",
        licence="none",
        split=split,
    )


@pytest.fixture(name="make_place")
def _make_place() -> Callable[..., Place]:
    return make_place


@pytest.fixture(scope="session")
def place_maker() -> Callable[..., Place]:
    return make_place


@pytest.fixture
def places() -> list[Place]:
    train = [make_place(f"train_{i}", seed=i) for i in range(3)]
    return [*train, make_place("validation_0", seed=100, split="validation")]
