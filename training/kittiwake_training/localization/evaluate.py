"""What a descriptor is worth on ground it wasn't trained on, and the scores from which likelihoods are made.

For every held-out place a whole date is described as a map, in one dense pass. Queries are taken from another
date at spots and headings that lie between cells and heading bins, with the errors that flight has, and are
turned to 36 headings as the runtime turns them. So each query gives a score for every state (cell, heading):
one of them is right, those within 3 cells and 30 degrees are neither, the rest are wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from kittiwake_training.localization.data import DevicePlace, camera_colours, to_device
from kittiwake_training.localization.model import CELL_PX, DISC_PX
from kittiwake_training.localization.places import WORLD, Place
from kittiwake_training.localization.views import AugmentationConfig, Chance, disc, mix_bands, observe, turn, view

HEADINGS = 36
NEAR_CELLS = 3.0
NEAR_RAD = math.radians(30)
HIT_CELLS = 60.0 / 160.0 * DISC_PX / CELL_PX
"""60 m at a footprint of 160 m, in cells."""
BINS = 64
"""Of the histograms in a calibration."""
FINE_BINS = 8 * BINS
"""Of the counts that figures are computed from."""
Z_RANGE = (-6.0, 14.0)
SCORE_RANGE = (-1.0, 1.0)

STATES_AROUND = 8
"""States beside the right one that share its peak: half a cell and half a heading to each side."""

# Position and heading between the bins are drawn apart; these are the remaining errors of a real view.
FLIGHT = AugmentationConfig(shift_px=0.0, turn_deg=0.0, scale=0.03, tilt=0.02, mix_share=0.0, cut_share=0.0)


@dataclass(frozen=True)
class EvaluationConfig:
    """How much to evaluate.

    Args:
        queries: per place and step.
        imagery_steps: distances of samples in pixels of real imagery.
        world_steps: the same for the procedural world.
        disc_px: diameter of the disc that a query shows.
    """

    queries: int = 32
    imagery_steps: tuple[float, ...] = (0.5, 1.0)
    world_steps: tuple[float, ...] = (1.0,)
    disc_px: float = DISC_PX


@dataclass(frozen=True)
class Query:
    """The outcome of one query.

    Args:
        place: name of the place.
        score: of the right state, a cosine.
        z: the same less the mean of all states, in their standard deviations.
        rank: how many wrong states score higher, as a share of them.
        off_cells: distance of the best state from the truth, in cells.
        wrong: (2, 512) float64 counts of wrong states by score and by z.
        chance: share of the cells that would count as a hit.
    """

    place: str
    score: float
    z: float
    rank: float
    off_cells: float
    wrong: NDArray[np.float64]
    chance: float


@torch.no_grad()
def evaluate(
    model: nn.Module, places: list[Place], config: EvaluationConfig, device: torch.device, seed: int
) -> dict[str, list[Query]]:
    """Query every place; the outcomes by the places' source.

    Args:
        model: a descriptor with the interface of ``DescriptorCNN``; it is moved to the device and put into
            evaluation mode.
        places: none of which it was trained on.
        config: how much.
        device: where to compute.
        seed: of spots, headings and light.
    """
    model.to(device).eval()
    outcomes: dict[str, list[Query]] = {}
    for index, place in enumerate(tqdm(places, desc="evaluating", unit="place", disable=None)):
        rng = np.random.default_rng([seed, index])
        for step in config.world_steps if place.source == WORLD else config.imagery_steps:
            flight = replace(FLIGHT, disc_px=config.disc_px)
            for query in scored_queries(model, to_device(place, device), step, config.queries, rng, flight):
                outcome = _outcome(place.name, *query)
                if outcome.wrong[1].any():  # a map of a few cells has no wrong ones
                    outcomes.setdefault(place.source, []).append(outcome)
    return outcomes


def scored_queries(
    model: nn.Module,
    place: DevicePlace,
    step: float,
    count: int,
    rng: np.random.Generator,
    flight: AugmentationConfig = FLIGHT,
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Query one place: one date is the map, from another ``count`` queries are taken.

    Yields:
        For each query that shows enough ground: (36, h, w) scores of headings and cells, (h, w) bool of the cells
        that are on the map, and the truth: (2,) x and y in cells, and () heading in radians.
    """
    map_date, query_date = (int(date) for date in rng.choice(len(place.pixels), size=2, replace=False))
    descriptors, valid = _describe_map(model, place, map_date, step)
    if not valid.any():
        return
    device = place.pixels.device
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    centre, heading = _draw_states(valid, count, generator)
    pixel = (centre * CELL_PX + (DISC_PX - 1) / 2) * step
    image = mix_bands(place.image(query_date), camera_colours(place, model.colours))
    seen = observe([image], pixel, heading, [step], flight, Chance([generator], count))
    assumed = torch.arange(HEADINGS, device=device) * (2 * math.pi / HEADINGS)
    for i in range(count):
        if seen[i, -1].sum() < 0.7 * disc(device, flight.disc_px).sum():
            continue
        views = turn(seen[i : i + 1].expand(HEADINGS, -1, -1, -1), -assumed)
        queries = model(views)[:, :, 0, 0]
        scores = torch.einsum("kd,dhw->khw", queries, descriptors)
        yield scores, valid, centre[i], heading[i]


