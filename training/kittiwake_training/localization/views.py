"""Looking at ground: rotated windows of an image, and all that sets a flight's view apart from the map."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kittiwake_training.localization.model import CELL_PX, DISC_PX


@dataclass(frozen=True)
class AugmentationConfig:
    """How a query differs from the map.

    Args:
        shift_px: greatest error of position on each axis, in samples; half a cell.
        turn_deg: greatest error of heading; half a heading bin.
        scale: greatest relative error of scale.
        tilt: greatest relative change of scale from the disc's centre to its edge.
        gain: gain and gamma lie between 1 / this and this.
        noise: greatest standard deviation of pixel noise, of full scale.
        mix_share: share of groups, on each side, whose bands are mixed to gray, or to other colours, at random.
        inverse_share: share of those mixtures in which one band counts negative.
        tint: greatest relative change of single colours.
        gray_share: share of groups in colour, on each side, that are gray all the same.
        cut_share: share of queries of which the image's border cuts off a piece.
        disc_px: diameter of the disc that a query shows; at most the receptive field.
        turned_share: share of pairs that stand on another pair's spot, turned by more than 30 degrees.
    """

    shift_px: float = CELL_PX / 2
    turn_deg: float = 5.0
    scale: float = 0.06
    tilt: float = 0.04
    gain: float = 1.25
    noise: float = 0.03
    mix_share: float = 0.5
    inverse_share: float = 0.15
    tint: float = 0.12
    gray_share: float = 0.2
    cut_share: float = 0.15
    disc_px: float = DISC_PX
    turned_share: float = 0.2


def disc(device: torch.device, diameter_px: float = DISC_PX) -> Tensor:
    """(33, 33) float32, one inside the footprint's disc of 16.5 px radius, or a smaller one."""
    axis = torch.arange(DISC_PX, device=device) - (DISC_PX - 1) / 2
    return ((axis[:, None] ** 2 + axis[None, :] ** 2) <= (diameter_px / 2) ** 2).float()


def margin_px(step: float) -> float:
    """Distance from the border, in image pixels, at which a jittered disc is whole."""
    return (DISC_PX / 2 * 1.1 + 2) * step


def view(
    images: Sequence[Tensor],
    centre: Tensor,
    angle: Tensor,
    steps: Sequence[float],
    size: int,
    scale: Tensor | None = None,
    tilt: Tensor | None = None,
) -> Tensor:
    """Look at images through many rotated square windows, as many at each.

    Args:
        images: of (C, H, W) float32 each, of any sizes.
        centre: (N, 2) x and y of the windows' centres in their images' pixels, one image's after another's.
        angle: (N,) radians; the window's right points this far clockwise, on the picture, of the image's
            right.
        steps: image pixels between samples, of each image; from 1.5 on the image is first halved, so that nothing
            aliases.
        size: samples along a side.
        scale: (N,) factors on the step.
        tilt: (N, 2) relative growth of the window's scale per sample, to the right and down.

    Returns:
        (N, C, size, size) float32, zero outside the image.
    """
    # The host queues one operation for all images wherever it can: that is what a small network's training waits for.
    device, each = centre.device, len(centre) // len(images)
    halved = [_halved(image, step) for image, step in zip(images, steps, strict=True)]
    facts = [
        (times, step / times, image.shape[2], image.shape[1])
        for (image, times), step in zip(halved, steps, strict=True)
    ]
    times, step, width, height = per_pair(facts, each, device).split(1, dim=1)
    axis = torch.arange(size, device=device, dtype=torch.float32) - (size - 1) / 2
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    right, down = right.reshape(1, -1), down.reshape(1, -1)
    if tilt is not None:
        depth = 1 + tilt[:, :1] * right + tilt[:, 1:] * down
        right, down = right / depth, down / depth
    factor = step if scale is None else step * scale[:, None]
    cosine, sine = factor * angle.cos()[:, None], factor * angle.sin()[:, None]
    corner = (centre + 0.5) / times
    x = corner[:, :1] + (cosine * right - sine * down)
    y = corner[:, 1:] + (sine * right + cosine * down)
    grids = torch.stack([x * (2 / width) - 1, y * (2 / height) - 1], dim=-1).view(len(images), 1, -1, size, 2)
    # One tall picture of all of an image's windows: the image needn't be repeated for each.
    sampled = [
        functional.grid_sample(image[None], grid, align_corners=False).view(-1, each, size, size)
        for (image, _), grid in zip(halved, grids, strict=True)
    ]
    return torch.cat(sampled, dim=1).transpose(0, 1)


def _halved(image: Tensor, step: float) -> tuple[Tensor, int]:
    """The image as it is to be sampled at a step, and how many of its pixels one of that one's is wide."""
    times = 1
    while step >= 1.5 and min(image.shape[-2:]) > 2:
        image = functional.avg_pool2d(image[None], 2)[0]
        times, step = 2 * times, step / 2
    return image, times


def per_pair(facts: Sequence[Sequence[float]], each: int, device: torch.device) -> Tensor:
    """(images, K) numbers of the host's -> (images * each, K) float32 on the device, each image's ``each`` times.

    They are queued: the device is not waited for, as it would be by a plain copy.
    """
    return torch.tensor(facts, dtype=torch.float32).to(device, non_blocking=True).repeat_interleave(each, dim=0)


