"""The errors of the training package."""

from __future__ import annotations

from kittiwake_runtime.errors import KittiwakeError


class TrainingError(KittiwakeError):
    """A config, a data folder or a checkpoint can't be used."""
