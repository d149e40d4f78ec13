"""The groups of channels that can only go together, from torch-pruning's dependency graph.

torch-pruning (Fang et al., "DepGraph", CVPR 2023, arXiv 2301.12900) finds which channels of which layers depend on
each other, and says how important each is. What it would guess at (layers that it doesn't know, weights used twice,
branches that a trace can't see) is refused here, by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch_pruning import ops

from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.channels import refuse_shared_weights
from kittiwake_training.pruning.cost import Layer

KNOWN = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)
"""Layers with weights that both the dependency graph and the removal of channels understand."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several layers that can only go together.

    Args:
        name: of the layer that first makes them.
        channels: how many there are.
        makers: (layer, positions, roots): channel ``positions[i]`` of the layer belongs to ``roots[i]`` of the group.
        taken, made: for each layer that takes or makes them, how many of its channels are one of the group's.
        found: torch-pruning's own group, for its importances.
    """

    name: str
    channels: int
    makers: tuple[tuple[str, Sequence[int], Sequence[int]], ...]
    taken: dict[str, int]
    made: dict[str, int]
    found: Any


def find_groups(model: nn.Module, example: Tensor, untouched: Collection[nn.Module] = ()) -> list[ChannelGroup]:
    """All groups of channels that may be pruned: not those that a network gives out, not those of convolutions in
    groups (depthwise ones aside), none of the modules that are to be left alone.

    Args:
        model: any; the groups stay tied to it.
        example: (N, C, ...) an input on the model's device.
        untouched: modules of the model.

    Raises:
        TrainingError: a branch on the data, shared weights, a module called twice, a layer of unknown type.
    """
    refuse_shared_weights(model)
    inner = {id(part) for module in untouched for part in module.modules()}
    _refuse_unknown(model, inner)
    _refuse_branches(model, example)
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # it warns of what was just checked
        graph = torch_pruning.DependencyGraph().build_dependency(model, example, verbose=False)
    names = {module: name for name, module in model.named_modules()}
    ignored = [module for module in model.modules() if id(module) in inner or _is_grouped(module)]
    groups = []
    for found in graph.get_all_groups(ignored, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
        if not any(_is_result(dep.target) or _is_grouped(dep.target.module) for dep, _ in found):
            groups.append(_group(graph, found, names))
    return groups


def resize(layers: Sequence[Layer], groups: Sequence[ChannelGroup], gone: Sequence[int]) -> list[Layer]:
    """The layers of a network when so many channels of each group have gone."""
    taken, made = {layer.name: layer.taken for layer in layers}, {layer.name: layer.made for layer in layers}
    for group, count in zip(groups, gone, strict=True):
        for side, table in ((group.taken, taken), (group.made, made)):
            for name, channels in side.items():
                table[name] -= channels * count // group.channels
    return [layer.resized(taken[layer.name], made[layer.name]) for layer in layers]


def zero_channels(model: nn.Module, group: ChannelGroup, roots: Collection[int]) -> None:
    """Let channels of a group hold nothing but zeros: filters, biases, scales and shifts of all that make them."""
    chosen = set(roots)
    for name, positions, members in group.makers:
        module = model.get_submodule(name)
        at = [position for position, root in zip(positions, members, strict=True) if root in chosen]
        with torch.no_grad():
            module.weight[(slice(None), at) if isinstance(module, nn.ConvTranspose2d) else at] = 0.0
            if module.bias is not None:
                module.bias[at] = 0.0


def _group(graph: Any, found: Any, names: dict[nn.Module, str]) -> ChannelGroup:
    makers, taken, made = [], {}, {}
    for item in found:
        module = item.dep.target.module
        name = names.get(module, "")
        if not isinstance(module, KNOWN) or not name:
            continue
        if graph.is_out_channel_pruning_fn(item.dep.handler):
            makers.append((name, list(item.idxs), list(item.root_idxs)))
            made[name] = len(item.idxs)
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                taken[name] = len(item.idxs)
        else:
            taken[name] = len(item.idxs)
    convolutions = (nn.BatchNorm1d, nn.BatchNorm2d)
    layers = {name for module, name in names.items() if not isinstance(module, convolutions)}
    return ChannelGroup(
        name=makers[0][0],
        channels=len(found[0].idxs),
        makers=tuple(makers),
        taken={name: count for name, count in taken.items() if name in layers},
        made={name: count for name, count in made.items() if name in layers},
        found=found,
    )


def _is_result(node: Any) -> bool:
    """What the network gives out: a call that nobody reads, or a layer that nobody does."""
    return node.type == ops.OPTYPE.OUTPUT or not node.outputs


def _is_grouped(module: Any) -> bool:
    """In groups, and not depthwise."""
    return isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and module.groups > 1 and not (
        module.groups == module.in_channels == module.out_channels
    )  # fmt: skip


def _refuse_unknown(model: nn.Module, inner: Collection[int]) -> None:
    for name, module in model.named_modules():
        if id(module) in inner or isinstance(module, KNOWN):
            continue
        if next(module.parameters(recurse=False), None) is not None:
            raise TrainingError(
                f"module '{name}' is a {type(module).__name__}: the dependency graph doesn't know which of its weights "
                "belong to which channels",
                f"known are {', '.join(kind.__name__ for kind in KNOWN)}; or let the model list it as untouched",
            )


def _refuse_branches(model: nn.Module, example: Tensor) -> None:
    """Run on a tensor without values: whoever asks for one is found, and so is who is called twice."""
    names = {module: name for name, module in model.named_modules()}
    inside: list[nn.Module] = [model]
    runs: dict[nn.Module, int] = {}

    def enter(module: nn.Module, _inputs: Any) -> None:
        inside.append(module)
        runs[module] = runs.get(module, 0) + 1

    def leave(module: nn.Module, _inputs: Any, _output: Any) -> None:
        inside.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            model(mode.from_tensor(example))
    except DataDependentOutputException as error:
        blamed = inside[-1]
        raise TrainingError(
            f"module '{names[blamed]}' ({type(blamed).__name__}) branches on the values in its input: "
            "its graph is not the same for every input",
            "compute both sides and choose with torch.where, or let the model list the module as untouched",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    for module, count in runs.items():
        if count > 1 and next(module.parameters(recurse=False), None) is not None:
            raise TrainingError(
                f"module '{names[module]}' ({type(module).__name__}) runs {count} times; "
                "shared weights can't be pruned",
                "give each place a module of its own",
            )
