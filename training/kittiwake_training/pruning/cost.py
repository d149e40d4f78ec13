"""What a network costs: its layers with their sizes, and from them operations, parameters, and a measured latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

COUNTED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
"""The layers that pruning changes. Fixed arithmetic beside them, as local contrast, is the same before and after."""


@dataclass(frozen=True)
class Layer:
    """A convolution or a linear layer as it runs.

    Args:
        name: of the module.
        kind: ``conv``, ``depthwise``, ``transposed`` (with a kernel as large as its stride) or ``linear``.
        taken, made: channels.
        kernel, stride: in pixels, height and width; 1 for a linear layer.
        groups: of the channels; as many as channels for ``depthwise``.
        batch, height, width: of the output.
        bias: whether it has one.
    """

    name: str
    kind: str
    taken: int
    made: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    groups: int
    batch: int
    height: int
    width: int
    bias: bool

    def resized(self, taken: int, made: int) -> Layer:
        """The same with other channels."""
        groups = made if self.kind == "depthwise" else self.groups
        return replace(self, taken=taken, made=made, groups=groups)

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        return self.made * self.taken // self.groups * self.kernel[0] * self.kernel[1] + self.bias * self.made

    @property
    def flops(self) -> float:
        """Floating-point operations of a run, two for each multiply-add."""
        each = self.taken // self.groups * self.kernel[0] * self.kernel[1]
        read = self.stride[0] * self.stride[1] if self.kind == "transposed" else 1
        return 2.0 * each * self.elements / read

    @property
    def elements(self) -> int:
        """Values of the output."""
        return self.batch * self.made * self.height * self.width


Cost = Callable[[Sequence[Layer]], float]


def total_flops(layers: Iterable[Layer]) -> float:
    """Floating-point operations of a run."""
    return sum(layer.flops for layer in layers)


def total_parameters(layers: Iterable[Layer]) -> float:
    """Weights and biases."""
    return float(sum(layer.parameters for layer in layers))


def layers_of(model: nn.Module, example: Tensor) -> list[Layer]:
    """The layers in the order in which they run, with the sizes that an input gives them.

    Args:
        model: it is run once.
        example: (N, C, ...) an input.
    """
    names = {module: name for name, module in model.named_modules()}
    layers: list[Layer] = []

    def note(module: Any, _inputs: Any, output: Tensor) -> None:
        layers.append(_layer(names[module], module, output))

    hooks = [module.register_forward_hook(note) for module in names if isinstance(module, COUNTED)]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return layers


def _layer(name: str, module: Any, output: Tensor) -> Layer:
    linear = isinstance(module, nn.Linear)
    taken, made = (module.in_features, module.out_features) if linear else (module.in_channels, module.out_channels)
    groups = 1 if linear else module.groups
    depthwise = groups == taken == made > 1
    transposed = isinstance(module, nn.ConvTranspose2d)
    kind = "linear" if linear else "transposed" if transposed else "depthwise" if depthwise else "conv"
    height, width = (
        (output.shape[2], output.shape[3]) if output.ndim == 4 else (1, output.numel() // len(output) // made)
    )
    return Layer(
        name=name,
        kind=kind,
        taken=taken,
        made=made,
        kernel=(1, 1) if linear else module.kernel_size,
        stride=(1, 1) if linear else module.stride,
        groups=groups,
        batch=len(output),
        height=height,
        width=width,
        bias=module.bias is not None,
    )
