from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import family

from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.cost import Layer, layers_of
from kittiwake_training.pruning.latency import (
    LatencyModel,
    Times,
    fit_latency,
    geometry,
    latency_cost,
    load_table,
    save_table,
)
from kittiwake_training.pruning.structured import prune_once

COUNTS = (8, 16, 24, 48)
IMAGE = torch.zeros(2, 3, 12, 12)


def layer(taken: int, made: int, kind: str = "conv") -> Layer:
    return Layer("net.layer", kind, taken, made, (3, 3), (1, 1), made if kind == "depthwise" else 1, 2, 9, 9, True)


def grid() -> dict:
    """A machine whose layers take a time that is bilinear in their channels."""
    seconds = np.array([[1e-6 * taken * made + 1e-5 * made for made in COUNTS] for taken in COUNTS])
    narrow = np.array([[2e-6 * made for made in COUNTS]])
    return {
        geometry(layer(8, 8)): Times(COUNTS, COUNTS, seconds),
        geometry(layer(8, 8, "depthwise")): Times((1,), COUNTS, narrow),
    }


@pytest.mark.parametrize(("taken", "made"), [(8, 8), (16, 48), (32, 40), (20, 9), (64, 56)])
def test_times_lie_between_those_of_the_counts_around(taken: int, made: int) -> None:
    model = LatencyModel("made up", grid())
    assert model([layer(taken, made)]) == pytest.approx(1e-6 * taken * made + 1e-5 * made)
    assert model([layer(made, made, "depthwise")]) == pytest.approx(2e-6 * made)


def test_what_lies_between_layers_is_found_from_whole_networks() -> None:
    bare = LatencyModel("made up", grid())
    networks = [[layer(8, a), layer(a, b), layer(b, b, "depthwise")] for a in COUNTS for b in COUNTS]
    measured = [0.9 * bare(n) + 3e-4 + 2e-9 * sum(x.elements for x in n) for n in networks]
    fitted = fit_latency("made up", grid(), list(zip(networks, measured, strict=True)))
    assert (fitted.scale, fitted.fixed_s, fitted.element_s) == pytest.approx((0.9, 3e-4, 2e-9), rel=1e-6)
    with pytest.raises(TrainingError, match="2 networks for three numbers"):
        fit_latency("made up", grid(), list(zip(networks, measured, strict=True))[:2])


def test_no_time_is_negative() -> None:
    networks = [([layer(8, 8)], 1e-3), ([layer(48, 48)], 1e-3), ([layer(16, 48)], 1.1e-3), ([layer(48, 8)], 0.9e-3)]
    fitted = fit_latency("made up", grid(), networks)
    assert min(fitted.scale, fitted.fixed_s, fitted.element_s) >= 0


def test_a_table_is_what_was_written(tmp_path: Path) -> None:
    model = LatencyModel("onnxruntime-cpu int8, 1 thread", grid(), 1.1, 2e-4, 3e-9)
    save_table(tmp_path / "times.json", [model], {"cpu": "made up"})
    loaded = load_table(tmp_path / "times.json")
    cost = latency_cost(loaded, "int8")
    assert cost([layer(20, 30)]) == pytest.approx(model([layer(20, 30)]), rel=1e-3)
    with pytest.raises(TrainingError, match="backend 'fp32' means 0 tables"):
        latency_cost(loaded, "fp32")
    (tmp_path / "times.json").write_text(json.dumps({"format": "else"}))
    with pytest.raises(TrainingError, match="is not a table of layer times"):
        load_table(tmp_path / "times.json")


def test_a_layer_that_was_not_measured_is_named() -> None:
    with pytest.raises(TrainingError, match=r"no layer like 'stem\.0': conv \(3, 3\)"):
        LatencyModel("made up", grid())(layers_of(family("plain", 0), IMAGE))


def test_a_latency_target_prunes_where_time_is_spent() -> None:
    """On a machine where one geometry alone costs time, only its layers lose channels."""
    model = family("plain", seed=2)
    layers = layers_of(model, IMAGE)
    wide = np.array([[1e-6 * a * b for b in range(8, 65, 8)] for a in range(8, 65, 8)])
    counts = tuple(range(8, 65, 8))
    slow = geometry(layers[2])
    table = {geometry(x): Times(counts, counts, wide * (1.0 if geometry(x) == slow else 1e-6)) for x in layers}
    cost = LatencyModel("made up", table)
    done = prune_once(model, IMAGE, cost, 0.5 * cost(layers))
    changed = {a.name for a, b in zip(layers, done.layers, strict=True) if (a.taken, a.made) != (b.taken, b.made)}
    slow_layers = [x.name for x in layers if geometry(x) == slow]
    assert cost(done.layers) <= 0.5 * cost(layers)
    neighbours = {layers[i + d].name for i, x in enumerate(layers) if x.name in slow_layers
                  for d in (-1, 0, 1) if 0 <= i + d < len(layers)}  # fmt: skip
    assert changed <= neighbours
