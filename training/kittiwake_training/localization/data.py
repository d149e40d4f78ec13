"""Pairs to train on, made on the GPU: a disc as a vehicle sees it, and the same ground on the map.

Each place lies on the device as one tensor. A batch is a few groups; a group is one place, one scale and two of
its dates, so that nearly all wrong answers in it are other spots of the same landscape: hard negatives. For each
pair, drawn anew:

- the map's side is a window of 63 px at a random spot and rotation, seen in full, so that local contrast finds
  the surroundings that it has in a dense pass; the model then describes the window's central 33 px;
- the query's side is the other date at the same spot, up to half a cell off, with an error of scale and a slight
  tilt, seen from any heading, its bands mixed to gray at random, its light changed, and cut to the disc; it is
  then turned to the map's rotation, up to 5 degrees off, as the runtime turns it for each assumed heading;
- some pairs stand on the spot of another pair but turned, so that the descriptor must tell headings apart.

Everything follows from (seed, step, rank): a resumed run sees the batches that an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.model import CELL_PX, DISC_PX, HALO_PX
from kittiwake_training.localization.places import WORLD, Place

WINDOW_PX = DISC_PX + 2 * HALO_PX
MIN_SEEN = 0.7
"""Share of a disc that must show ground on both sides."""


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
    turned_share: float = 0.2


@dataclass(frozen=True)
class SamplerConfig:
    """How a batch is put together.

    Args:
        pairs: pairs a batch and process.
        groups: places a batch; each gives ``pairs / groups`` pairs.
        imagery_step: least and greatest distance of samples in pixels of real imagery. Below 1, 10 m imagery
            stands in for finer.
        world_step: the same for the procedural world.
        world_share: share of groups from the procedural world, when there are both.
        neighbour_cells: other pairs nearer than this, and turned by less than 30 degrees, are no negatives.
        augmentation: how a query differs from the map.
    """

    pairs: int = 1024
    groups: int = 2
    imagery_step: tuple[float, float] = (0.5, 1.2)
    world_step: tuple[float, float] = (0.7, 2.0)
    world_share: float = 0.3
    neighbour_cells: float = 3.0
    augmentation: AugmentationConfig = AugmentationConfig()


@dataclass(frozen=True)
class Pairs:
    """A batch.

    Args:
        query: (N, 2, 33, 33) float32, gray times mask and mask.
        window: (N, 2, 63, 63) float32, the same for the map.
        excluded: (N, N) bool, see :func:`~kittiwake_training.localization.losses.info_nce`.
        usable: (N,) bool, both sides show enough ground.
    """

    query: Tensor
    window: Tensor
    excluded: Tensor
    usable: Tensor


@dataclass(frozen=True)
class DevicePlace:
    """A place on the device: (dates, C + 1, H, W) uint8, the last channel 255 where valid."""

    place: Place
    pixels: Tensor

    def image(self, date: int) -> Tensor:
        """(C + 1, H, W) float32 in [0, 1]."""
        return self.pixels[date].float() / 255.0


def to_device(place: Place, device: torch.device) -> DevicePlace:
    """Copy a place's pixels and validity to the device."""
    valid = (place.valid * np.uint8(255))[:, None].astype(np.uint8)
    return DevicePlace(place, torch.from_numpy(np.concatenate([place.stack, valid], axis=1)).to(device))


