from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from kittiwake_runtime.localization.descriptor import LUMA
from kittiwake_training.distributed import Peers
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.data import PairSampler, SamplerConfig
from kittiwake_training.localization.model import HALO_PX
from kittiwake_training.localization.places import Place
from kittiwake_training.localization.views import AugmentationConfig

CPU = torch.device("cpu")
EXACT = AugmentationConfig(
    shift_px=0,
    turn_deg=0,
    scale=0,
    tilt=0,
    gain=1,
    noise=0,
    mix_share=0,
    cut_share=0,
    turned_share=0.25,
)
SMALL = SamplerConfig(pairs=32, groups=2, imagery_step=(0.8, 0.8))


def test_a_batch_follows_from_seed_and_step_alone_and_processes_share_it_out(places: list[Place]) -> None:
    first = PairSampler(places, SMALL, CPU, seed=5)
    first.batch(0)
    again = PairSampler(places, SMALL, CPU, seed=5)
    assert torch.equal(first.batch(7).query, again.batch(7).query)
    assert not torch.equal(again.batch(7).query, again.batch(8).query)
    shares = [PairSampler(places, SMALL, CPU, seed=5, peers=Peers(rank, 2)).batch(7) for rank in range(2)]
    assert torch.equal(torch.cat([share.query for share in shares]), first.batch(7).query)


def test_without_errors_both_sides_show_the_same_ground(make_place: Callable[..., Place]) -> None:
    config = replace(SMALL, groups=1, augmentation=EXACT)
    pairs = PairSampler([make_place("same", change=0.0)], config, CPU, seed=0).batch(0)
    core = pairs.window[:, 0, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
    alike = [
        np.corrcoef(query[mask > 0], ground[mask > 0])[0, 1]
        for query, mask, ground in zip(pairs.query[:, 0], pairs.query[:, 1], core, strict=True)
    ]
    assert np.median(alike) > 0.96  # blur and slanting light remain
    assert min(alike) > 0.88


def test_pairs_in_colour_have_the_same_colours_on_both_sides_and_some_are_gray(
    make_place: Callable[..., Place],
) -> None:
    place = make_place("coloured", change=0.0)
    bands = np.concatenate([place.stack, 255 - place.stack, place.stack // 2], axis=1)
    place = replace(place, stack=bands, gray=LUMA)
    config = replace(SMALL, groups=1, augmentation=replace(EXACT, tint=0.0, gray_share=0.0))
    sampler = PairSampler([place], config, CPU, seed=0, colours=3)
    pairs = sampler.batch(0)
    assert pairs.query.shape[1:] == (4, 33, 33) and pairs.window.shape[1] == 4
    red, green = pairs.query[:, 0], pairs.query[:, 1]
    seen = pairs.query[:, 3] > 0
    assert np.corrcoef(red[seen], green[seen])[0, 1] < -0.9
    core = pairs.window[:, 1, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
    assert np.corrcoef(green[seen], core[seen])[0, 1] > 0.9
    always = replace(config, augmentation=replace(config.augmentation, gray_share=1.0))
    gray = PairSampler([place], always, CPU, seed=0, colours=3).batch(0)
    torch.testing.assert_close(gray.window[:, 0], gray.window[:, 2])


def test_neighbours_of_one_group_are_no_negatives_unless_they_are_turned(
    make_place: Callable[..., Place],
) -> None:
    config = replace(SMALL, pairs=64, groups=1, augmentation=EXACT)
    pairs = PairSampler([make_place("one")], config, CPU, seed=0).batch(0)
    assert torch.equal(pairs.excluded, pairs.excluded.T)
    assert not pairs.excluded.diagonal().any()
    # A quarter stand on another's spot, turned by more than 30 degrees: these stay wrong answers.
    assert not pairs.excluded[torch.arange(16), torch.arange(48, 64)].any()
    two = PairSampler([make_place("one"), make_place("two", seed=1)], replace(config, groups=2), CPU, seed=0).batch(0)
    assert not two.excluded[:32, 32:].any()


def test_queries_show_the_disc_alone_and_invalid_ground_makes_pairs_unusable(
    make_place: Callable[..., Place],
) -> None:
    place = make_place("half")
    valid = place.valid.copy()
    valid[:, :, :64] = False
    pairs = PairSampler([replace(place, valid=valid)], replace(SMALL, groups=1), CPU, seed=0).batch(0)
    assert pairs.query[:, :, 0, 0].abs().max() == 0
    assert pairs.query[:, 0][pairs.query[:, 1] == 0].abs().max() == 0
    assert 0 < pairs.usable.sum() < len(pairs.usable)


def test_nothing_to_draw_from_is_an_error(places: list[Place]) -> None:
    with pytest.raises(TrainingError, match="no place"):
        PairSampler([], SMALL, CPU, seed=0)
    with pytest.raises(TrainingError, match="multiple of groups"):
        PairSampler(places, replace(SMALL, pairs=33), CPU, seed=0)
