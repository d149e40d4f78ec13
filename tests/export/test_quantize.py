"""INT8 against a plain quantization in numpy, and what ONNX Runtime makes of the Q/DQ pairs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from kittiwake_export.quantize import choose_products, measure, quantize

RNG = np.random.default_rng(0)


def network(channels: int = 8, groups: int = 1, spread: float = 1.0) -> onnx.ModelProto:
    """y = conv(relu(conv(x))), the first kept apart by its name; `spread` makes channels of different sizes."""
    first = RNG.normal(size=(channels, 3, 3, 3)).astype(np.float32)
    first *= np.geomspace(1, spread, channels).astype(np.float32)[:, None, None, None]
    second = RNG.normal(size=(channels, channels // groups, 3, 3)).astype(np.float32)
    constants = {"w1": first, "b1": RNG.normal(size=channels).astype(np.float32), "w2": second}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"], "relu"),
        helper.make_node("Conv", ["r", "w2"], ["y"], "second", group=groups),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", channels, "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


SAMPLES = [{"x": RNG.random((2, 3, 16, 16), np.float32)} for _ in range(4)]
BOTH = ["first", "second"]


def outputs(model: onnx.ModelProto, profile: Path | None = None, *, fused: bool = True) -> tuple[np.ndarray, set[str]]:
    """What it gives for the first sample, and the operators that ran where a profile is asked for.

    Not fused, it is what the graph says; integer kernels saturate at signed activations on x86 without VNNI.
    """
    options = ort.SessionOptions()
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, str(profile / "run")
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    result = session.run(None, SAMPLES[0])[0]
    if not profile:
        return result, set()
    events = json.loads(Path(session.end_profiling()).read_text())
    return result, {e["args"]["op_name"] for e in events if e["name"].endswith("kernel_time")}


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def test_it_runs_in_integers_and_comes_close(tmp_path: Path) -> None:
    whole = network()
    quantized = quantize(whole, measure(whole, SAMPLES), BOTH)
    onnx.checker.check_model(quantized, full_check=True)
    expected, _ = outputs(whole)
    found, operators = outputs(quantized, tmp_path)
    assert "QLinearConv" in operators
    assert not {"Conv", "FusedConv", "Relu"} & operators
    assert np.std(found - expected) < 0.02 * np.std(expected)


@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_are_those_of_a_plain_rounding_by_channel(symmetric: bool) -> None:
    whole = network(spread=100.0)
    quantized = quantize(whole, measure(whole, SAMPLES), BOTH, symmetric)
    largest = 127 if symmetric else 64
    for name, weight in (("first", constant(whole, "w1")), ("second", constant(whole, "w2"))):
        step = constant(quantized, f"{name}.weight.scale")
        whole_steps = constant(quantized, f"{name}.weight.q")[:, : weight.shape[1]]  # without channels of zeros
        assert whole_steps.dtype == np.int8
        assert np.abs(whole_steps.reshape(len(weight), -1).astype(int)).max(axis=1).tolist() == [largest] * len(weight)
        error = np.abs(whole_steps * step[:, None, None, None] - weight).max(axis=(1, 2, 3))
        assert (error <= 0.501 * step).all()


def test_depthwise_weights_have_eight_bits() -> None:
    whole = network(groups=8)
    quantized = quantize(whole, measure(whole, SAMPLES), BOTH)
    assert np.abs(constant(quantized, "second.weight.q").astype(int)).max() == 127
    assert np.abs(constant(quantized, "first.weight.q").astype(int)).max() == 64


def test_tensorrts_form_is_signed_around_zero_with_biases_in_float() -> None:
    whole = network()
    unsigned, signed = (quantize(whole, measure(whole, SAMPLES), BOTH, symmetric) for symmetric in (False, True))
    zeros = {name: constant(model, "r.int8.zero") for name, model in (("u", unsigned), ("s", signed))}
    assert (zeros["u"].dtype, zeros["s"].dtype, int(zeros["s"])) == (np.uint8, np.int8, 0)
    kinds = [{t.name for t in model.graph.initializer} for model in (unsigned, signed)]
    assert "first.bias.q" in kinds[0]
    assert "first.bias.q" not in kinds[1]
    assert "b1" in kinds[1]
    expected, found = outputs(whole)[0], outputs(signed, fused=False)[0]
    assert np.std(found - expected) < 0.02 * np.std(expected)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
@settings(max_examples=60)
def test_zero_is_always_exact(one: float, other: float) -> None:
    from kittiwake_export.quantize import _steps

    limits = (min(one, other), max(one, other))
    for symmetric in (False, True):
        scale, zero = _steps(limits, symmetric)
        assert scale > 0
        bounds = np.iinfo(zero.dtype)
        assert bounds.min <= int(zero) <= bounds.max
        reach = (bounds.max - int(zero)) * scale, (bounds.min - int(zero)) * scale
        assert reach[0] >= limits[1] - scale
        assert reach[1] <= limits[0] + scale


def test_what_costs_much_and_saves_little_stays_in_float() -> None:
    """A first layer whose input has rare huge values: all else would be rounded away, and it is 3 of 19 of the work."""
    whole = network(channels=64)
    odd = [{"x": sample["x"].copy()} for sample in SAMPLES]
    for sample in odd:
        sample["x"][:, :, 0, 0] = 500.0
    measured = measure(whole, odd)
    assert measured.work["first"] / sum(measured.work.values()) < 0.1
    assert choose_products(whole, measured, odd) == ["second"]
    assert choose_products(network(), measure(network(), SAMPLES), SAMPLES)[-1] == "second"


def test_only_at_an_end_does_a_product_stay_in_float() -> None:
    """Channels of sizes a thousandfold apart leave one layer, and the next brings them back: noise for little work."""
    channels = 64
    sizes = np.geomspace(1, 1e3, channels).astype(np.float32)[:, None, None, None]
    apart = RNG.normal(size=(channels, 1, 3, 3)).astype(np.float32) * sizes
    first, wide, last = (RNG.normal(size=(channels, n, 3, 3)).astype(np.float32) for n in (3, channels, channels))
    constants = {"w1": first, "w2": wide, "w3": apart, "w4": last / sizes[:, :, 0, 0].T[..., None, None],
                 "s": 1 / sizes[None, :, 0]}  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["b"], "wide"),
        helper.make_node("Conv", ["b", "w3"], ["c"], "apart", group=channels),
        helper.make_node("Conv", ["c", "w4"], ["y"], "last"),
    ]
    scaled = [*nodes[:3], helper.make_node("Mul", ["c", "s"], ["y"], "scale")]

    def chosen(nodes: list[onnx.NodeProto]) -> list[str]:
        given, made = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n, None, None])
            for name, n in (("x", 3), ("y", channels))
        )
        used = {name for node in nodes for name in node.input}
        weights = [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used]
        graph = helper.make_graph(nodes, "g", [given], [made], weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        return choose_products(model, measure(model, SAMPLES), SAMPLES)

    assert chosen(nodes) == ["first", "wide", "apart", "last"]
    assert chosen(scaled) == ["first", "wide"]


def test_work_is_counted_in_multiply_adds() -> None:
    measured = measure(network(channels=8), SAMPLES)
    assert measured.work == {"first": 8 * 14 * 14 * 8 * 27, "second": 8 * 12 * 12 * 8 * 72}


@pytest.mark.parametrize("symmetric", [False, True])
def test_zeros_fill_the_first_layers_channels_on_cpus_and_change_nothing(
    symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = network(channels=6)
    measured = measure(whole, SAMPLES)
    filled = quantize(whole, measured, BOTH, symmetric)
    monkeypatch.setattr("kittiwake_export.quantize._FEW", 0)
    plain = quantize(whole, measured, BOTH, symmetric)
    onnx.checker.check_model(filled, full_check=True)
    taken = [constant(filled, f"{name}.weight.q").shape[1] for name in BOTH]
    assert taken == ([3, 6] if symmetric else [4, 6])  # what the second takes is int8 already
    assert not constant(filled, "first.weight.q")[:, 3:].any()
    found, expected = outputs(filled, fused=False)[0], outputs(plain, fused=False)[0]
    assert np.std(found - expected) < 1e-3 * np.std(expected)


def test_layers_that_read_one_tensor_share_its_zeros_and_run_in_integers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = network()
    twin = helper.make_node("Conv", ["x", "w1", "b1"], ["t"], "twin")
    whole.graph.node.append(twin)
    whole.graph.output.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, ["N", 8, "h2", "w2"]))
    measured = measure(whole, SAMPLES)
    filled = quantize(whole, measured, [*BOTH, "twin"])
    assert [node.op_type for node in filled.graph.node].count("Pad") == 1
    onnx.checker.check_model(filled, full_check=True)
    _, operators = outputs(filled, tmp_path)
    assert "QLinearConv" in operators
    assert not {"Conv", "FusedConv"} & operators
    monkeypatch.setattr("kittiwake_export.quantize._FEW", 0)
    plain = quantize(whole, measured, [*BOTH, "twin"])
    found, expected = outputs(filled, fused=False)[0], outputs(plain, fused=False)[0]
    assert np.std(found - expected) < 1e-3 * np.std(expected)


@pytest.mark.parametrize(("channels", "groups"), [(3, 3), (6, 2), (17, 1), (8, 1)])
def test_no_zeros_where_they_do_not_pay(channels: int, groups: int) -> None:
    weight = RNG.normal(size=(2 * channels, channels // groups, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], "only", group=groups)
    given, made = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", n, None, None])
        for name, n in (("x", channels), ("y", 2 * channels))
    )
    graph = helper.make_graph([node], "g", [given], [made], [numpy_helper.from_array(weight, "w")])
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    sample = {"x": RNG.random((1, channels, 9, 9), np.float32)}
    quantized = quantize(whole, measure(whole, [sample]), ["only"])
    assert constant(quantized, "only.weight.q").shape == weight.shape
    assert "Pad" not in [node.op_type for node in quantized.graph.node]
