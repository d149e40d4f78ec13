"""What a registered model has to say so that it can be pruned, and its rebuilding with other widths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.registry import build_model


@runtime_checkable
class Prunable(Protocol):
    """A module whose channel counts are arguments.

    Args:
        untouched: its parts that stay as they are.
    """

    @property
    def untouched(self) -> Sequence[nn.Module]:
        """Parts that stay as they are."""
        ...

    @staticmethod
    def widths_in(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments, as JSON holds them, that make a network whose weights have these shapes."""
        ...


def prunable(model: nn.Module, key: str) -> Prunable:
    """The model as one that can be pruned.

    Raises:
        TrainingError: its channel counts are no arguments.
    """
    if not isinstance(model, Prunable):
        raise TrainingError(
            f"model '{key}' ({type(model).__name__}) can't be pruned: its channel counts are not in its config",
            "give it `untouched` and `widths_in`; see kittiwake_training/pruning/prunable.py",
        )
    return model


def rebuild(key: str, config: Mapping[str, Any], like: Prunable, state: Mapping[str, Tensor]) -> tuple[nn.Module, dict]:
    """The registered model with the widths of a state, and its weights.

    Returns:
        The model, float32, evaluation mode; and its config.

    Raises:
        TrainingError: the state is not one of this architecture with other widths.
    """
    whole = {**config, **like.widths_in(state)}
    model = build_model(key, whole)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = str(error).splitlines()
        raise TrainingError(
            f"the pruned network is no '{key}' with other widths: {' '.join(line.strip() for line in reason[:2])}",
            "report it: what is removed must be channels that the config counts",
        ) from error
    return model.eval(), whole
