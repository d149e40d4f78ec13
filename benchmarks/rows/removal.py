"""Dead channels removed: the same function, on every family and on random graphs; torch-simplify beside it."""

from __future__ import annotations

from importlib.metadata import version

import torch
from baselines.simplify import is_installed, largest_error
from results import Figure
from small_networks import FAMILIES, SIDE_PX, family, random_network
from torch import nn
from tqdm import tqdm

from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.lite0 import Lite0Descriptor
from kittiwake_training.localization.model import DescriptorCNN
from kittiwake_training.pruning.groups import find_groups, zero_channels
from kittiwake_training.pruning.remove import prove, remove_dead_channels

SEEDS = 10
GRAPHS = 240
WRONG = 1e-3
"""Of outputs of about one, in float32."""


def measure_removal(quick: bool) -> list[Figure]:
    """How many networks are proven, the largest difference, and the same of torch-simplify."""
    seeds, graphs = (2, 20) if quick else (SEEDS, GRAPHS)
    named = [(f"{name}, {'folded' if fold else 'normalized'}", family(name, seed, fold=fold))
             for name in FAMILIES for fold in (False, True) for seed in range(seeds)]  # fmt: skip
    named += [("random", random_network(1_000_000 + seed)) for seed in range(graphs)]
    example = torch.zeros(2, 3, SIDE_PX, SIDE_PX)
    errors, failures, channels, carriers = [], [], 0, 0
    for name, model in tqdm(named, desc="removal", unit="graph", disable=None):
        try:
            removal = remove_dead_channels(model, example)
            errors.append(prove(model, removal.network, example))
        except TrainingError as error:
            failures.append(f"{name}: {error}")
            continue
        channels += sum(removal.removed.values())
        carriers += removal.carriers
    errors += [_descriptor_error(DescriptorCNN(64, 32, (5.0, 12.0))), _descriptor_error(Lite0Descriptor(32))]
    total = len(named) + 2
    made = f"{len(FAMILIES)} families, with normalizations and folded, {seeds} seeds each; {graphs} random graphs; two "
    note = (
        f"of {total}: {made}descriptors; {channels} channels removed, {carriers} dead ones kept to carry others' values"
    )
    note += f"; failed: {'; '.join(failures)}" if failures else ""
    figures = [
        Figure("equivalence.graphs", len(errors), "", total, None, f">= 200 and all ({total})", note=note),
        Figure("equivalence.max_error", max(errors), "", len(errors), None, "<= 1e-5",
               note="largest absolute difference of the outputs, float64, 8 random inputs each"),
    ]  # fmt: skip
    return figures + _simplify_figures(named[: len(named) - graphs])


def _descriptor_error(model: DescriptorCNN | Lite0Descriptor) -> float:
    """Every third channel of every group is zeroed and removed."""
    torch.manual_seed(0)
    example = torch.rand(2, 2, 33, 33)
    model.eval()
    for group in find_groups(model, example, model.untouched):
        zero_channels(model, group, range(0, group.channels, 3))
    return prove(model, remove_dead_channels(model, example, opaque=model.untouched).network, example)


def _simplify_figures(named: list[tuple[str, nn.Module]]) -> list[Figure]:
    if not is_installed():
        note = "torch-simplify is not installed (pip install --no-deps torch-simplify)"
        return [Figure("equivalence.torch_simplify_wrong", None, note=note)]
    inputs = torch.randn(4, 3, SIDE_PX, SIDE_PX, generator=torch.Generator().manual_seed(0))
    results: dict[str, list[float | None]] = {}
    for name, model in tqdm(named, desc="torch-simplify", unit="graph", disable=None):
        results.setdefault(name, []).append(largest_error(model, inputs))
    parts = []
    for name, errors in results.items():
        known = [error for error in errors if error is not None]
        wrong = sum(error > WRONG for error in known)
        worst = f", up to {max(known):.2g}" if wrong else ""
        parts.append(f"{name}: {wrong} wrong{worst}, {len(errors) - len(known)} raise, of {len(errors)}")
    every = [error for errors in results.values() for error in errors]
    wrong = sum(error is None or error > WRONG for error in every)
    note = f"networks that torch-simplify {version('torch-simplify')} changes by more than {WRONG:g} or raises on; "
    return [Figure("equivalence.torch_simplify_wrong", wrong, "", len(every), note=note + "; ".join(parts))]
