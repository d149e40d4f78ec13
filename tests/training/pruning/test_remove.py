from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import FAMILIES, ConvNorm, family, random_network
from torch import Tensor, nn

from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.model import DescriptorCNN
from kittiwake_training.pruning.remove import largest_difference, prove, remove_dead_channels

IMAGE = torch.zeros(2, 3, 12, 12)


@pytest.mark.parametrize("fold", [False, True], ids=["normalized", "folded"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_stays_the_same_function_with_fewer_channels(name: str, fold: bool) -> None:
    model = family(name, seed=1, fold=fold)
    before = copy.deepcopy(model.state_dict())
    removal = remove_dead_channels(model, IMAGE)
    assert removal.removed
    assert prove(model, removal.network, IMAGE) < 1e-10
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert set(removal.network.state_dict()) == set(before)


@given(seed=st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_random_graphs_stay_the_same_function(seed: int) -> None:
    model = random_network(seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(IMAGE.shape, generator=generator) for _ in range(2)]
    assert largest_difference(model, remove_dead_channels(model, IMAGE).network, inputs) < 1e-10


def pair(padded: bool, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Six channels, of which 0, 2 and 5 are dead; the biases of 0 and 2 pass the activation."""
    torch.manual_seed(0)
    first = ConvNorm(3, 6, norm=False, activation=activation)
    first[0].weight.data[[0, 2, 5]] = 0.0
    first[0].bias.data[:] = torch.tensor([0.5, 0.1, 2.0, -0.1, 0.3, -1.0])
    return nn.Sequential(first, ConvNorm(6, 4, padded=padded, norm=False)).eval()


def test_without_a_border_all_dead_channels_go_and_the_bias_takes_their_part() -> None:
    model = pair(padded=False)
    removal = remove_dead_channels(model, IMAGE)
    assert removal.removed == {"0.0": 3}
    assert removal.carriers == 0
    given = model[1][0].weight.sum(dim=(2, 3)).double() @ torch.tensor([0.5, 0, 2.0, 0, 0, 0]).double()
    torch.testing.assert_close(removal.network.get_submodule("1.0").bias, model[1][0].bias.double() + given)


def test_at_a_border_one_dead_channel_stays_for_those_that_pass_something_on() -> None:
    model = pair(padded=True)
    removal = remove_dead_channels(model, IMAGE)
    assert removal.removed == {"0.0": 2}
    assert removal.carriers == 1
    # A bias can't do that: the same network with the part added everywhere differs, at the border alone.
    wrong = copy.deepcopy(model)
    wrong[1][0].bias.data += wrong[1][0].weight.sum(dim=(2, 3)) @ torch.tensor([0.5, 0, 2.0, 0, 0, 0])
    wrong[0][0].bias.data[[0, 2]] = 0.0
    with torch.no_grad():
        difference = (wrong[1][0](wrong[0](IMAGE)) - model[1][0](model[0](IMAGE))).abs().amax(dim=(0, 1))
    assert difference[1:-1, 1:-1].max() < 1e-5
    assert difference[0].max() > 1e-2
    assert prove(model, removal.network, IMAGE) < 1e-12


def test_an_activation_decides_what_a_dead_channel_passes_on() -> None:
    """A sigmoid passes something on for every bias: no channel goes without the one that stays for all."""
    removal = remove_dead_channels(pair(padded=True, activation=nn.Sigmoid), IMAGE)
    assert removal.removed == {"0.0": 2}
    assert prove(pair(padded=True, activation=nn.Sigmoid), removal.network, IMAGE) < 1e-12


def test_channels_that_nobody_reads_go_too() -> None:
    model = pair(padded=True)
    model[1][0].weight.data[:, [0, 1, 2]] = 0.0
    removal = remove_dead_channels(model, IMAGE)
    assert removal.removed == {"0.0": 4}  # and 5, whose value is zero


def test_channels_stay_in_multiples() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvNorm(3, 32), ConvNorm(32, 4)).eval()
    model[0][0].weight.data[:19] = 0.0
    removal = remove_dead_channels(model, IMAGE, multiple=8)
    assert removal.network.get_submodule("0.0").out_channels == 16
    assert prove(model, removal.network, IMAGE) < 1e-12


def test_a_network_of_zeros_keeps_a_channel_in_each_layer() -> None:
    model = family("grouped", seed=1)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data.zero_()
    removal = remove_dead_channels(model, IMAGE)
    convolutions = [m for m in removal.network.modules() if isinstance(m, nn.Conv2d)]
    assert min(module.out_channels // module.groups for module in convolutions) == 1
    assert prove(model, removal.network, IMAGE) < 1e-12


def test_the_descriptor_loses_its_dead_channels_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = DescriptorCNN(width=32, dim=16).eval()
    dead = torch.arange(32) % 4 == 0
    trunk = [model.stem[4], *(block.second for block in model.blocks)]
    for module in (*trunk, model.blocks[1].first):
        nn.init.uniform_(module[1].bias)
        module[0].weight.data[dead] = 0.0
    example = torch.rand(2, 2, 33, 33)
    removal = remove_dead_channels(model, example, opaque=[model.contrast])
    assert set(removal.removed) == {"stem.4.0", "blocks.0.second.0", "blocks.1.second.0", "blocks.2.second.0",
                                    "blocks.1.first.0"}  # fmt: skip
    assert set(removal.removed.values()) == {8}
    assert prove(model, removal.network, example) < 1e-10
    pruned = DescriptorCNN(32, 16).state_dict()
    assert set(removal.network.state_dict()) == set(pruned)  # no bias has been added anywhere


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_branch_on_the_data_is_refused_by_name() -> None:
    model = nn.Sequential(ConvNorm(3, 8), nn.Sequential(Branching()))
    with pytest.raises(TrainingError, match=r"'1\.0' \(Branching\) can't be traced"):
        remove_dead_channels(model, IMAGE)


def test_shared_weights_are_refused_by_name() -> None:
    one, other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    other.weight = one.weight
    with pytest.raises(TrainingError, match=r"'1\.weight' and '0\.weight' are the same weights"):
        remove_dead_channels(nn.Sequential(one, other), IMAGE)
    with pytest.raises(TrainingError, match=r"the same weights|runs twice"):
        remove_dead_channels(nn.Sequential(one, nn.ReLU(), one), IMAGE)


class Mixing(nn.Module):
    """Operations that nobody has explained to the reader of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.other(torch.softmax(self.one(x), dim=1)).cumsum(dim=1)


def test_what_is_not_understood_keeps_its_channels() -> None:
    model = Mixing()
    model.one.weight.data[:4] = 0.0
    removal = remove_dead_channels(model, IMAGE)
    assert removal.removed == {}


def test_a_wrong_removal_is_not_passed() -> None:
    model, other = family("plain", seed=3), family("plain", seed=4)
    with pytest.raises(TrainingError, match="differs by"):
        prove(model, other, IMAGE)
