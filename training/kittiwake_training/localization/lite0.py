"""A descriptor from EfficientNet-Lite0: its first three stages, dense and unpadded, with a head of ours.

Stem and five inverted residuals keep their shapes and (if wanted) their ImageNet weights; three things change, so that
it does what ``DescriptorCNN`` does: nothing is padded, so a skip is cut to what the convolution left; only the stem has
a stride; and the stem, made for RGB, takes the local contrasts and the mask. The receptive field is 31 px, the middle
of the disc of 33.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kittiwake_training.efficientnet_lite0 import Block, EfficientNetLite0, pretrained_efficientnet
from kittiwake_training.localization.model import CELL_PX, ContrastDescriptor, unit_length

STAGES = 5
"""Blocks taken: one of 16, two of 24 and two of 40 channels."""


class Lite0Descriptor(ContrastDescriptor):
    """See the module's text. 58 k parameters; the interface is ``DescriptorCNN``'s.

    Args:
        dim: length of the descriptor.
        sigmas_px: neighbourhoods of the local contrast.
    """

    def __init__(self, dim: int = 64, sigmas_px: Sequence[float] = (5.0, 12.0)) -> None:
        super().__init__(sigmas_px)
        self.dim = dim
        source = EfficientNetLite0()
        self.stem = nn.Conv2d(len(sigmas_px) + 1, 32, 3, stride=CELL_PX, bias=False)
        self.norm = source._bn0
        self.blocks = source._blocks[:STAGES]
        self.head = nn.Conv2d(40, dim, 1)

    def take_public_weights(self) -> None:
        """Begin from the ImageNet weights, as far as they fit.

        Raises:
            TrainingError: the package with the weights is not installed.
        """
        source = pretrained_efficientnet()
        self.norm.load_state_dict(source._bn0.state_dict())
        self.blocks.load_state_dict(source._blocks[:STAGES].state_dict())
        # Of a gray picture R, G and B see the same; each contrast is a gray picture and gets its share.
        gray = source._conv_stem.weight.detach().sum(dim=1, keepdim=True)
        with torch.no_grad():
            self.stem.weight[:, :-1] = gray / (self.stem.in_channels - 1)
            self.stem.weight[:, -1:] = 0

    def describe(self, contrast: Tensor) -> Tensor:
        """(N, scales + 1, H, W) -> (N, dim, h, w) of unit length."""
        x = functional.relu6(self.norm(self.stem(contrast[:, :, 1:-1, 1:-1])))
        for block in self.blocks:
            x = _unpadded(block, x)
        return unit_length(self.head(x))


def _unpadded(block: Block, x: Tensor) -> Tensor:
    """An inverted residual without padding or stride: (N, C, H, W) -> (N, C', H - k + 1, W - k + 1)."""
    y = functional.relu6(block._bn0(block._expand_conv(x))) if block.expands else x
    depthwise: nn.Conv2d = block._depthwise_conv
    y = functional.conv2d(y, depthwise.weight, groups=depthwise.groups)
    y = block._bn2(block._project_conv(functional.relu6(block._bn1(y))))
    if not block.skips:
        return y
    lost = depthwise.kernel_size[0] // 2
    return torch.add(y, x[:, :, lost:-lost, lost:-lost])
