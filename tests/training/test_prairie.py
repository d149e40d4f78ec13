from __future__ import annotations

import numpy as np

from kittiwake_training.localization.prairie import DATES, prairie_place


def test_a_seed_decides_everything() -> None:
    first, again = (prairie_place(3, size_m=600, gsd_m=5.0, split="train") for _ in range(2))
    other = prairie_place(4, size_m=600, gsd_m=5.0, split="train")
    assert first.stack.shape == (DATES, 3, 120, 120)
    assert np.array_equal(first.stack, again.stack)
    assert not np.array_equal(first.stack, other.stack)


def test_crops_change_and_the_ground_under_them_lasts() -> None:
    """Two years of one place are less alike than one year, and more alike than two places."""

    def edges(image: np.ndarray) -> np.ndarray:
        gray = image.mean(axis=0)
        return np.hypot(*np.gradient(gray)).ravel()

    within, across = [], []
    for seed in range(6):
        here, there = (prairie_place(seed + shift, size_m=900, gsd_m=5.0, split="train") for shift in (0, 50))
        within.append(np.corrcoef(edges(here.stack[0]), edges(here.stack[3]))[0, 1])
        across.append(np.corrcoef(edges(here.stack[0]), edges(there.stack[3]))[0, 1])
    assert 0.1 < np.mean(within) < 0.9
    assert np.mean(within) > np.mean(np.abs(across)) + 0.1


def test_the_ground_sample_changes_the_pixels_and_not_the_size() -> None:
    fine = prairie_place(1, size_m=600, gsd_m=2.5, split="validation")
    assert fine.stack.shape[2:] == (240, 240)
    assert (fine.gsd_m, fine.split, fine.source) == (2.5, "validation", "world")
