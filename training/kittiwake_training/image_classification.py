"""The task of image classifiers: calibrated on every fifth picture of a folder, tried on all the others.

The folder holds ``labels.tsv`` (columns ``file`` and ``class_index``, and more) and the pictures that it names.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from kittiwake_runtime.manifest import TensorSpec
from kittiwake_training.efficientnet_lite0 import prepare_image
from kittiwake_training.errors import TrainingError
from kittiwake_training.tasks import Calibration, Infer, Trial, side_by_side

LABELS = "labels.tsv"
_EVERY = 5
_BATCH = 10
_INPUT, _OUTPUT = "image", "logits"


class ImageClassification:
    """Share of pictures whose class has the largest logit, of networks from ``image`` to ``logits``.

    Args:
        inputs: what the network takes; all such networks take the same.
    """

    allowed_loss = 1.0

    def __init__(self, inputs: Sequence[TensorSpec] = ()) -> None:
        del inputs

    def calibration(self, data: Path) -> Calibration:
        """Every fifth picture, ten an inference."""
        chosen = _labelled(data)[::_EVERY]
        pictures = [{_INPUT: _load(data / file)} for file, _ in chosen]
        batches = [pictures[i : i + _BATCH] for i in range(0, len(pictures), _BATCH)]
        inputs = tuple({_INPUT: np.concatenate([entry[_INPUT] for entry in batch])} for batch in batches)
        sha256 = hashlib.sha256((data / LABELS).read_bytes()).hexdigest()
        fact = {"name": data.resolve().name, "split": f"every {_EVERY}th picture", "labels_sha256": sha256}
        return Calibration(inputs, (fact,))

    def trial(self, infer: Infer, data: Path) -> Trial:
        """All pictures that :meth:`calibration` leaves."""
        others = [entry for i, entry in enumerate(_labelled(data)) if i % _EVERY]

        def hit(entry: tuple[str, int]) -> float:
            file, index = entry
            return 100.0 * (int(infer({_INPUT: _load(data / file)})[_OUTPUT][0].argmax()) == index)

        hits = side_by_side(hit, others, "pictures")
        split = f"{data.resolve().name}, without every {_EVERY}th picture"
        return Trial("top1", "%", split, np.array(hits), np.arange(len(hits)))


def _labelled(data: Path) -> list[tuple[str, int]]:
    """Files and class indices, in the order of ``labels.tsv``."""
    path = data / LABELS
    try:
        with path.open(newline="", encoding="utf-8") as file:
            entries = [(row["file"], int(row["class_index"])) for row in csv.DictReader(file, delimiter="\t")]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"{path}: can't be read as pictures and their classes: {error!r}",
            "expected tab-separated columns, `file` and `class_index` among them",
        ) from error
    if len(entries) < 2:
        raise TrainingError(f"{path} names {len(entries)} pictures; expected at least 2")
    return entries


def _load(path: Path) -> np.ndarray:
    """(1, 3, 224, 224) float32."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise TrainingError(f"{path}: no picture that OpenCV reads")
    return prepare_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))[None]
