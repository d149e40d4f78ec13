"""Which model a checkpoint's key means: the built-in table, and what other packages add to it.

A checkpoint names its model by a key, never by an import path, so that a file can't choose what code runs.
A package adds a model through the entry-point group ``kittiwake.models``: the entry point's name is the key
and it points at a callable that takes the model's config as keyword arguments and returns an ``nn.Module``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from kittiwake_training.errors import TrainingError

if TYPE_CHECKING:
    from torch import nn

GROUP = "kittiwake.models"

BUILT_IN = {
    "localization.cnn": "kittiwake_training.localization.model:DescriptorCNN",
    "localization.capsules": "kittiwake_training.localization.capsules:CapsuleDescriptor",
    "localization.gradients": "kittiwake_training.localization.gradients:GradientDescriptor",
    "localization.lite0": "kittiwake_training.localization.lite0:Lite0Descriptor",
    "vision.efficientnet-lite0": "kittiwake_training.efficientnet_lite0:EfficientNetLite0",
}


def build_model(key: str, config: dict[str, Any]) -> nn.Module:
    """Make the model that ``key`` names, with fresh weights.

    Raises:
        TrainingError: nobody registered the key, or its config is refused.
    """
    factory = _factories().get(key)
    if factory is None:
        raise TrainingError(
            f"no model is registered as '{key}'; known are {', '.join(sorted(_factories()))}",
            f"install the package that adds it to the entry-point group '{GROUP}'",
        )
    try:
        return factory()(**config)
    except TypeError as error:
        raise TrainingError(f"model '{key}' refuses its config {config}: {error}") from error


def _factories() -> dict[str, Callable[[], Callable[..., nn.Module]]]:
    """Loaders by key; nothing is imported until one is called."""
    table = {key: _importer(target) for key, target in BUILT_IN.items()}
    for point in entry_points(group=GROUP):
        table.setdefault(point.name, point.load)
    return table


def _importer(target: str) -> Callable[[], Callable[..., nn.Module]]:
    module, _, name = target.partition(":")
    return lambda: getattr(import_module(module), name)