def _describe_map(model: nn.Module, place: DevicePlace, date: int, step: float) -> tuple[Tensor, Tensor]:
    """(D, h, w) descriptors of one date at a sample distance, and (h, w) bool where a whole disc is seen."""
    image = mix_bands(place.image(date), camera_colours(place, model.colours))
    height, width = image.shape[1:]
    size = int((max(height, width) - 1) / step) + 1
    # One unrotated window whose first sample lies on the first pixel's centre.
    middle = torch.full((1, 2), (size - 1) / 2 * step, device=image.device)
    seen = view([image], middle, torch.zeros(1, device=image.device), [step], size)
    seen = seen[:, :, : int((height - 1) / step) + 1, : int((width - 1) / step) + 1]
    mask = (seen[:, -1:] > 0.999).float()
    descriptors = model(torch.cat([seen[:, :-1].clamp(0, 1) * mask, mask], dim=1))[0]
    share = functional.conv2d(mask, disc(image.device)[None, None], stride=CELL_PX)[0, 0]
    return descriptors, share > 0.99 * disc(image.device).sum()


def _draw_states(valid: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(N, 2) x and y in cells, up to half a cell from a valid cell's centre, and (N,) headings in radians."""
    cells = valid.nonzero()
    pick = torch.randint(len(cells), (count,), device=valid.device, generator=generator)
    offset = torch.rand(count, 2, device=valid.device, generator=generator) - 0.5
    heading = torch.rand(count, device=valid.device, generator=generator) * 2 * math.pi
    return cells[pick].flip(1) + offset, heading


def _outcome(place: str, scores: Tensor, valid: Tensor, centre: Tensor, heading: Tensor) -> Query:
    rows = torch.arange(valid.shape[0], device=valid.device)[:, None] - centre[1]
    columns = torch.arange(valid.shape[1], device=valid.device)[None, :] - centre[0]
    distance = torch.sqrt(rows**2 + columns**2)
    angles = torch.arange(HEADINGS, device=valid.device) * (2 * math.pi / HEADINGS) - heading
    aligned = torch.cos(angles)
    states = scores[:, valid]
    near = (aligned > math.cos(NEAR_RAD))[:, None] & (distance[valid] < NEAR_CELLS)[None]
    mean, std = states.mean(), states.std().clamp(min=1e-6)
    right = scores[aligned.argmax(), centre[1].round().long(), centre[0].round().long()]
    wrong = states[~near]
    best = states.amax(dim=0).argmax()
    return Query(
        place=place,
        score=float(right),
        z=float((right - mean) / std),
        rank=float((wrong > right).double().mean()),
        off_cells=float(distance[valid][best]),
        wrong=np.stack([_count(wrong, SCORE_RANGE), _count((wrong - mean) / std, Z_RANGE)]),
        chance=float((distance[valid] < HIT_CELLS).double().mean()),
    )


def _inside(limits: tuple[float, float]) -> tuple[float, float]:
    return limits[0] + 1e-4, limits[1] - 1e-4


def _count(values: Tensor, limits: tuple[float, float]) -> NDArray[np.float64]:
    return torch.histc(values.float().clamp(*_inside(limits)), FINE_BINS, *limits).double().cpu().numpy()


def metrics(outcomes: dict[str, list[Query]]) -> list[dict[str, Any]]:
    """What a manifest lists under ``metrics``: per source of places, single-frame recall, AUC and
    information."""
    listed: list[dict[str, Any]] = []
    for source, queries in outcomes.items():
        n = len(queries)
        split = f"validation, {source}"
        figures = {
            "recall_60m_at_160m": (100 * np.mean([q.off_cells < HIT_CELLS for q in queries]), "%"),
            "recall_3_cells": (100 * np.mean([q.off_cells < NEAR_CELLS for q in queries]), "%"),
            "chance_60m_at_160m": (100 * np.mean([q.chance for q in queries]), "%"),
            "auc_within_frame": (100 * (1 - np.mean([q.rank for q in queries])), "%"),
            "auc_pooled": (100 * _pooled_auc(queries), "%"),
            "median_z": (np.median([q.z for q in queries]), "1"),
            "information": (softmax_calibration(queries)["information"], "nat"),
        }
        listed += [
            {"name": name, "value": round(float(value), 4), "unit": unit, "split": split, "n": n}
            for name, (value, unit) in figures.items()
        ]
    return listed


def calibration(outcomes: dict[str, list[Query]], places: list[Place]) -> dict[str, Any]:
    """Counts of right and wrong states by z and by score, from real places alone where there are any.

    Each query's wrong states weigh the same, whatever its place's size, and their counts add up to the number
    of wrong states that were looked at. Softmax is fitted to the harder quarter of the places: a flight's ground
    may be harder than most, and a slope too low costs some updates where one too high costs the track.
    """
    sources = [source for source in outcomes if source != WORLD] or list(outcomes)
    queries = [query for source in sources for query in outcomes[source]]
    looked_at = sum(float(q.wrong[1].sum()) for q in queries)
    shares = np.mean([q.wrong / q.wrong.sum(axis=1, keepdims=True) for q in queries], axis=0)
    wrong = looked_at * shares.reshape(2, BINS, -1).sum(axis=2)
    right = {"score": np.array([q.score for q in queries]), "z": np.array([q.z for q in queries])}

    def histogram(row: int, name: str, limits: tuple[float, float]) -> dict[str, Any]:
        counts, _ = np.histogram(right[name].clip(*_inside(limits)), BINS, limits)
        return {
            "lo": limits[0],
            "hi": limits[1],
            "positive": [int(c) for c in counts],
            "negative": [round(float(c), 1) for c in wrong[row]],
        }

    return {
        "z": histogram(1, "z", Z_RANGE),
        "score": histogram(0, "score", SCORE_RANGE),
        "softmax": softmax_calibration(_harder(queries)),
        "headings": HEADINGS,
        "n_positive": len(queries),
        "n_negative": int(looked_at),
        "places": sorted(place.name for place in places if place.source in sources),
    }


def _pooled_auc(queries: list[Query]) -> float:
    """Share of (right, wrong) pairs over all queries in which the right one scores higher, by histogram."""
    wrong = np.mean([q.wrong[0] / q.wrong[0].sum() for q in queries], axis=0)
    below = np.concatenate([[0.0], wrong.cumsum()])
    edges = np.linspace(*SCORE_RANGE, FINE_BINS + 1)
    return float(np.mean(np.interp([q.score for q in queries], edges, below)))


def _harder(queries: list[Query]) -> list[Query]:
    """The queries of the quarter of the places whose right states stand out least."""
    by_place: dict[str, list[Query]] = {}
    for query in queries:
        by_place.setdefault(query.place, []).append(query)
    hardest = sorted(by_place.values(), key=lambda found: float(np.mean([query.z for query in found])))
    return [query for found in hardest[: math.ceil(len(hardest) / 4)] for query in found]


def softmax_calibration(queries: list[Query]) -> dict[str, float]:
    """The slope and the null share that give the right states the highest probability, frame by frame.

    A frame's states share its probability as (1 - null) exp(slope z) / mean(exp(slope z)) + null; temperature
    scaling (Guo et al., ICML 2017) with a floor, which is the runtime's likelihood ``softmax``.

    Returns:
        ``slope``, ``null`` and ``information``: the right states' mean log-ratio to an even share, nats. It is
        bounded by the states of a map, so that maps of other sizes give other figures.
    """
    width = (Z_RANGE[1] - Z_RANGE[0]) / FINE_BINS
    centres = Z_RANGE[0] + (np.arange(FINE_BINS) + 0.5) * width
    z = np.array([q.z for q in queries])
    wrong = np.array([q.wrong[1] for q in queries])
    best = {"slope": 0.0, "null": 0.0, "information": -math.inf}
    for slope in np.arange(0.5, 8.01, 0.125):
        right = np.exp(slope * (z - Z_RANGE[1]))
        everywhere = wrong @ np.exp(slope * (centres - Z_RANGE[1])) + STATES_AROUND * right
        ratio = right / everywhere * (wrong.sum(axis=1) + STATES_AROUND)
        for null in (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
            information = float(np.log((1 - null) * ratio + null).mean())
            if information > best["information"]:
                best = {"slope": float(slope), "null": null, "information": information}
    return best
