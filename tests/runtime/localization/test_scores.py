"""The integer product against float64, and its network against what the recorded operator says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kittiwake_runtime.localization import scores
from kittiwake_runtime.localization.scores import LevelScorer


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), headings=st.integers(1, 40), dim=st.integers(1, 96), cells=st.integers(1, 300))
def test_levels_are_the_product_to_a_level(seed: int, headings: int, dim: int, cells: int) -> None:
    rng = np.random.default_rng(seed)
    map_cells = rng.integers(-127, 128, (cells, dim), dtype=np.int8)
    queries = rng.normal(0, 12 / (70 * np.sqrt(dim)), (headings, dim)).astype(np.float32)
    zero = rng.uniform(20, 200)
    wanted = np.clip(queries.astype(np.float64) @ map_cells.T.astype(np.float64) + zero, 0, 255)
    # Half a level of rounding for the zero and for the level, and what 7 bits leave of a query.
    rounding = np.abs(queries).max(axis=1, keepdims=True) / 63 / 2 * np.abs(map_cells.astype(float)).sum(axis=1)
    assert (np.abs(LevelScorer(queries, zero)(map_cells) - wanted) <= 1.001 + rounding).all()


def test_seven_bits_cost_a_quarter_of_a_level() -> None:
    rng = np.random.default_rng(0)
    cells = rng.integers(-40, 41, (20_000, 48), dtype=np.int8)
    queries = rng.normal(0, 12.75 / (23 * np.sqrt(48)), (36, 48)).astype(np.float32)
    found = LevelScorer(queries, 77.0)(cells)
    exact = queries.astype(np.float64) @ cells.T.astype(np.float64) + 77
    assert (found - exact).std() == pytest.approx(np.sqrt(1 / 12), abs=0.1)


def test_scores_beyond_the_table_take_its_end_levels() -> None:
    cells = np.array([[127], [-127], [0]], np.int8)
    assert LevelScorer(np.array([[9.0]], np.float32), 77.0)(cells).tolist() == [[255, 0, 77]]


def test_the_network_is_one_operator_that_old_runtimes_read() -> None:
    onnx = pytest.importorskip("onnx")
    with open(scores.__file__.replace(".py", ".onnx"), "rb") as file:
        model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["QLinearMatMul"]
    assert (model.ir_version, model.opset_import[0].version) == (10, 18)
