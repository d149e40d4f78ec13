"""Pairs to train on, made on the GPU: a disc as a vehicle sees it, and the same ground on the map.

Each place lies on the device as one tensor. A batch is a few groups; a group is one place, one scale and two
of its dates, so that nearly all wrong answers in it are other spots of the same landscape: hard negatives.
For each pair, drawn anew:

- the map's side is a window of 63 px at a random spot and rotation, seen in full, so that local contrast
  finds the surroundings that it has in a dense pass; the model then describes the window's central 33 px;
- the query's side is the other date at the same spot, up to half a cell off, with an error of scale and a
  slight tilt, seen from any heading, its bands mixed at random, its light changed, and cut to the
  disc; it is then turned to the map's rotation, up to 5 degrees off, as the runtime turns it for each assumed
  heading;
- some pairs stand on the spot of another pair but turned, so that the descriptor must tell headings apart.

Everything follows from (seed, step, number of the group): a resumed run sees the batches that an uninterrupted one
would, and several processes see together what one would see alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kittiwake_runtime.localization.descriptor import LUMA
from kittiwake_training.distributed import ALONE, Peers
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.model import CELL_PX, DISC_PX, HALO_PX
from kittiwake_training.localization.places import WORLD, Place
from kittiwake_training.localization.views import (
    AugmentationConfig,
    Chance,
    disc,
    margin_px,
    mix_bands,
    observe,
    per_pair,
    turn,
    view,
)

WINDOW_PX = DISC_PX + 2 * HALO_PX
MIN_SEEN = 0.7
"""Share of a disc that must show ground on both sides."""
OTHER_COLOURS = 0.15
"""Share of groups in colour whose query has other colours than its map."""


@dataclass(frozen=True)
class SamplerConfig:
    """How a batch is put together.

    Args:
        pairs: pairs a batch, over all processes together.
        groups: places a batch; each gives ``pairs / groups`` pairs. Processes share them out.
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
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)


@dataclass(frozen=True)
class Pairs:
    """A batch.

    Args:
        query: (N, C + 1, 33, 33) float32, gray or colours times mask, and mask.
        window: (N, C + 1, 63, 63) float32, the same for the map.
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
        seed: with the step, decides everything.
        peers: processes that share a batch's groups.
        colours: 1 for pairs in gray, 3 for red, green and blue.
    """

    def __init__(
        self,
        places: list[Place],
        config: SamplerConfig,
        device: torch.device,
        seed: int,
        peers: Peers = ALONE,
        colours: int = 1,
    ) -> None:
        if not places:
            raise TrainingError("there is no place to train on", "prepare data, or set world_places above 0")
        if config.pairs % config.groups:
            raise TrainingError(f"pairs = {config.pairs} is not a multiple of groups = {config.groups}")
        self.groups = min(config.groups, len(places))
        if self.groups % peers.count:
            raise TrainingError(
                f"{self.groups} places a batch can't be shared out to {peers.count} processes",
                "set sampler.groups to a multiple of the devices, or train on more places",
            )
        self.config, self.peers, self.colours = config, peers, colours
        self.seed = seed
        self.device = device
        self.places = [to_device(place, device) for place in places]
        self.shares = _place_shares(places, config.world_share)

    def batch(self, step: int) -> Pairs:
        """This process's share of the batch of one step."""
        rng = np.random.default_rng([self.seed, step])
        chosen = rng.choice(len(self.places), size=self.groups, p=self.shares, replace=False)
        mine = self.groups // self.peers.count
        numbers = range(self.peers.rank * mine, (self.peers.rank + 1) * mine)
        return self._pairs([self._group(self.places[chosen[number]], step, number) for number in numbers])

    def _group(self, place: DevicePlace, step_number: int, number: int) -> _Group:
        """What a group's pairs have in common."""
        change = self.config.augmentation
        rng = np.random.default_rng([self.seed, step_number, number])
        generator = torch.Generator(self.device).manual_seed(int(rng.integers(2**62)))
        step = _draw_step(place, self.config, rng)
        map_date, query_date = rng.choice(len(place.pixels), size=2, replace=False)
        draw = _draw_grays if self.colours == 1 else _draw_colours
        for_map, for_query = draw(place, change, rng)
        map_image = mix_bands(place.image(int(map_date)), for_map)
        query_image = mix_bands(place.image(int(query_date)), for_query)
        if rng.random() < 0.5:
            map_image, query_image = map_image.flip(-1), query_image.flip(-1)
        return _Group(map_image, query_image, step, rng.uniform(1 / change.gain, change.gain), generator)

    def _pairs(self, groups: Sequence[_Group]) -> Pairs:
        config, change, each = self.config, self.config.augmentation, self.config.pairs // self.groups
        chance, steps = Chance([group.generator for group in groups], each), [group.step for group in groups]
        centre, angle = _draw_spots(groups, change.turned_share, chance)

        window = view([group.map_image for group in groups], centre, angle, steps, WINDOW_PX)
        gamma, step = per_pair([(group.gamma, group.step) for group in groups], each, self.device).split(1, dim=1)
        seen = window[:, -1:] > 0.999
        lit = window[:, :-1].clamp(min=1e-4) ** gamma[:, :, None, None]
        window = torch.cat([lit * seen, seen], dim=1)

        heading, error = math.pi * chance.uniform(), math.radians(change.turn_deg) * chance.uniform()
        query = observe([group.query_image for group in groups], centre, heading, steps, change, chance)
        query = turn(query, angle + error - heading)
        core = disc(self.device)
        seen_on_map = (window[:, -1, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX] * core).sum(dim=(1, 2))
        whole = core.sum(), disc(self.device, change.disc_px).sum()
        near = _neighbours((centre / step).view(-1, each, 2), angle.view(-1, each), config.neighbour_cells)
        return Pairs(
            query=query,
            window=window,
            excluded=torch.block_diag(*near),
            usable=(seen_on_map > MIN_SEEN * whole[0]) & (query[:, -1].sum(dim=(1, 2)) > MIN_SEEN * whole[1]),
        )


