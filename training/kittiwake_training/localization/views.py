"""Looking at ground: rotated windows of an image, and all that sets a flight's view apart from the map."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
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
        mix_share: share of groups, on each side, whose bands are mixed to gray at random.
        inverse_share: share of those mixtures in which one band counts negative.
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
    image: Tensor,
    centre: Tensor,
    angle: Tensor,
    step: float,
    size: int,
    scale: Tensor | None = None,
    tilt: Tensor | None = None,
) -> Tensor:
    """Look at an image through many rotated square windows.

    Args:
        image: (C, H, W) float32.
        centre: (N, 2) x and y of the windows' centres in the image's pixels.
        angle: (N,) radians; the window's right points this far clockwise, on the picture, of the image's
            right.
        step: image pixels between samples; from 1.5 on the image is first halved, so that nothing aliases.
        size: samples along a side.
        scale: (N,) factors on ``step``.
        tilt: (N, 2) relative growth of the window's scale per sample, to the right and down.

    Returns:
        (N, C, size, size) float32, zero outside the image.
    """
    while step >= 1.5 and min(image.shape[-2:]) > 2:
        image = functional.avg_pool2d(image[None], 2)[0]
        centre, step = (centre - 0.5) / 2, step / 2
    channels, height, width = image.shape
    axis = torch.arange(size, device=image.device, dtype=torch.float32) - (size - 1) / 2
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    right, down = right.reshape(1, -1), down.reshape(1, -1)
    if tilt is not None:
        depth = 1 + tilt[:, :1] * right + tilt[:, 1:] * down
        right, down = right / depth, down / depth
    factor = step if scale is None else step * scale[:, None]
    cosine, sine = angle.cos()[:, None], angle.sin()[:, None]
    x = centre[:, :1] + factor * (cosine * right - sine * down)
    y = centre[:, 1:] + factor * (sine * right + cosine * down)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    # One tall picture of all windows: the image needn't be repeated for each.
    sampled = functional.grid_sample(image[None], grid.view(1, -1, size, 2), align_corners=False)
    return sampled.view(channels, -1, size, size).transpose(0, 1)


def turn(seen: Tensor, angle: Tensor) -> Tensor:
    """Rotate patches about their centre, as the runtime does for each assumed heading.

    Args:
        seen: (N, 2, 33, 33) gray times mask, and mask.
        angle: (N,) radians; the new picture's right points this far clockwise of the old one's right.

    Returns:
        (N, 2, 33, 33) float32, cut to the disc.
    """
    axis = torch.arange(DISC_PX, device=seen.device) - (DISC_PX - 1) / 2
    down, right = torch.meshgrid(axis, axis, indexing="ij")
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    grid = torch.stack([cosine * right - sine * down, sine * right + cosine * down], dim=-1)
    turned = functional.grid_sample(seen, grid * (2 / DISC_PX), align_corners=False)
    mask = (turned[:, 1:] > 0.5) & (disc(seen.device) > 0)
    return torch.cat([turned[:, :1] / turned[:, 1:].clamp(min=1e-6) * mask, mask], dim=1)


def observe(
    image: Tensor,
    centre: Tensor,
    angle: Tensor,
    step: float,
    change: AugmentationConfig,
    generator: torch.Generator,
) -> Tensor:
    """What a vehicle sees at each spot, with the errors of ``change``, in its own frame.

    Args:
        image: (2, H, W) float32, gray and validity.
        centre: (N, 2) true spots, image pixels.
        angle: (N,) radians, where the vehicle's right points, clockwise of the image's right.
        step: image pixels a sample.
        change: sizes of the errors.
        generator: their source.

    Returns:
        (N, 2, 33, 33) float32, gray times mask and mask, in the disc.
    """
    uniform = uniform_source(image.device, generator)
    count = len(centre)
    shifted = centre + uniform(count, 2) * change.shift_px * step
    seen = view(
        image,
        shifted,
        angle,
        step,
        DISC_PX,
        scale=1 + change.scale * uniform(count),
        tilt=uniform(count, 2) * change.tilt / (DISC_PX / 2),
    )
    mask = (seen[:, -1:] > 0.999) & (disc(image.device, change.disc_px) > 0) & _uncut(count, change.cut_share, uniform)
    gray = relight(seen[:, :1], change, uniform)
    noise = torch.randn(gray.shape, device=gray.device, generator=generator)
    gray = (gray + change.noise * uniform(count, 1, 1, 1).abs() * noise).clamp(0.0, 1.0)
    return torch.cat([gray * mask, mask], dim=1)


def relight(gray: Tensor, change: AugmentationConfig, uniform: Callable[..., Tensor]) -> Tensor:
    """Blur, slanting light, gamma and gain on (N, 1, S, S) gray, each of random strength."""
    count, size = len(gray), gray.shape[-1]
    tap = torch.tensor([1.0, 2.0, 1.0], device=gray.device) / 4
    soft = functional.conv2d(functional.pad(gray, (1, 1, 1, 1), mode="replicate"), (tap[:, None] * tap)[None, None])
    gray = torch.lerp(gray, soft, uniform(count, 1, 1, 1).abs()).clamp(min=1e-4)
    gray = gray ** (change.gain ** uniform(count, 1, 1, 1)) * change.gain ** uniform(count, 1, 1, 1)
    axis = torch.linspace(-1, 1, size, device=gray.device)
    slant = uniform(count, 1, 1, 1) * axis[:, None] + uniform(count, 1, 1, 1) * axis
    return gray * (1 + 0.1 * slant)


def mix_to_gray(image: Tensor, weights: Tensor) -> Tensor:
    """(C + 1, H, W) bands and validity, and (C,) weights, some perhaps negative -> (2, H, W) gray in [0, 1], validity.

    Before any window is cut: sampling is linear, so it may follow, and two channels cost less than many.
    """
    mixed = torch.einsum("cij,c->ij", image[:-1], weights)
    gray = (mixed - weights.clamp(max=0).sum()) / weights.abs().sum()
    return torch.stack([gray, image[-1]])


def _uncut(count: int, share: float, uniform: Callable[..., Tensor]) -> Tensor:
    """(N, 1, 33, 33) bool; for some, false beyond a straight line, as where the image ends."""
    angle, depth = uniform(count, 1, 1, 1) * math.pi, uniform(count, 1, 1, 1)
    axis = torch.arange(DISC_PX, device=angle.device) - (DISC_PX - 1) / 2
    along = angle.cos() * axis + angle.sin() * axis[:, None]
    cut = uniform(count, 1, 1, 1).abs() < share
    return ~cut | (along < DISC_PX / 2 * (0.7 + 0.3 * depth))


def uniform_source(device: torch.device, generator: torch.Generator) -> Callable[..., Tensor]:
    """Uniform numbers in [-1, 1), by shape."""
    return lambda *shape: torch.rand(*shape, device=device, generator=generator) * 2 - 1
