"""What single layers make of channels that hold one value everywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

UNKNOWN = float("nan")


def is_foldable(module: nn.Module) -> bool:
    """Whether a layer has no border: every output sees as much of a constant as every other."""
    if isinstance(module, nn.Linear):
        return True
    if type(module) is not nn.Conv2d:  # a subclass may pad, a transposed convolution overlaps unevenly
        return False
    return (
        module.padding_mode != "zeros" or module.padding == "valid" or not any(module._reversed_padding_repeated_twice)
    )


def weight_by_channel(module: nn.Module) -> Tensor:
    """A product's weights as (made, taken in a group, taps)."""
    weight = module.weight.detach()
    if isinstance(module, nn.ConvTranspose2d):
        weight = weight.transpose(0, 1)
    return weight.flatten(2) if weight.ndim > 2 else weight[:, :, None]


def product_constant(module: nn.Module, taken: Tensor, foldable: bool) -> Tensor:
    """What each channel that a layer makes always holds, from what those that it takes do; (C,) float64."""
    weight = weight_by_channel(module)
    groups = getattr(module, "groups", 1)
    given = taken.reshape(groups, 1, -1).expand(-1, weight.shape[0] // groups, -1).reshape(weight.shape[:2])
    seen = (weight != 0).any(dim=2)
    spoiled = given.isnan() if foldable else given.isnan() | (given != 0)
    constant = (given.nan_to_num() * weight.sum(dim=2)).sum(dim=1)
    if module.bias is not None:
        constant = constant + module.bias.detach()
    return constant.masked_fill((seen & spoiled).any(dim=1), UNKNOWN)


def normalized_constant(module: Any, constant: Tensor) -> Tensor:
    """The same behind a normalization, which with a scale of zero gives its shift whatever it takes."""
    scale = torch.rsqrt(module.running_var + module.eps)
    if module.affine:
        scale = scale * module.weight.detach()
    result = (constant - module.running_mean) * scale
    result = result.masked_fill(scale == 0, 0.0)
    return result + module.bias.detach() if module.affine else result
