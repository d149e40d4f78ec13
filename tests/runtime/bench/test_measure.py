from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from kittiwake_runtime import Bundle, EngineError
from kittiwake_runtime.bench.measure import BLOCK, Contender, Samples, measure, ratio
from kittiwake_runtime.bench.workload import Workload, find_workload

ALONE = Workload("alone", dict, is_whole=False)


def sleeping(label: str, seconds: float, log: list[str] | None = None) -> Contender:
    def infer(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if log is not None:
            log.append(label)
        time.sleep(seconds)
        return {}

    return Contender(label, infer, ALONE)


def test_it_measures_what_is_slept() -> None:
    taken = measure([sleeping("slow", 0.004), sleeping("fast", 0.001)], 40)
    assert np.median(taken["slow"].stages["infer"]) == pytest.approx(0.004, rel=0.3)
    found = ratio(taken["slow"], taken["fast"], "infer")
    assert found.rounds == 4
    assert found.interval[0] <= found.value <= found.interval[1]
    assert 2.0 < found.value < 5.0
    stream = taken["slow"].stream
    assert stream is not None
    assert 150 < stream.per_s < 260
    assert 1.0 <= stream.ended_s - stream.began_s < 3.0  # long enough for a monitor of ten samples a second
    assert stream.inferences == pytest.approx(stream.per_s * (stream.ended_s - stream.began_s), abs=1)


def test_contenders_take_turns_and_turn_around() -> None:
    log: list[str] = []
    measure([sleeping("a", 0.0, log), sleeping("b", 0.0, log)], 2 * BLOCK)
    blocks = "".join(log)
    assert "a" * BLOCK + "b" * (2 * BLOCK) + "a" * BLOCK in blocks


def test_stages_are_timed_apart() -> None:
    def pre() -> dict[str, Any]:
        time.sleep(0.001)
        return {}

    whole = Workload("whole", pre, lambda outputs: time.sleep(0.003))
    contender = Contender("c", lambda inputs: time.sleep(0.002) or {}, whole)
    stages = measure([contender], 10)["c"].stages
    medians = {name: 1e3 * float(np.median(seconds)) for name, seconds in stages.items()}
    assert medians["pre"] < medians["infer"] < medians["post"]
    for run in zip(stages["pre"], stages["infer"], stages["post"], stages["end_to_end"], strict=True):
        assert run[-1] == pytest.approx(sum(run[:-1]), abs=1e-9)


def test_a_network_alone_has_no_other_stages() -> None:
    assert set(measure([sleeping("a", 0.0)], 10)["a"].stages) == {"infer"}


def test_the_collector_is_off_while_it_measures_and_on_again_after_an_error() -> None:
    seen = []

    def infer(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        seen.append(gc.isenabled())
        raise EngineError("broken")

    assert gc.isenabled()
    with pytest.raises(EngineError, match="broken"):
        measure([Contender("a", infer, ALONE)], 10)
    assert seen == [False]
    assert gc.isenabled()


def test_nothing_and_twice_the_same_are_refused() -> None:
    with pytest.raises(EngineError, match="0 samples are asked for"):
        measure([sleeping("a", 0.0)], 0)
    with pytest.raises(EngineError, match="a is to be measured twice"):
        measure([sleeping("a", 0.0), sleeping("a", 0.0)], 1)


def test_a_ratio_is_of_neighbours_in_time() -> None:
    """Both get slower as the machine heats up; their ratio doesn't change."""
    drift = np.repeat(np.linspace(1.0, 3.0, 20), BLOCK)
    slow, fast = Samples(), Samples()
    slow.stages["infer"], fast.stages["infer"] = list(2 * drift), list(drift)
    found = ratio(slow, fast, "infer")
    assert (found.value, found.interval) == (2.0, (2.0, 2.0))


def test_a_task_without_a_workload_is_measured_alone(make_bundle: Callable[..., Bundle]) -> None:
    workload = find_workload(make_bundle())
    assert not workload.is_whole
    assert workload.pre()["x"].shape == (1, 2, 4)
    assert "x 1x2x4" in workload.text


def test_the_descriptors_workload_is_that_of_an_update() -> None:
    bundle = Bundle.open("localization-gradients")
    workload = find_workload(bundle)
    views = workload.pre()["view"]
    assert views.shape == (36, 2, 33, 33)
    assert views[:, 1].mean() > 0.7  # the disc is in view
    described = np.zeros((36, bundle.outputs[0].shape[1], 1, 1), np.float32)
    described[:, 0] = 1.0
    assert workload.post is not None
    levels = workload.post({"descriptor": described})
    assert levels.shape[0] == 36
    assert levels.dtype == np.uint8