class Chance:
    """Random numbers for the pairs of one group or several, each group's from a generator of its own.

    So a group draws the same numbers whichever process it falls to, and whatever else that process draws.

    Args:
        generators: one a group.
        each: pairs a group.
    """

    def __init__(self, generators: Sequence[torch.Generator], each: int) -> None:
        self.generators, self.each = generators, each

    def rand(self, *shape: int, each: int | None = None) -> Tensor:
        """(N, *shape) in [0, 1); ``each`` in place of all of a group's pairs."""
        return self._drawn(torch.rand, each or self.each, *shape)

    def uniform(self, *shape: int) -> Tensor:
        """(N, *shape) in [-1, 1)."""
        return self._drawn(torch.rand, self.each, *shape) * 2 - 1

    def normal(self, *shape: int) -> Tensor:
        """(N, *shape) of mean 0 and variance 1."""
        return self._drawn(torch.randn, self.each, *shape)

    def _drawn(self, source: Callable[..., Tensor], *shape: int) -> Tensor:
        drawn = [source(*shape, device=one.device, generator=one) for one in self.generators]
        return drawn[0] if len(drawn) == 1 else torch.cat(drawn)


def turn(seen: Tensor, angle: Tensor) -> Tensor:
    """Rotate patches about their centre, as the runtime does for each assumed heading.

    Args:
        seen: (N, C + 1, 33, 33) gray or colours times mask, and mask.
        angle: (N,) radians; the new picture's right points this far clockwise of the old one's right.

    Returns:
        (N, C + 1, 33, 33) float32, cut to the disc.
    """
    axis = torch.arange(DISC_PX, device=seen.device) - (DISC_PX - 1) / 2
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    grid = torch.stack([cosine * right - sine * down, sine * right + cosine * down], dim=-1)
    turned = functional.grid_sample(seen, grid * (2 / DISC_PX), align_corners=False)
    mask = (turned[:, -1:] > 0.5) & (disc(seen.device) > 0)
    return torch.cat([turned[:, :-1] / turned[:, -1:].clamp(min=1e-6) * mask, mask], dim=1)


def observe(
    images: Sequence[Tensor],
    centre: Tensor,
    angle: Tensor,
    steps: Sequence[float],
    change: AugmentationConfig,
    chance: Chance,
) -> Tensor:
    """What a vehicle sees at each spot, with the errors of ``change``, in its own frame.

    Args:
        images: of (C + 1, H, W) float32 each, gray or colours, and validity.
        centre: (N, 2) true spots in their images' pixels, one image's after another's.
        angle: (N,) radians, where the vehicle's right points, clockwise of the image's right.
        steps: image pixels a sample, of each image.
        change: sizes of the errors.
        chance: their source.

    Returns:
        (N, C + 1, 33, 33) float32, gray or colours times mask, and mask, in the disc.
    """
    device = centre.device
    step = per_pair([[step] for step in steps], len(centre) // len(images), device)
    shifted = centre + chance.uniform(2) * change.shift_px * step
    scale = 1 + change.scale * chance.uniform()
    tilt = chance.uniform(2) * change.tilt / (DISC_PX / 2)
    seen = view(images, shifted, angle, steps, DISC_PX, scale=scale, tilt=tilt)
    mask = (seen[:, -1:] > 0.999) & (disc(device, change.disc_px) > 0) & _uncut(change.cut_share, chance)
    lit = relight(seen[:, :-1], change, chance)
    colours = lit.shape[1]
    if colours > 1:
        lit = lit * (1 + change.tint * chance.uniform(colours, 1, 1))
    noise = chance.normal(colours, DISC_PX, DISC_PX)
    lit = (lit + change.noise * chance.uniform(1, 1, 1).abs() * noise).clamp(0.0, 1.0)
    return torch.cat([lit * mask, mask], dim=1)


def relight(gray: Tensor, change: AugmentationConfig, chance: Chance) -> Tensor:
    """Blur, slanting light, gamma and gain on (N, C, S, S), each of random strength and the same for all colours."""
    padded = functional.pad(gray, (1, 1, 1, 1), mode="replicate")
    soft = functional.avg_pool2d(functional.avg_pool2d(padded, 2, stride=1), 2, stride=1)  # 1 2 1 either way
    gray = torch.lerp(gray, soft, chance.uniform(1, 1, 1).abs()).clamp(min=1e-4)
    gray = gray ** (change.gain ** chance.uniform(1, 1, 1)) * change.gain ** chance.uniform(1, 1, 1)
    axis = torch.linspace(-1, 1, gray.shape[-1], device=gray.device)
    slant = chance.uniform(1, 1, 1) * axis[:, None] + chance.uniform(1, 1, 1) * axis
    return gray * (1 + 0.1 * slant)


def mix_bands(image: Tensor, weights: NDArray[np.float32]) -> Tensor:
    """Make colours of bands, before any window is cut: sampling is linear, so it may follow.

    Args:
        image: (C + 1, H, W) bands and validity.
        weights: (K, C) of the bands in each colour, some perhaps negative.

    Returns:
        (K + 1, H, W) float32 colours in [0, 1], and validity.
    """
    total = np.abs(weights).sum(axis=1, keepdims=True)
    shares = torch.from_numpy(weights / total).to(image.device, non_blocking=True)
    least = torch.from_numpy(weights.clip(max=0).sum(axis=1, keepdims=True) / total).to(image.device, non_blocking=True)
    return torch.cat([torch.einsum("cij,kc->kij", image[:-1], shares) - least[..., None], image[-1:]])


def _uncut(share: float, chance: Chance) -> Tensor:
    """(N, 1, 33, 33) bool; for some, false beyond a straight line, as where the image ends."""
    angle, depth = chance.uniform(1, 1, 1) * math.pi, chance.uniform(1, 1, 1)
    axis = torch.arange(DISC_PX, device=angle.device) - (DISC_PX - 1) / 2
    along = angle.cos() * axis + angle.sin() * axis[:, None]
    cut = chance.uniform(1, 1, 1).abs() < share
    return ~cut | (along < DISC_PX / 2 * (0.7 + 0.3 * depth))
