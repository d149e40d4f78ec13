"""torch-simplify (Bragagnolo and Barbano, SoftwareX 2022), which also removes zeroed channels, beside ours.

It is run as its documentation says. It imports torchvision for the names of three classes; where that is missing (it
has no CPU build beside this project's torch), stand-ins of these names serve, which none of our networks is.
"""

from __future__ import annotations

import copy
import importlib.util
import sys
import types
from typing import Any

import torch
from torch import Tensor, nn

_NAMES = {"torchvision": (), "torchvision.models": ("MobileNetV3", "ShuffleNetV2"),
          "torchvision.models.densenet": ("_DenseLayer",)}  # fmt: skip


def is_installed() -> bool:
    """Whether torch-simplify can be imported."""
    return importlib.util.find_spec("simplify") is not None


def largest_error(model: nn.Module, inputs: Tensor) -> float | None:
    """How far its result is from the network; None when it raises."""
    simplify = _import()
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        expected = model(inputs)
        try:
            smaller = simplify.simplify(model, torch.zeros_like(inputs[:1]))
            found = smaller(inputs)
        except Exception:  # of many kinds: it stops in the middle of a network that it can't take
            return None
    return float((found - expected).abs().max()) if found.shape == expected.shape else None


def _import() -> Any:
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is None:
        for name, classes in _NAMES.items():
            module = types.ModuleType(name)
            for each in classes:
                setattr(module, each, type(each, (nn.Module,), {}))
            sys.modules.setdefault(name, module)
    import simplify

    return simplify