@dataclass(frozen=True)
class _Group:
    """What the pairs of a group have in common.

    Args:
        map_image: (C + 1, H, W) float32, gray or colours, and validity of one date.
        query_image: the same of the other.
        step: image pixels a sample.
        gamma: of the map's light.
        generator: of the group's random numbers.
    """

    map_image: Tensor
    query_image: Tensor
    step: float
    gamma: float
    generator: torch.Generator


def camera_colours(place: DevicePlace, colours: int) -> NDArray[np.float32]:
    """Weights of the bands as a camera sees them.

    Args:
        place: imagery of one band is gray; of more, the first three stand for red, green and blue, whatever they are.
        colours: 1 for gray, else 3.

    Returns:
        (colours, C) float32.
    """
    gray = np.array([place.place.gray], np.float32)
    if colours == 1 or gray.shape[1] < 3:
        return np.repeat(gray, colours, axis=0)
    return np.eye(3, gray.shape[1], dtype=np.float32)


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


def _draw_spots(groups: Sequence[_Group], turned_share: float, chance: Chance) -> tuple[Tensor, Tensor]:
    """(N, 2) centres in image pixels and (N,) angles in radians; some spots are used twice."""
    margins = [(margin_px(group.step), group.map_image.shape[2], group.map_image.shape[1]) for group in groups]
    centre = chance.rand(2)
    margin, size = per_pair(margins, chance.each, centre.device).split([1, 2], dim=1)
    centre = (margin + centre * (size - 1 - 2 * margin)).view(len(groups), -1, 2)
    angle = (chance.rand() * 2 * math.pi).view(len(groups), -1)
    again = int(chance.each * turned_share)
    if 0 < again <= chance.each // 2:
        turned = math.radians(30) + chance.rand(each=again).view(len(groups), -1) * math.radians(300)
        centre[:, -again:] = centre[:, :again]
        angle[:, -again:] = angle[:, :again] + turned
    return centre.view(-1, 2), angle.view(-1)


def _draw_grays(
    place: DevicePlace, change: AugmentationConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(1, C) weights of map and query: each as a camera sees it, or any mixture, perhaps with a negative band."""

    def draw() -> NDArray[np.float32]:
        if len(place.place.gray) == 1 or rng.random() >= change.mix_share:
            return camera_colours(place, 1)
        return _any_mixture(len(place.place.gray), change, rng)[None]

    return draw(), draw()


def _draw_colours(
    place: DevicePlace, change: AugmentationConfig, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(3, C) weights of map and query: of a camera's colours, or of any three mixtures of the bands.

    Mostly both sides have the same, for a colour has to mean something; either may be gray all the same.
    """
    count = len(place.place.gray)

    def draw() -> NDArray[np.float32]:
        if count < 3 or rng.random() >= change.mix_share:
            return camera_colours(place, 3)
        return np.stack([_any_mixture(count, change, rng) for _ in range(3)])

    shared = draw()
    sides = (shared, draw() if rng.random() < OTHER_COLOURS else shared)
    for_map, for_query = (
        np.repeat(np.array([LUMA], np.float32) @ side, 3, axis=0) if rng.random() < change.gray_share else side
        for side in sides
    )
    return for_map, for_query


def _any_mixture(count: int, change: AugmentationConfig, rng: np.random.Generator) -> NDArray[np.float32]:
    weights = rng.dirichlet(np.ones(count)).astype(np.float32)
    if rng.random() < change.inverse_share:
        weights[rng.integers(count)] *= -1
    return weights


def _neighbours(spot: Tensor, angle: Tensor, cells: float) -> Tensor:
    """Other pairs of a group so near, in position and angle, that they aren't wrong answers.

    Args:
        spot: (G, N, 2) in samples.
        angle: (G, N) radians.
        cells: how near.

    Returns:
        (G, N, N) bool.
    """
    difference = spot[:, :, None] - spot[:, None, :]
    near = difference.square().sum(dim=-1) < (cells * CELL_PX) ** 2
    alike = torch.cos(angle[:, :, None] - angle[:, None, :]) > math.cos(math.radians(30))
    return near & alike & ~torch.eye(spot.shape[1], dtype=torch.bool, device=spot.device)
