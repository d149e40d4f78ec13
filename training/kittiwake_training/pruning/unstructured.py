"""Single weights set to zero: by magnitude in rounds, by SNIP at once, or two of every four.

The network keeps its shape, so it is no smaller on disk until it is compressed, and no faster where nothing skips
zeros: these are here to be compared with, and because what they teach of a network holds (arXiv 2507.01722).

- ``magnitude``: a fifth of the weights that remain goes each round, the smallest of the whole network; then training
  with the learning rate rewound to the start of its schedule (Renda et al., ICLR 2020).
- ``snip``: once, before any training, those with the least |w dL/dw| on one batch (Lee et al., ICLR 2019).
- ``2:4``: of every four weights next to each other along the input channels the two smaller, the pattern that NVIDIA's
  sparse tensor cores skip (Mishra et al., arXiv 2104.08378).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as masks

from kittiwake_training.checkpoint import META, Checkpoint, load_checkpoint, save_checkpoint
from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.channels import refuse_shared_weights
from kittiwake_training.pruning.lessons import Lesson
from kittiwake_training.pruning.rounds import example_input, measured, record
from kittiwake_training.pruning.structured import accumulate_gradients
from kittiwake_training.pruning.tradeoff import Point
from kittiwake_training.pruning.watch import watched
from kittiwake_training.trainer import Fabric, TrainerConfig, fit, make_fabric

A_ROUND = 0.2
"""Share of the weights that remain which goes each round."""
TWO_OF_FOUR = "2:4"


@dataclass(frozen=True)
class SparseConfig:
    """How to set weights to zero.

    Args:
        target: ``sparsity=`` and the share of weights that are to be zero, or ``2:4``.
        importance: ``magnitude`` in rounds, or ``snip`` at once.
        distillation: weight of the distance to the dense network's answers.
        task: settings of the task's own training that differ from the dense network's, ``key=value`` each.
        trainer: of each round.
    """

    target: str = "sparsity=0.9"
    importance: str = "magnitude"
    distillation: float = 1.0
    task: tuple[str, ...] = ()
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(steps=1000, learning_rate=1e-3, warmup_steps=50)
    )


def sparsify(
    dense: Checkpoint,
    config: SparseConfig,
    lesson: Lesson,
    output: Path,
    *,
    resume: bool = False,
    max_minutes: float = math.inf,
) -> dict[str, Any]:
    """Set weights of a checkpoint's network to zero and write the checkpoint; each round is one too.

    Args:
        dense: what to start from, and the teacher.
        config: how.
        lesson: the task's.
        output: folder of the checkpoint, with a folder for each round.
        resume: go on in ``output``.
        max_minutes: stop after so long.

    Returns:
        What ``checkpoint.json`` holds, with ``finished`` and the rounds' ``points``.

    Raises:
        TrainingError: the target can't be understood, weights are shared, a loss is not finite, or ``output`` is of
            another run.
    """
    started = time.monotonic()
    shares = read_shares(config)
    refuse_shared_weights(dense.model)
    record(dense, asdict(config), output, resume)
    fabric = make_fabric(config.trainer)
    teacher = lesson.encoder(copy.deepcopy(dense.model)).to(fabric.device).eval().requires_grad_(False)
    losses = watched(lesson.losses(teacher, config.distillation, fabric.device))
    example = example_input(dense.meta)
    points = [measured("dense", dense.model, lesson, {}, example, fabric)]
    model, meta = dense.model, dict(dense.meta)
    for number, share in enumerate(shares, 1):
        folder = output / f"round-{number}"
        if resume and (folder / META).exists():
            model = load_checkpoint(folder).model
            continue
        if not (resume and (folder / "start" / META).exists()):
            if fabric.is_global_zero:  # one process decides for all
                save_checkpoint(folder / "start", _thinned(model, config, share, lesson, losses, fabric), dense.meta)
            fabric.barrier()
        model = load_checkpoint(folder / "start").model
        mask_zeros(model)
        done = fit(
            fabric,
            lesson.encoder(model),
            losses,
            config.trainer,
            folder,
            resume=resume,
            stop_after_s=max_minutes * 60 - (time.monotonic() - started),
        )
        for module in weighted(model):
            masks.remove(module, "weight")
        if done.step < config.trainer.steps:
            return {"finished": False, "points": [asdict(point) for point in points]}
        label = f"{100 * zero_share(model):.1f} %"
        points.append(measured(label, model, lesson, {}, example, fabric))
        meta = _meta(dense, config, model, points[-1])
        if fabric.is_global_zero:
            save_checkpoint(folder, model.cpu(), meta)
    if fabric.is_global_zero:
        save_checkpoint(output, model.cpu(), meta)
    fabric.barrier()
    return {**meta, "finished": True, "points": [asdict(point) for point in points]}


def read_shares(config: SparseConfig) -> list[float]:
    """The share of zeros after each round; one round of 0.5 for 2:4.

    Raises:
        TrainingError: the config can't be understood.
    """
    number = config.target.removeprefix("sparsity=")
    if config.importance not in ("magnitude", "snip"):
        raise TrainingError(f"no importance '{config.importance}' of single weights", "there are magnitude and snip")
    if number == TWO_OF_FOUR:
        return [0.5]
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if not 0 < share < 1:
        raise TrainingError(f"--target {config.target}: expected a share between 0 and 1, or {TWO_OF_FOUR}",
                            "as in --target sparsity=0.9")  # fmt: skip
    if config.importance == "snip":
        return [share]
    rounds = math.ceil(math.log(1 - share) / math.log(1 - A_ROUND) - 1e-9)
    return [*(1 - (1 - A_ROUND) ** i for i in range(1, rounds)), share]


def zero_smallest(model: nn.Module, share: float, scores: Mapping[nn.Module, Tensor] | None = None) -> None:
    """Set a share of all convolutions' and linear layers' weights to zero: those of the least score in the whole
    network, by default the least magnitude. Zeros that are there already are among them."""
    parameters = [(module, "weight") for module in weighted(model)]
    for module, _ in parameters:  # torch flattens them as they lie
        module.weight.data = module.weight.data.contiguous()
    given = {(module, "weight"): scores[module].contiguous() for module, _ in parameters} if scores else None
    masks.global_unstructured(parameters, masks.L1Unstructured, importance_scores=given, amount=share)
    for module, name in parameters:
        masks.remove(module, name)


def zero_two_of_four(model: nn.Module) -> list[str]:
    """Set to zero, of every four weights along the input channels, the two smallest.

    Returns:
        Names of the layers that stay dense, since their input channels are no multiple of four.
    """
    dense = []
    names = {module: name for name, module in model.named_modules()}
    for module in weighted(model):
        weight = module.weight.detach()
        if isinstance(module, nn.ConvTranspose2d) or weight.shape[1] % 4:
            dense.append(names[module])
            continue
        fours = weight.movedim(1, -1).unflatten(-1, (-1, 4))
        keep = torch.zeros_like(fours).scatter_(-1, fours.abs().topk(2, dim=-1).indices, 1.0)
        with torch.no_grad():
            module.weight *= keep.flatten(-2).movedim(-1, 1)
    return dense


def snip_scores(model: nn.Module) -> dict[nn.Module, Tensor]:
    """|w dL/dw| from the gradients that the model has."""
    return {module: (module.weight * module.weight.grad).detach().abs() for module in weighted(model)}


def mask_zeros(model: nn.Module) -> None:
    """Hold weights that are zero at zero while the others train, until torch's ``prune.remove``."""
    for module in weighted(model):
        masks.custom_from_mask(module, "weight", (module.weight != 0).to(module.weight.dtype))


