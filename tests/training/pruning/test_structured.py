from __future__ import annotations

import copy

import pytest
import torch
import torch_pruning
from small_networks import ConvNorm, Grouped, Small, family
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kittiwake_training.efficientnet_lite0 import EfficientNetLite0
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.model import DescriptorCNN
from kittiwake_training.pruning.cost import layers_of, total_flops, total_parameters
from kittiwake_training.pruning.groups import find_groups, resize, zero_channels
from kittiwake_training.pruning.prunable import rebuild
from kittiwake_training.pruning.remove import largest_difference, remove_dead_channels
from kittiwake_training.pruning.sensitivity import shrink_insensitive
from kittiwake_training.pruning.structured import prune_once

IMAGE = torch.zeros(2, 3, 12, 12)
FAMILIES = ["plain", "residual B", "depthwise", "concatenating"]


@pytest.mark.parametrize("name", [*FAMILIES, "grouped"])
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model = family(name, seed=0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IMAGE)
    assert total_flops(layers_of(model, IMAGE)) == counter.get_total_flops()
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert total_parameters(layers_of(model, IMAGE)) == sum(p.numel() for p in model.parameters()) - norms


@pytest.mark.parametrize("name", FAMILIES)
def test_zeroed_and_removed_is_what_torch_pruning_cuts_out(name: str) -> None:
    """Another implementation of the cut: with zeroed channels it is the same function."""
    model = family(name, seed=2)
    for group in find_groups(model, IMAGE):
        zeroed = copy.deepcopy(model)
        roots = range(0, group.channels, 2)
        zero_channels(zeroed, group, roots)
        ours = remove_dead_channels(zeroed, IMAGE).network
        theirs = copy.deepcopy(model)
        graph = torch_pruning.DependencyGraph().build_dependency(theirs, IMAGE, verbose=False)
        layer = theirs.get_submodule(group.name)
        cut = graph.get_pruner_of_module(layer).prune_out_channels
        graph.get_pruning_group(layer, cut, list(roots)).prune()
        assert largest_difference(ours, theirs, [torch.randn(IMAGE.shape)]) < 1e-10, group.name


@pytest.mark.parametrize("name", FAMILIES)
def test_the_predicted_sizes_are_those_of_the_pruned_network(name: str) -> None:
    model = family(name, seed=2)
    layers = layers_of(model, IMAGE)
    whole = total_flops(layers)
    done = prune_once(model, IMAGE, total_flops, 0.6 * whole)
    assert done.error < 1e-10
    assert total_flops(done.layers) <= 0.6 * whole
    groups = find_groups(model, IMAGE)
    after = {layer.name: layer for layer in done.layers}
    gone = [group.channels - after[group.name].made for group in groups]
    assert [(x.taken, x.made) for x in resize(layers, groups, gone)] == [(x.taken, x.made) for x in done.layers]


def test_the_least_important_channels_go_first() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvNorm(3, 16), ConvNorm(16, 4)).eval()
    weak = [1, 2, 3, 5, 7, 11, 12, 13]
    model[0][0].weight.data[weak] *= 1e-3
    model[1][0].weight.data[:, weak] *= 1e-3
    layers = layers_of(model, IMAGE)
    for importance in ("magnitude", "lamp", "taylor"):
        model.zero_grad()
        model(torch.rand(IMAGE.shape)).square().sum().backward()
        done = prune_once(model, IMAGE, total_flops, 0.6 * total_flops(layers), importance=importance)
        kept = torch.tensor([i for i in range(16) if i not in weak])
        torch.testing.assert_close(done.removal.network.get_submodule("0.0").weight, model[0][0].weight[kept].double())


def test_convolutions_in_groups_keep_their_channels() -> None:
    torch.manual_seed(0)
    model = Small([Grouped(16, 32, 4), ConvNorm(16, 16)], 16, 16, False, 12).eval()
    names = {name for group in find_groups(model, IMAGE) for name in (*group.made, *group.taken)}
    assert "blocks.0.split.0" not in names
    assert "blocks.1.0" in names


def test_efficientnet_is_rebuilt_with_the_widths_that_pruning_leaves() -> None:
    torch.manual_seed(0)
    model = EfficientNetLite0().eval()
    example = torch.randn(1, 3, 64, 64)
    done = prune_once(model, example, total_flops, 0.7 * total_flops(layers_of(model, example)), importance="lamp")
    state = {name: tensor.float() for name, tensor in done.removal.network.state_dict().items()}
    smaller, config = rebuild("vision.efficientnet-lite0", {}, model, state)
    assert all(width % 8 == 0 for block in config["blocks"] for width in block)
    assert largest_difference(done.removal.network, smaller, [example]) < 1e-4


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Branching(), r"'1\.0' \(Branching\) branches on the values"),
        (Scaled(), r"'1\.0' is a Scaled: the dependency graph doesn't know"),
        (nn.PReLU(8), r"'1\.0' is a PReLU: the dependency graph doesn't know"),
    ],
    ids=["branch", "own parameter", "unknown layer"],
)
def test_what_cannot_be_pruned_is_refused_by_name(part: nn.Module, said: str) -> None:
    model = nn.Sequential(ConvNorm(3, 8), nn.Sequential(part), ConvNorm(8, 4)).eval()
    with pytest.raises(TrainingError, match=said):
        find_groups(model, IMAGE)


def test_shared_weights_are_refused_by_name() -> None:
    with pytest.raises(TrainingError, match=r"'layer' \(Conv2d\) runs 2 times"):
        find_groups(Twice().eval(), IMAGE)
    one, other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    other.weight = one.weight
    with pytest.raises(TrainingError, match=r"'1\.weight' and '0\.weight' are the same weights"):
        find_groups(nn.Sequential(one, other).eval(), IMAGE)


def test_what_the_loss_does_not_feel_shrinks() -> None:
    """Weights with a gradient of one or more stay; those without shrink by the strength; filters as a whole."""
    layer = nn.Conv2d(2, 2, 1, bias=False)
    nn.init.ones_(layer.weight)
    layer.weight.grad = torch.tensor([[0.0, 2.0], [0.5, 0.5]])[:, :, None, None]
    each, whole = nn.Sequential(copy.deepcopy(layer)), nn.Sequential(copy.deepcopy(layer))
    each[0].weight.grad, whole[0].weight.grad = layer.weight.grad.clone(), layer.weight.grad.clone()
    shrink_insensitive(each, 0.1, channels=False)
    shrink_insensitive(whole, 0.1)
    torch.testing.assert_close(each[0].weight[:, :, 0, 0], torch.tensor([[0.9, 1.0], [0.95, 0.95]]))
    torch.testing.assert_close(whole[0].weight[:, :, 0, 0], torch.tensor([[1.0, 1.0], [0.95, 0.95]]))


def test_the_descriptor_keeps_contrast_and_length() -> None:
    torch.manual_seed(0)
    model = DescriptorCNN(64, 24, (5.0, 12.0)).eval()
    example = torch.rand(2, 2, 33, 33)
    done = prune_once(
        model, example, total_parameters, 0.2 * total_parameters(layers_of(model, example)), untouched=model.untouched
    )
    smaller, config = rebuild("localization.cnn", {"width": 64, "dim": 24, "sigmas_px": [5.0, 12.0]}, model,
                              {k: v.float() for k, v in done.removal.network.state_dict().items()})  # fmt: skip
    assert torch.equal(smaller.contrast.kernels, model.contrast.kernels)
    assert smaller(example).shape == (2, 24, 1, 1)
    assert largest_difference(done.removal.network, smaller, [example]) < 1e-6
    assert len(config["widths"]) == 6
