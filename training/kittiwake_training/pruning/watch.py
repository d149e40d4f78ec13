"""A loss that is not finite stops a training at once, and says where it began."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.trainer import LossFunction


def watched(losses: LossFunction) -> LossFunction:
    """The same losses; one that is not finite stops the training, and the error names the module it began in."""

    def checked(module: nn.Module, step: int, progress: float) -> dict[str, Tensor]:
        scalars = losses(module, step, progress)
        if not torch.isfinite(scalars["loss"]):
            blamed = _first_not_finite(module, lambda: losses(module, step, progress))
            raise TrainingError(
                f"the loss is {float(scalars['loss'].detach())} at step {step}: {blamed}",
                "lower trainer.learning_rate, or remove less in a round: set rounds higher",
            )
        return scalars

    return checked


def _first_not_finite(module: nn.Module, run: Callable[[], object]) -> str:
    """Which module's weights, or else whose output, is the first that is not finite."""
    for name, tensor in module.state_dict().items():
        if not torch.isfinite(tensor).all():
            return f"'{name}' is not finite"
    found: list[str] = []
    hooks = [
        part.register_forward_hook(
            lambda _part, _given, out, name=name: (
                found.append(name) if isinstance(out, Tensor) and not torch.isfinite(out).all() else None
            )
        )
        for name, part in module.named_modules()
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return f"module '{found[0]}' gives values that are not finite" if found else "all modules give finite values"