class PairSampler:
    """Draws batches of pairs.

    Args:
        places: what to draw from; all of them are kept on the device.
        config: sizes and shares.
        device: where pairs are made.
        seed: with step and rank, decides everything.
    """

    def __init__(self, places: list[Place], config: SamplerConfig, device: torch.device, seed: int) -> None:
        if not places:
            raise TrainingError("there is no place to train on", "prepare data, or set world_places above 0")
        if config.pairs % config.groups:
            raise TrainingError(f"pairs = {config.pairs} is not a multiple of groups = {config.groups}")
        self.config = config
        self.seed = seed
        self.device = device
        self.places = [to_device(place, device) for place in places]
        self.shares = _place_shares(places, config.world_share)

    def batch(self, step: int, rank: int = 0) -> Pairs:
        """The batch of one step on one process."""
        rng = np.random.default_rng([self.seed, step, rank])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        groups = min(self.config.groups, len(self.places))
        count = self.config.pairs // groups
        chosen = rng.choice(len(self.places), size=groups, p=self.shares, replace=False)
        parts = [self._group(self.places[i], count, rng, generator) for i in chosen]
        return Pairs(
            query=torch.cat([part.query for part in parts]),
            window=torch.cat([part.window for part in parts]),
            excluded=torch.block_diag(*(part.excluded for part in parts)).bool(),
            usable=torch.cat([part.usable for part in parts]),
        )

    def _group(self, place: DevicePlace, count: int, rng: np.random.Generator, generator: torch.Generator) -> Pairs:
        config, change = self.config, self.config.augmentation
        step = _draw_step(place, config, rng)
        map_date, query_date = rng.choice(len(place.pixels), size=2, replace=False)
        map_image, query_image = place.image(int(map_date)), place.image(int(query_date))
        if rng.random() < 0.5:
            map_image, query_image = map_image.flip(-1), query_image.flip(-1)
        centre, angle = _draw_spots(map_image, count, step, change.turned_share, generator)

        window = view(map_image, centre, angle, step, WINDOW_PX)
        seen = window[:, -1:] > 0.999
        gray = mix_to_gray(window[:, :-1], _draw_mix(place, change, rng))
        window = torch.cat([gray.clamp(min=1e-4) ** rng.uniform(1 / change.gain, change.gain) * seen, seen], dim=1)

        uniform = _uniform_source(self.device, generator)
        heading, error = math.pi * uniform(count), math.radians(change.turn_deg) * uniform(count)
        query = observe(query_image, centre, heading, step, _draw_mix(place, change, rng), change, generator)
        query = turn(query, angle + error - heading)
        core = disc(self.device)
        seen_on_map = (window[:, 1, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX] * core).sum(dim=(1, 2))
        least = MIN_SEEN * core.sum()
        return Pairs(
            query=query, window=window, excluded=_neighbours(centre / step, angle, config.neighbour_cells),
            usable=(seen_on_map > least) & (query[:, 1].sum(dim=(1, 2)) > least),
        )


def disc(device: torch.device) -> Tensor:
    """(33, 33) float32, one inside the footprint's disc of 16.5 px."""
    axis = torch.arange(DISC_PX, device=device) - (DISC_PX - 1) / 2
    return ((axis[:, None] ** 2 + axis[None, :] ** 2) <= (DISC_PX / 2) ** 2).float()


