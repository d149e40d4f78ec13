"""The benchmark of pruning: its command line, and how trials become figures."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pruning
import pytest
import torch
from baselines import simplify
from by_rows import Skipped
from rows.pruned import Hits, _interval, _ratio_interval, measure_curve
from rows.removal import measure_removal
from scoring import Track
from small_networks import family

from kittiwake_training.pruning.tradeoff import Point


def test_rows_without_their_networks_are_skipped_with_the_reason() -> None:
    options = argparse.Namespace(
        dense=None, pruned=[], data=None, lite0_dense=None, lite0_pruned=[], runs=[], quick=True
    )
    for name in ("descriptor", "curve", "lite0", "flight"):
        with pytest.raises(Skipped, match="give"):
            pruning.ROWS[name].measure(options)
    if not torch.cuda.is_available():
        with pytest.raises(Skipped, match="GPU"):
            pruning.ROWS["sparsity24"].measure(options)


@pytest.mark.slow
def test_every_network_is_proven() -> None:
    figures = {figure.id: figure for figure in measure_removal(quick=True)}
    assert figures["equivalence.graphs"].value == figures["equivalence.graphs"].n == 46
    assert figures["equivalence.max_error"].value < 1e-10


def test_torch_simplify_is_wrong_on_a_residual_network() -> None:
    if not simplify.is_installed():
        pytest.skip("torch-simplify is not installed")
    inputs = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    assert simplify.largest_error(family("residual B", 0), inputs) > 1e-2


def test_the_interval_of_a_drop_knows_its_places_and_seeds() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 50)
    before = Hits(100.0 * (rng.random(2000) < 0.5), groups)
    same = _interval(before, [before, before])
    assert same == (0.0, 0.0)
    worse = Hits(np.where(rng.random(2000) < 0.1, 0.0, before.values), groups)
    low, high = _interval(before, [worse])
    assert low < float((before.values - worse.values).mean()) < high
    assert 0 < low < high < 10


def track(updates: int, pair: str) -> Track:
    column = np.full(50, 5.0)
    off = np.stack([column, 0 * column], axis=1)
    return Track((pair, "x"), off, np.arange(50) >= updates - 1, column, column, column / 50)


def test_the_interval_of_updates_draws_pairs_of_dates() -> None:
    slow = [track(10, str(i % 5)) for i in range(20)]
    fast = [track(8, str(i % 5)) for i in range(20)]
    low, high = _ratio_interval(slow, fast)
    assert low == pytest.approx(0.8)
    assert high == pytest.approx(0.8)


def test_a_curve_is_read_from_the_folders_of_runs(tmp_path: Path) -> None:
    for importance in ("taylor", "lamp"):
        folder = tmp_path / importance
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"importance": importance, "backend": "int8"}))
        metrics = [{"name": "recall_3_cells", "value": 40.0, "unit": "%", "split": "made", "n": 96}]
        points = [Point(str(i), 1e9 / (i + 1), 1e6, {"cpu int8": 0.04 / (i + 1)}, metrics, {}) for i in range(5)]
        (folder / "rounds.json").write_text(json.dumps([asdict(point) for point in points]))
    figures = {f.id: f for f in measure_curve([tmp_path / "taylor", tmp_path / "lamp"], tmp_path / "curve.png")}
    assert figures["descriptor.curve"].value == 5
    assert figures["descriptor.curve.lamp.3"].value == 40.0
    assert "10 ms predicted, cpu int8" in figures["descriptor.curve.lamp.3"].note
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
