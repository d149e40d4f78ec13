"""Times contenders against each other on one machine, at one time.

Whatever else the machine does, heats up to or clocks down to meets all contenders alike: they run in turns, a block of
runs each, and the order is turned around from round to round (A B B A). So a ratio is taken round by round, of
neighbours in time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, takewhile
from statistics import median
from typing import Any

from kittiwake_runtime.bench.statistics import median_interval
from kittiwake_runtime.bench.workload import Workload
from kittiwake_runtime.errors import EngineError

BLOCK = 10
"""Runs of one contender in a row."""
STAGES = ("pre", "infer", "post", "end_to_end")
_WARM_RUNS, _WARM_S = 10, 0.5
_STREAM_LEAST_S, _STREAM_S = 1.0, 2.0

Arrays = Mapping[str, Any]
Progress = Callable[[int], object]


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Args:
        label: its name among the others.
        infer: from inputs to outputs, which are there when it returns.
        workload: what surrounds it.
        infer_each: the same for a stream of inputs; None takes ``infer`` one by one.
    """

    label: str
    infer: Callable[[Arrays], Arrays]
    workload: Workload
    infer_each: Callable[[Iterable[Arrays]], Iterator[Arrays]] | None = None


@dataclass(frozen=True)
class Stream:
    """When a stream of inferences ran, so that what was sampled beside it can be told apart: watts, clocks.

    Args:
        began_s, ended_s: seconds since 1970 UTC.
        inferences: how many were done in between.
    """

    began_s: float
    ended_s: float
    inferences: int

    @property
    def per_s(self) -> float:
        """Inferences a second."""
        return self.inferences / max(self.ended_s - self.began_s, 1e-9)


@dataclass
class Samples:
    """Seconds of every run, in their order, by stage.

    Args:
        stages: ``pre``, ``infer``, ``post`` and ``end_to_end``, those that the workload has.
        stream: the inferences on a stream of inputs that are ready.
    """

    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})
    stream: Stream | None = None


@dataclass(frozen=True)
class Ratio:
    """Time of one contender over that of another, of one stage.

    Args:
        value: median over the rounds of the ratio of their medians.
        interval: of that median, 95 % (order statistics).
        rounds: how many.
    """

    value: float
    interval: tuple[float, float]
    rounds: int


def measure(
    contenders: Sequence[Contender], samples: int, progress: Progress = lambda done: None
) -> dict[str, Samples]:
    """Run every contender ``samples`` times, in turns, after it was warmed up.

    Args:
        contenders: at least one, each with a label of its own.
        samples: rounded up to whole blocks of ``BLOCK``.
        progress: told how many runs have been done since it was told last.

    Returns:
        By label.

    Raises:
        EngineError: ``samples`` is less than 1, or a label comes twice.
    """
    if samples < 1:
        raise EngineError(f"{samples} samples are asked for; expected at least 1")
    labels = [contender.label for contender in contenders]
    if twice := {label for label in labels if labels.count(label) > 1}:
        raise EngineError(f"{twice.pop()} is to be measured twice", "name every bundle and backend once")
    taken = {label: Samples() for label in labels}
    with _no_collection():
        for contender in contenders:
            _warm_up(contender)
        for number in range(-(-samples // BLOCK)):
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                for _ in range(BLOCK):
                    _run(contender, taken[contender.label])
                progress(BLOCK)
        for contender in contenders:
            taken[contender.label].stream = _stream(contender, samples)
    for contender in contenders:
        _drop_what_is_not(contender.workload, taken[contender.label])
    return taken


def ratio(samples: Samples, other: Samples, stage: str) -> Ratio:
    """How much longer a stage took than the other contender's in the same rounds."""
    pairs = zip(_block_medians(samples.stages[stage]), _block_medians(other.stages[stage]), strict=True)
    ratios = sorted(a / b for a, b in pairs)
    return Ratio(median(ratios), median_interval(ratios), len(ratios))


def _block_medians(seconds: Sequence[float]) -> list[float]:
    return [median(seconds[i : i + BLOCK]) for i in range(0, len(seconds), BLOCK)]


def _run(contender: Contender, samples: Samples) -> None:
    workload, stages = contender.workload, samples.stages
    began = time.perf_counter()
    inputs = workload.pre()
    made = time.perf_counter()
    outputs = contender.infer(inputs)
    inferred = time.perf_counter()
    if workload.post is not None:
        workload.post(outputs)
    ended = time.perf_counter()
    stages["pre"].append(made - began)
    stages["infer"].append(inferred - made)
    stages["post"].append(ended - inferred)
    stages["end_to_end"].append(ended - began)


def _warm_up(contender: Contender) -> None:
    began, runs = time.perf_counter(), 0
    while runs < _WARM_RUNS or time.perf_counter() - began < _WARM_S:
        _run(contender, Samples())
        runs += 1


def _stream(contender: Contender, most: int) -> Stream:
    """Inferences on a stream that ends after ``most`` inputs or two seconds, but not within the first second.

    A second is what a monitor that samples ten times in one needs. The wall clock is read once; durations are the
    monotonic one's.
    """
    inputs = contender.workload.pre()
    began_s, began = time.time(), time.perf_counter()

    def goes_on(number: int) -> bool:
        elapsed = time.perf_counter() - began
        return elapsed < _STREAM_LEAST_S or (number < most and elapsed < _STREAM_S)

    stream = (inputs for _ in takewhile(goes_on, count()))
    outputs = contender.infer_each(stream) if contender.infer_each else map(contender.infer, stream)
    done = sum(1 for _ in outputs)
    return Stream(began_s, began_s + time.perf_counter() - began, done)


def _drop_what_is_not(workload: Workload, samples: Samples) -> None:
    """Of a network that is measured alone only the inference means something."""
    if workload.post is None:
        del samples.stages["post"]
    if not workload.is_whole:
        del samples.stages["pre"], samples.stages["end_to_end"]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without Python's collector, which would stop one run in thousands."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