def view(
    image: Tensor, centre: Tensor, angle: Tensor, step: float, size: int,
    scale: Tensor | None = None, tilt: Tensor | None = None,
) -> Tensor:
    """Look at an image through many rotated square windows.

    Args:
        image: (C, H, W) float32.
        centre: (N, 2) x and y of the windows' centres in the image's pixels.
        angle: (N,) radians; the window's right points this far clockwise, on the picture, of the image's right.
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
    image: Tensor, centre: Tensor, angle: Tensor, step: float, mix: Tensor, change: AugmentationConfig,
    generator: torch.Generator,
) -> Tensor:
    """What a vehicle sees at each spot, with the errors of ``change``, in its own frame.

    Args:
        image: (C + 1, H, W) float32, the last channel validity.
        centre: (N, 2) true spots, image pixels.
        angle: (N,) radians, where the vehicle's right points, clockwise of the image's right.
        step: image pixels a sample.
        mix: (C,) weights of the bands.
        change: sizes of the errors.
        generator: their source.

    Returns:
        (N, 2, 33, 33) float32, gray times mask and mask, in the disc.
    """
    uniform = _uniform_source(image.device, generator)
    count = len(centre)
    shifted = centre + uniform(count, 2) * change.shift_px * step
    seen = view(image, shifted, angle, step, DISC_PX, scale=1 + change.scale * uniform(count),
                tilt=uniform(count, 2) * change.tilt / (DISC_PX / 2))
    mask = (seen[:, -1:] > 0.999) & (disc(image.device) > 0) & _uncut(count, change.cut_share, uniform)
    gray = relight(mix_to_gray(seen[:, :-1], mix), change, uniform)
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


def mix_to_gray(bands: Tensor, weights: Tensor) -> Tensor:
    """(N, C, S, S) and (C,) weights, some perhaps negative -> (N, 1, S, S) in [0, 1]."""
    mixed = torch.einsum("ncij,c->nij", bands, weights)[:, None]
    return (mixed - weights.clamp(max=0).sum()) / weights.abs().sum()


def camera_gray(place: DevicePlace) -> Tensor:
    """(C,) weights that make gray as a camera sees it."""
    return torch.tensor(place.place.gray, device=place.pixels.device)


def _uniform_source(device: torch.device, generator: torch.Generator) -> Callable[..., Tensor]:
    """Uniform numbers in [-1, 1), by shape."""
    return lambda *shape: torch.rand(*shape, device=device, generator=generator) * 2 - 1


def _uncut(count: int, share: float, uniform: Callable[..., Tensor]) -> Tensor:
    """(N, 1, 33, 33) bool; for some, false beyond a straight line, as where the image ends."""
    angle, depth = uniform(count, 1, 1, 1) * math.pi, uniform(count, 1, 1, 1)
    axis = torch.arange(DISC_PX, device=angle.device) - (DISC_PX - 1) / 2
    along = angle.cos() * axis + angle.sin() * axis[:, None]
    cut = uniform(count, 1, 1, 1).abs() < share
    return ~cut | (along < DISC_PX / 2 * (0.7 + 0.3 * depth))


def _place_shares(places: list[Place], world_share: float) -> NDArray[np.float64]:
    """How often each place is drawn: by the root of its pixels times pairs of dates, at most eightfold."""
    weight = np.array([math.sqrt(p.valid[0].size * min(len(p.dates) - 1, 8)) for p in places])
    world = np.array([p.source == WORLD for p in places])
    if world.any() and not world.all():
        weight = weight * np.where(world, world_share / weight[world].sum(), (1 - world_share) / weight[~world].sum())
    return weight / weight.sum()


def _draw_step(place: DevicePlace, config: SamplerConfig, rng: np.random.Generator) -> float:
    """Image pixels a sample, log-uniform, and no more than leaves room to stand in a small place."""
    low, high = config.world_step if place.place.source == WORLD else config.imagery_step
    roomy = min(place.pixels.shape[-2:]) / (4 * margin_px(1.0))
    low, high = min(low, roomy), min(high, roomy)
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def margin_px(step: float) -> float:
    """Distance from the border, in image pixels, at which a jittered disc is whole."""
    return (DISC_PX / 2 * 1.1 + 2) * step


def _draw_spots(
    image: Tensor, count: int, step: float, turned_share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(N, 2) centres in image pixels and (N,) angles in radians; some spots are used twice."""
    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, device=image.device, generator=generator)

    size = torch.tensor([image.shape[-1], image.shape[-2]], device=image.device, dtype=torch.float32)
    margin = margin_px(step)
    centre = margin + uniform(count, 2) * (size - 1 - 2 * margin)
    angle = uniform(count) * 2 * math.pi
    again = int(count * turned_share)
    if 0 < again <= count // 2:
        centre[-again:] = centre[:again]
        angle[-again:] = angle[:again] + math.radians(30) + uniform(again) * math.radians(300)
    return centre, angle


def _draw_mix(place: DevicePlace, change: AugmentationConfig, rng: np.random.Generator) -> Tensor:
    """(C,) weights: as a camera sees it, or any mixture, perhaps with a negative band."""
    count = len(place.place.gray)
    if count == 1 or rng.random() >= change.mix_share:
        return camera_gray(place)
    weights = rng.dirichlet(np.ones(count)).astype(np.float32)
    if rng.random() < change.inverse_share:
        weights[rng.integers(count)] *= -1
    return torch.from_numpy(weights).to(place.pixels.device)


def _neighbours(spot: Tensor, angle: Tensor, cells: float) -> Tensor:
    """(N, N) bool: other pairs so near, in position (samples) and angle, that they aren't wrong answers."""
    difference = spot[:, None] - spot[None, :]
    near = difference.square().sum(dim=-1) < (cells * CELL_PX) ** 2
    alike = torch.cos(angle[:, None] - angle[None, :]) > math.cos(math.radians(30))
    return near & alike & ~torch.eye(len(spot), dtype=torch.bool, device=spot.device)
