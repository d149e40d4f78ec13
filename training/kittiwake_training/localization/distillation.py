"""How a pruned descriptor learns from the dense one, on the same pairs that the dense one was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from kittiwake_training.config import from_mapping, with_settings
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.data import PairSampler
from kittiwake_training.localization.evaluate import calibration, evaluate, metrics
from kittiwake_training.localization.losses import info_nce
from kittiwake_training.localization.train import LocalizationConfig, PairEncoder, freeze_norms, gather_places
from kittiwake_training.pruning.lessons import Sources
from kittiwake_training.trainer import LossFunction


class DescriptorLesson:
    """InfoNCE on pairs, and the mean of 1 - cosine to the dense network's vectors of both sides.

    A network that follows the dense one keeps its space: its vectors compare with those of an index that the dense
    one made.

    Args:
        meta: of the dense checkpoint, whose training config is taken.
        settings: that differ, such as ``sampler.pairs=1024``.
        sources: of places.
    """

    figure = "recall_3_cells"

    def __init__(self, meta: Mapping[str, Any], settings: Sequence[str], sources: Sources) -> None:
        recorded = from_mapping(LocalizationConfig, meta["training"]["config"])
        self.config = replace(with_settings(recorded, settings), init="")
        self.colours = meta["model"]["config"].get("colours", 1)
        places = gather_places(self.config, sources.data, sources.cache / "world", (), sources.workers)
        self.training = [place for place in places if place.split == "train"]
        self.held_out = [place for place in places if place.split == "validation"]
        if not self.training or not self.held_out:
            raise TrainingError(
                f"{len(self.training)} places to train on and {len(self.held_out)} to measure on",
                "name a folder of prepared places with --data, or set task.world.places and "
                "task.world.validation_places above 0",
            )

    def encoder(self, model: nn.Module) -> nn.Module:
        """Both sides of a pair in one pass."""
        return PairEncoder(model).to(memory_format=torch.channels_last)

    def losses(self, teacher: nn.Module, weight: float, device: torch.device) -> LossFunction:
        """See the class."""
        config = self.config
        sampler = PairSampler(self.training, config.sampler, device, config.seed, colours=self.colours)

        def losses(encoder: nn.Module, step: int, progress: float) -> dict[str, Tensor]:
            if progress >= config.freeze_norm_at:
                freeze_norms(encoder)
            pairs = sampler.batch(step)
            query, ground = encoder(pairs.query, pairs.window)
            loss, accuracy = info_nce(query, ground, pairs.excluded, pairs.usable, config.temperature)
            if weight <= 0:
                return {"loss": loss, "accuracy": accuracy}
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                taught = teacher(pairs.query, pairs.window)
            apart = torch.stack(
                [1 - (own * other).sum(dim=1) for own, other in zip((query, ground), taught, strict=True)]
            )
            distance = (apart.mean(dim=0) * pairs.usable).sum() / pairs.usable.sum().clamp(min=1)
            return {"loss": loss + weight * distance, "accuracy": accuracy, "distance": distance}

        return losses

    def evaluate(self, model: nn.Module, device: torch.device) -> Mapping[str, Any]:
        """Recall and calibration on held-out places, as after training."""
        outcomes = evaluate(model, self.held_out, self.config.evaluation, device, self.config.seed)
        if not outcomes:
            raise TrainingError("no held-out place could be queried", "prepare data with validation places")
        return {"metrics": metrics(outcomes), "calibration": calibration(outcomes, self.held_out)}
