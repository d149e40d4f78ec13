"""The descriptor's task: calibrated on ground it was trained on, tried on ground that was held out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kittiwake_runtime.manifest import TensorSpec
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.data import PairSampler, SamplerConfig, to_device
from kittiwake_training.localization.evaluate import NEAR_CELLS, EvaluationConfig, scored_queries
from kittiwake_training.localization.places import WORLD, Place, load_places
from kittiwake_training.tasks import Calibration, Infer, Trial, side_by_side

_CPU = torch.device("cpu")
_CALIBRATION_PLACES = 24
_BATCHES = 3
_BATCH = 32


class DescriptorTask:
    """Recall of single views: the share whose best cell lies within 3 cells of the truth.

    Args:
        inputs: what the network takes; its view may be gray or in colour.
        queries: per held-out place and distance of samples.
    """

    allowed_loss = 0.5

    def __init__(self, inputs: Sequence[TensorSpec], queries: int = 144) -> None:
        self.colours = int(inputs[0].shape[1]) - 1
        self.queries = queries

    def calibration(self, data: Path) -> Calibration:
        """Queries and windows of the map as in training, from places evenly chosen by name.

        Args:
            data: folder that ``kittiwake train localization --prepare`` wrote.

        Raises:
            TrainingError: it holds no real place of the split ``train``.
        """
        places = _real(data, "train")
        places = places[:: max(1, len(places) // _CALIBRATION_PLACES)][:_CALIBRATION_PLACES]
        sampler = PairSampler(
            places, SamplerConfig(pairs=256, groups=min(8, len(places))), _CPU, 0, colours=self.colours
        )
        inputs = []
        for step in range(_BATCHES):
            pairs = sampler.batch(step)
            for views in (pairs.query[pairs.usable], pairs.window[pairs.usable]):
                inputs += [{"view": part.contiguous().numpy()} for part in views.split(_BATCH)]
        facts = tuple({"name": p.name, "source": p.source, "split": p.split, "sha256": p.sha256} for p in places)
        return Calibration(tuple(inputs), facts)

    def trial(self, infer: Infer, data: Path) -> Trial:
        """Find queries from held-out places on another date's map, as in evaluate.py.

        Args:
            infer: {"view": (N, colours + 1, H, W)} to {"descriptor": (N, D, h, w)}, float32.
            data: as for :meth:`calibration`.

        Raises:
            TrainingError: it holds no real place of the split ``validation``.
        """
        places = _real(data, "validation")
        numbered = list(enumerate(places))
        found = side_by_side(
            lambda item: self._hits(_Inferring(infer, self.colours), *item), numbered, "recall by place"
        )
        groups = np.repeat(np.arange(len(places)), [len(hits) for hits in found])
        return Trial("recall_3_cells", "%", "validation, real places", np.concatenate(found), groups)

    def _hits(self, model: nn.Module, index: int, place: Place) -> np.ndarray:
        """(queries,) 100 for each that was found, 0 for the others."""
        rng, hits = np.random.default_rng(index), []
        with torch.no_grad():
            for step in EvaluationConfig().imagery_steps:
                for scores, valid, centre, _ in scored_queries(model, to_device(place, _CPU), step, self.queries, rng):
                    hits.append(100.0 * (_off_cells(scores, valid, centre) < NEAR_CELLS))
        return np.array(hits)


class _Inferring(nn.Module):
    """An inference in the place of the network in torch."""

    def __init__(self, infer: Infer, colours: int) -> None:
        super().__init__()
        self.infer, self.colours = infer, colours

    def forward(self, view: Tensor) -> Tensor:
        return torch.from_numpy(self.infer({"view": view.contiguous().numpy()})["descriptor"])


def _off_cells(scores: Tensor, valid: Tensor, centre: Tensor) -> float:
    """How far the best state's cell lies from the truth."""
    best = int(scores.amax(dim=0).masked_fill(~valid, -2.0).argmax())
    row, column = divmod(best, valid.shape[1])
    return float(np.hypot(row - float(centre[1]), column - float(centre[0])))


def _real(data: Path, split: str) -> list[Place]:
    places = [place for place in load_places(data) if place.split == split and place.source != WORLD]
    if not places:
        raise TrainingError(
            f"{data} holds no real place of the split '{split}'",
            "prepare one: kittiwake train localization --prepare RAW_DATA --data FOLDER",
        )
    return places
