"""What a task brings to the pruning of its networks: what to learn from, and how good a network is.

A lesson is found by the ``task`` of a checkpoint; a package adds one through the entry-point group
``kittiwake.lessons``: the entry point's name is the task's and it points at a callable that takes the checkpoint's
meta, settings, and the places of its data, and returns a :class:`Lesson`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.trainer import LossFunction

GROUP = "kittiwake.lessons"
BUILT_IN = {"localization.descriptor": "kittiwake_training.localization.distillation:DescriptorLesson"}


@dataclass(frozen=True)
class Sources:
    """Where a lesson finds its data.

    Args:
        data: a folder as the task prepares it; None without.
        cache: a folder for what the lesson makes, such as rendered worlds.
        workers: processes for that.
    """

    data: Path | None
    cache: Path
    workers: int = 1


class Lesson(Protocol):
    """Teaches a smaller network what the dense one knows."""

    figure: str
    """Name of the metric that decides, in what ``evaluate`` gives."""

    def encoder(self, model: nn.Module) -> nn.Module:
        """The model as it is trained: the trainer gets this module, its parameters are the model's."""
        ...

    def losses(self, teacher: nn.Module, weight: float, device: torch.device) -> LossFunction:
        """The task's loss plus ``weight`` times the distance to what the teacher, an encoder, says."""
        ...

    def evaluate(self, model: nn.Module, device: torch.device) -> Mapping[str, Any]:
        """``metrics`` and ``calibration`` of a checkpoint, on held-out data."""
        ...


def find_lesson(meta: Mapping[str, Any], settings: Sequence[str], sources: Sources) -> Lesson:
    """The lesson of a checkpoint's task.

    Args:
        meta: of the dense checkpoint.
        settings: ``key=value``, of the task's own training config.
        sources: of data.

    Raises:
        TrainingError: nobody registered one, or there is no data.
    """
    task = meta["task"]
    if task in BUILT_IN:
        module, _, name = BUILT_IN[task].partition(":")
        return getattr(import_module(module), name)(meta, settings, sources)
    for point in entry_points(group=GROUP):
        if point.name == task:
            return point.load()(meta, settings, sources)
    raise TrainingError(
        f"nothing is known of how to train networks of the task '{task}' while they are pruned",
        f"register a lesson in the entry-point group '{GROUP}'; see kittiwake_training/pruning/lessons.py",
    )
