"""Flights over countries of noise: what the tests of the localizer share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import Localizer, LocalizerConfig
from kittiwake_runtime.localization.outputs import Fix

FALSE_M = 90.0
"""Off by more, a converged fix is false."""

Leg = tuple[OdometryStep | None, tuple[float, float, float]]


def start(country: Any, **config: Any) -> Localizer:
    return Localizer(country.index, country.engine, LocalizerConfig(**config))


def flown(localizer: Localizer, country: Any, legs: Iterable[Leg], seed: int = 0) -> list[tuple[Fix, float]]:
    """Each frame's fix and how far off it is."""
    found = []
    for number, (step, pose) in enumerate(legs):
        view = country.view(*pose, noise=1000 * seed + number)
        fix = localizer.update(step, view, time_s=5.0 * number)
        found.append((fix, off_m(fix, pose)))
    return found


def off_m(fix: Fix, pose: Sequence[float]) -> float:
    return math.dist((fix.easting_m, fix.northing_m), pose[:2])


def first_converged(found: list[tuple[Fix, float]]) -> int:
    """Number of the frame, the flight's length if there is none."""
    return next((n for n, (fix, _) in enumerate(found) if fix.is_believed), len(found))


def falses(found: list[tuple[Fix, float]]) -> int:
    return sum(fix.is_believed and off > FALSE_M for fix, off in found)


def noisy_legs(poses: Sequence[tuple[float, float, float]], seed: int = 0) -> list[Leg]:
    """The poses and what the benchmark's odometry would have measured between them."""
    rng, legs = np.random.default_rng(seed), [(None, poses[0])]
    for before, after in itertools.pairwise(poses):
        moved = complex(after[0] - before[0], after[1] - before[1]) * np.exp(-1j * before[2])
        sigma, turn = 0.02 * abs(moved), math.remainder(after[2] - before[2], 2 * math.pi)
        noise = rng.normal(0, (sigma, sigma, math.radians(1.5)))
        step = OdometryStep(
            moved.real + noise[0], moved.imag + noise[1], turn + noise[2], sigma, math.radians(1.5), 5.0
        )
        legs.append((step, after))
    return legs
