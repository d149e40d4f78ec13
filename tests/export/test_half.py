"""FP16: the search for nodes that must stay in float32, and the casts, against ONNX Runtime and a plain search."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kittiwake_export.errors import ExportError
from kittiwake_export.half import find_float_nodes, halvable_nodes, rounded
from kittiwake_export.quantize import open_session
from kittiwake_export.variants import make_half

NODES = [f"n{i}" for i in range(60)]


@given(st.sets(st.sampled_from(NODES), max_size=6))
def test_bisection_finds_the_bad_nodes_and_no_other(bad: set[str]) -> None:
    tries = []

    def passes(keep: list[str]) -> bool:
        tries.append(keep)
        return bad <= set(keep)

    assert find_float_nodes(NODES, passes) == sorted(bad, key=NODES.index)
    assert len(tries) <= 1 + 8 * len(bad)  # log2(60) = 6, and two to see whether it is done


def test_a_network_that_fails_in_float32_too_has_no_answer() -> None:
    assert find_float_nodes(NODES, lambda keep: False) is None


def network(scale: float) -> onnx.ModelProto:
    """y = relu(x W) * scale / scale, the product named "grow"."""
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Mul", ["b", "s"], ["c"], "grow"),
        helper.make_node("Div", ["c", "s"], ["y"], "shrink"),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32(scale), "s")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def in_half(x: np.ndarray, scale: float) -> np.ndarray:
    """The same in numpy's float16, the product's sums in float32."""
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        a = (x.astype(np.float16).astype(np.float32) @ weight.astype(np.float32)).astype(np.float16)
        return (np.maximum(a, np.float16(0)) * np.float16(scale) / np.float16(scale)).astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return open_session(model).run(None, {"x": x})[0]


X = np.random.default_rng(1).random((5, 8), np.float32)


@pytest.mark.parametrize(("size", "scale"), [(1.0, 2.0), (1.0, 1e4), (3e-5, 1.0), (1e6, 2.0), (1.0, 1e5)])
def test_roundings_are_numpys_float16_overflow_and_all(size: float, scale: float) -> None:
    """A CPU that runs the float16 network itself would see none of them."""
    x = np.float32(size) * X
    np.testing.assert_array_equal(run(rounded(network(scale), []), x), in_half(x, scale))


def test_what_overflows_stays_in_float32() -> None:
    """Products of up to 5 times 5e4 leave float16, whose largest value is 65504."""
    whole = network(5e4)
    assert not np.isfinite(run(rounded(whole, []), X)).all()
    half, kept = make_half(whole, [{"x": X}])
    assert kept == ["grow", "shrink"]
    np.testing.assert_allclose(run(half, X), run(whole, X), atol=0.005 * run(whole, X).max())


def test_what_fits_is_halved_whole_with_its_inputs_and_outputs_in_float32() -> None:
    whole = network(2.0)
    half, kept = make_half(whole, [{"x": X}])
    assert kept == []
    assert halvable_nodes(whole) == ["product", "relu", "grow", "shrink"]
    assert {value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)} == {
        TensorProto.FLOAT
    }
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}
    assert sum(node.op_type == "Cast" for node in half.graph.node) == 2  # one in, one out
    onnx.checker.check_model(half, full_check=True)
    assert 0 < np.abs(run(half, X) - run(whole, X)).max() < 1e-2


def test_fp16_that_would_gain_nothing_is_refused() -> None:
    with pytest.raises(ExportError, match="fp16 is refused: no convolution or matrix product"):
        make_half(network(2.0), [{"x": 1e6 * X}])
