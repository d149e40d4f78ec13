"""What a task tells export, which quantizes: real inputs to measure ranges on, and what an answer is worth.

A task is found by the ``task`` of a checkpoint. A package adds one through the entry-point group
``kittiwake.tasks``: the entry point's name is the task's and it points at a callable that takes the network's
inputs and returns a :class:`Task`. A model without a task can be exported in float, not in int8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from kittiwake_runtime.machine import usable_cpus
from kittiwake_runtime.manifest import TensorSpec
from kittiwake_training.errors import TrainingError

GROUP = "kittiwake.tasks"

BUILT_IN = {
    "localization.descriptor": "kittiwake_training.localization.task:DescriptorTask",
    "vision.classification": "kittiwake_training.image_classification:ImageClassification",
}

Arrays = Mapping[str, NDArray[Any]]
Infer = Callable[[Arrays], Arrays]
"""A network; several threads may ask it at once, and each is answered in its own."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Calibration:
    """Real inputs.

    Args:
        inputs: of single inferences, arrays by tensor name.
        data: what they were taken from: objects with a ``name`` and what else is known, as a manifest lists.
    """

    inputs: tuple[Arrays, ...]
    data: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Trial:
    """How well a network does the task.

    Args:
        name: of the metric; more is better.
        unit: of the values.
        split: what was used; none of it to train or to calibrate.
        values: (N,) float64, one a sample; their mean is the metric.
        groups: (N,) int64, the same for samples that aren't independent, as of one place or one patient.
    """

    name: str
    unit: str
    split: str
    values: NDArray[np.float64]
    groups: NDArray[np.int64]


class Task(Protocol):
    """What a task has to offer; ``allowed_loss`` is the greatest loss by int8 that it can bear, in the metric's
    unit."""

    allowed_loss: float

    def calibration(self, data: Path) -> Calibration:
        """Real inputs from a data folder, the same at every call."""
        ...

    def trial(self, infer: Infer, data: Path) -> Trial:
        """Try a network on a data folder; every call takes the same samples in the same order."""
        ...


def side_by_side(work: Callable[[Item], Result], items: Sequence[Item], title: str) -> list[Result]:
    """What ``work`` gives for each item, in their order; as many at once as there are cores, each on one.

    A network's threads and torch's in turn, on the same cores, wait for each other most of the time.

    Args:
        title: of the progress bar.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(usable_cpus()) as pool:
            return list(tqdm(pool.map(work, items), total=len(items), desc=title, disable=None))
    finally:
        torch.set_num_threads(threads)


def find_task(name: str, inputs: Sequence[TensorSpec]) -> Task:
    """The task of that name, for a network of these inputs.

    Raises:
        TrainingError: nobody registered it.
    """
    if name in BUILT_IN:
        module, _, factory = BUILT_IN[name].partition(":")
        return getattr(import_module(module), factory)(inputs)
    for point in entry_points(group=GROUP):
        if point.name == name:
            return point.load()(inputs)
    raise TrainingError(
        f"nothing is known of the task '{name}' but its name: no calibration data, no measure of accuracy",
        f"register it in the entry-point group '{GROUP}'; see kittiwake_training/tasks.py",
    )