def weighted(model: nn.Module) -> list[Any]:
    """The convolutions and linear layers."""
    return [module for module in model.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]


def zero_share(model: nn.Module) -> float:
    """Share of the weights of convolutions and linear layers that are zero."""
    weights = [module.weight.detach() for module in weighted(model)]
    return float(sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights))


def _thinned(
    model: nn.Module, config: SparseConfig, share: float, lesson: Lesson, losses: Any, fabric: Fabric
) -> nn.Module:
    if config.target.endswith(TWO_OF_FOUR):
        zero_two_of_four(model.cpu())
    elif config.importance == "snip":
        encoder = lesson.encoder(model.to(fabric.device))
        accumulate_gradients(encoder, lambda module, step: losses(module, step, 0.0)["loss"], 1)
        zero_smallest(model, share, snip_scores(model))
        model.zero_grad(set_to_none=True)
    else:
        zero_smallest(model.cpu(), share)
    return model


def _meta(dense: Checkpoint, config: SparseConfig, model: nn.Module, point: Point) -> dict[str, Any]:
    facts = {"config": asdict(config), "zero_share": zero_share(model)}
    return {
        **dense.meta,
        "training": {**dense.meta["training"], "pruning": facts},
        "metrics": point.metrics,
        "calibration": point.calibration,
    }
