"""The published covariance against the truth, over many flights called directly: ROS has no part in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from results import Figure
from tqdm import tqdm

from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.localization.flight import Observation, fly
from kittiwake_runtime.localization.flight_log import Pose, odometry_steps
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.outputs import Fix
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, SimulatedFrame, simulate_flight
from kittiwake_runtime.localization.world import SEASONS, Season, World
from ros_rows.scene import SEED, WORLD_SEED, Plan, bundle, index_of, of_world

SIDE_M = 4_000.0
NINETY = -2 * math.log(0.1)
"""Squared normalized error that a 2-D Gaussian stays below with 90 %."""


def simulated(seed: int, updates: int, season: Season = "autumn") -> list[SimulatedFrame]:
    """A flight by the protocol of the localization benchmark."""
    bounds = (0.0, 0.0, SIDE_M, SIDE_M)
    world = World(WORLD_SEED)
    return list(
        simulate_flight(world, bounds=bounds, season=season, date_seed=1, updates=updates, seed=seed, threads=1)
    )


def directly(frames: list[SimulatedFrame]) -> Iterator[Fix]:
    """Its fixes, by the code of `kittiwake locate`."""
    poses = [Pose(time_s=frame.time_s, roll_deg=0.0, pitch_deg=0.0, odometry=frame.odometry) for frame in frames]
    steps = [None, *odometry_steps(poses)]
    observations = [
        Observation(frame.time_s, frame.image, frame.attitude_rad, frame.height_agl_m, True, step)
        for frame, step in zip(frames, steps, strict=True)
    ]
    with MapIndex.open(index_of(SIDE_M)) as index, open_engine(bundle()) as engine:
        for update in fly(Localizer(index, engine), DEFAULT_CAMERA, observations):
            yield update.fix


def measure_consistency(plan: Plan) -> list[Figure]:
    """Normalized error squared over its dimension, and the share inside the 90 % ellipse; intervals over flights.

    As many flights in each season: a covariance that holds in autumn alone would not do.
    """
    number = plan.count(100, 4)
    seeds = [SEED + 1 + i for i in range(number)]
    seasons = [SEASONS[i % len(SEASONS)] for i in range(number)]
    index_of(SIDE_M)
    updates = plan.count(40, 20)
    with ProcessPoolExecutor(plan.processes, mp_context=get_context("spawn")) as pool:
        flights = pool.map(partial(squared_errors, updates=updates), seeds, seasons)
        flown = list(tqdm(flights, total=number, desc="consistency", unit="flight", disable=None))
    found = [errors for errors in flown if len(errors)]
    data = f"{of_world(SIDE_M)}, {number} flights of {updates} updates, as many in each season"
    if not found:
        return [Figure("consistency.nees", None, "x", 0, None, "0.7-1.3", data=data, note="no flight converged")]
    n = sum(map(len, found))
    note = f"all {n} converged updates of {len(found)} flights; interval by bootstrap over flights"
    nees, nees_bounds = _bootstrap(found, lambda errors: float(np.mean(errors)) / 2)
    inside, inside_bounds = _bootstrap(found, lambda errors: 100 * float(np.mean(errors <= NINETY)))
    by_season = {season: np.concatenate(flown[i :: len(SEASONS)]) for i, season in enumerate(SEASONS)}
    means = ", ".join(f"{season} {np.mean(errors) / 2:.2f}" for season, errors in by_season.items() if len(errors))
    shares = ", ".join(
        f"{season} {100 * np.mean(errors <= NINETY):.0f}" for season, errors in by_season.items() if len(errors)
    )
    return [
        Figure("consistency.nees", nees, "x", n, nees_bounds, "0.7-1.3", data=data, note=f"{note}; {means}"),
        Figure("consistency.inside90", inside, "%", n, inside_bounds, "85-95", data=data, note=f"{note}; {shares}"),
    ]


def squared_errors(seed: int, season: Season, updates: int) -> np.ndarray:
    """``(n,)`` squared error of each converged update, normalized by its published covariance."""
    import cv2

    cv2.setNumThreads(1)
    frames = simulated(seed, updates, season)
    found = []
    for frame, fix in zip(frames, directly(frames), strict=True):
        if fix.is_believed:
            error = np.array([fix.easting_m - frame.easting_m, fix.northing_m - frame.northing_m])
            found.append(float(error @ np.linalg.solve(fix.covariance, error)))
    return np.array(found)


def _bootstrap(flights: list[np.ndarray], of: Callable[[np.ndarray], float]) -> tuple[float, tuple[float, float]]:
    """A statistic of all updates, and its 95 % interval when whole flights are drawn."""
    rng = np.random.default_rng(SEED)
    draws = [of(np.concatenate([flights[i] for i in rng.integers(0, len(flights), len(flights))])) for _ in range(1000)]
    low, high = np.percentile(draws, [2.5, 97.5])
    return of(np.concatenate(flights)), (float(low), float(high))
