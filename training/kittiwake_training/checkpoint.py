"""A checkpoint: ``weights.safetensors`` and ``checkpoint.json``, all that export reads.

The JSON's fields carry the names that they have in a bundle's manifest, so that export copies them; ``model``
is a key of the registry with the model's config, never an import path. ``data`` lists every place with its
hash.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.registry import build_model
from kittiwake_training.trainer import replace_file

FORMAT = "kittiwake.checkpoint"
FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
META = "checkpoint.json"

FIELDS = (
    "name",
    "task",
    "licence",
    "description",
    "model",
    "inputs",
    "outputs",
    "dims",
    "preprocessing",
    "calibration",
    "tolerance",
    "training",
    "metrics",
)


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint: the model in evaluation mode, on the CPU, and the contents of
    ``checkpoint.json``."""

    model: nn.Module
    meta: Mapping[str, Any]


def save_checkpoint(folder: Path, model: nn.Module, meta: Mapping[str, Any]) -> None:
    """Write a checkpoint; each file is replaced in one move, the JSON last.

    Args:
        folder: is made when missing.
        model: its state is saved.
        meta: the fields of :data:`FIELDS`; see ``runtime/kittiwake_runtime/manifest.py`` for their contents.

    Raises:
        TrainingError: a field is missing.
    """
    missing = [field for field in FIELDS if field not in meta]
    if missing:
        raise TrainingError(f"checkpoint {folder}: no field {missing[0]}")
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    replace_file(folder / WEIGHTS, save(state))
    whole = {"format": FORMAT, "format_version": FORMAT_VERSION, **meta}
    replace_file(folder / META, (json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint and build its model.

    Raises:
        TrainingError: not a checkpoint, of another version, a field missing, the model unknown, or the
            weights not that model's.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder} is not a checkpoint: {error}", "make one with: kittiwake train") from error
    if meta.get("format") != FORMAT or meta.get("format_version") != FORMAT_VERSION:
        raise TrainingError(
            f"{folder / META}: format {meta.get('format')} {meta.get('format_version')}, expected "
            f"{FORMAT} {FORMAT_VERSION}",
            "train again, or update kittiwake-training",
        )
    missing = [field for field in FIELDS if field not in meta]
    if missing:
        raise TrainingError(f"{folder / META}: no field {missing[0]}")
    model = build_model(meta["model"]["key"], meta["model"]["config"])
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(f"{folder / WEIGHTS} doesn't fit model {meta['model']['key']}: {error}") from error
    return Checkpoint(model.eval(), meta)


def git_commit() -> str:
    """The commit of the source that runs, with ``+changes`` when it differs; empty outside a repository."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
