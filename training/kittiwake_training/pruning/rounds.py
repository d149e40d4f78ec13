"""Prune in rounds: remove a share of the cost, prove it, train what is left beside the dense network, measure, again.

Each round has a folder: ``start`` is the checkpoint right after the removal, the trainer's state lies beside it, and
once trained and measured the round is a checkpoint itself. So a run that was stopped goes on in the middle of a
round, and any round can be exported.
"""

from __future__ import annotations

import copy
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from kittiwake_training.checkpoint import META, Checkpoint, load_checkpoint, save_checkpoint
from kittiwake_training.config import changed_settings
from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.cost import Cost, Layer, layers_of, total_flops, total_parameters
from kittiwake_training.pruning.latency import LatencyModel, latency_cost
from kittiwake_training.pruning.lessons import Lesson
from kittiwake_training.pruning.prunable import prunable, rebuild
from kittiwake_training.pruning.remove import largest_difference
from kittiwake_training.pruning.sensitivity import shrink_insensitive
from kittiwake_training.pruning.structured import IMPORTANCES, accumulate_gradients, prune_once
from kittiwake_training.pruning.tradeoff import Point, draw_tradeoff
from kittiwake_training.pruning.watch import watched
from kittiwake_training.trainer import Fabric, TrainerConfig, fit, make_fabric, replace_file

CONFIG = "config.json"
POINTS = "rounds.json"
PICTURE = "tradeoff.png"


@dataclass(frozen=True)
class PruneConfig:
    """How to prune.

    Args:
        target: ``latency``, ``flops`` or ``params``, and the share of the dense network's that is to be left.
        backend: of the table of layer times, for a latency: a part of its name.
        importance: ``magnitude``, ``taylor``, ``lamp``, or ``sensitivity``: norms under a regularizer that shrinks
            what the loss doesn't feel.
        rounds: of removal and training; each leaves the same share of the one before.
        multiple: of the channels that stay in each layer.
        distillation: weight of the distance to the dense network's answers, beside the task's own loss.
        gradient_batches: of the importance ``taylor``.
        sensitivity: strength of that regularizer.
        last_steps: of the last round, which the network is shipped from; 0 for as many as in the others.
        task: settings of the task's own training that differ from the dense network's, ``key=value`` each.
        trainer: of each round.
    """

    target: str = "latency=0.5"
    backend: str = "int8"
    importance: str = "taylor"
    rounds: int = 4
    multiple: int = 8
    distillation: float = 1.0
    gradient_batches: int = 8
    sensitivity: float = 1e-4
    last_steps: int = 0
    task: tuple[str, ...] = ()
    trainer: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(steps=1000, learning_rate=1e-3, warmup_steps=50)
    )


def prune(
    dense: Checkpoint,
    config: PruneConfig,
    lesson: Lesson,
    tables: Mapping[str, LatencyModel],
    output: Path,
    *,
    resume: bool = False,
    max_minutes: float = math.inf,
) -> dict[str, Any]:
    """Prune a checkpoint's network to the target and write the checkpoint of the smaller one.

    Args:
        dense: what to start from, and the teacher.
        config: how.
        lesson: the task's.
        tables: of layer times, by backend; a target of latency needs one.
        output: folder of the checkpoint, with a folder for each round, ``rounds.json`` and ``tradeoff.png``.
        resume: go on in ``output``.
        max_minutes: stop after so long; the time of a round's evaluation may come on top.

    Returns:
        What ``checkpoint.json`` holds, with ``finished``; when it is False, only ``points`` of the finished rounds.

    Raises:
        TrainingError: the network can't be pruned or the target not be reached (nothing is trained then), a loss is
            not finite, or ``output`` is of another run.
    """
    started = time.monotonic()
    cost, share, whole = check_target(dense, config, tables)
    record(dense, asdict(config), output, resume)
    example = example_input(dense.meta)
    fabric = make_fabric(config.trainer)
    teacher = lesson.encoder(copy.deepcopy(dense.model)).to(fabric.device).eval().requires_grad_(False)
    losses = watched(lesson.losses(teacher, config.distillation, fabric.device))
    known = _read_points(output) if resume else []
    points = known[:1] or [measured("dense", dense.model, lesson, tables, example, fabric)]
    if fabric.is_global_zero and not known:
        _write_points(output, points)
    model, settings = dense.model, dense.meta["model"]["config"]
    for number in range(1, config.rounds + 1):
        folder = output / f"round-{number}"
        if resume and (folder / META).exists():
            loaded = load_checkpoint(folder)
            model, settings, meta = loaded.model, loaded.meta["model"]["config"], dict(loaded.meta)
            points.append(known[number])
            continue
        start = folder / "start"
        if not (resume and (start / META).exists()):
            if fabric.is_global_zero:  # one process decides for all
                limit = whole * share ** (number / config.rounds)
                made = _removed(model, dense, config, cost, limit, losses, lesson, example, fabric)
                save_checkpoint(start, made[0], _facts(dense, made[1], config, made[2], []))
            fabric.barrier()
        begun = load_checkpoint(start)
        model, settings, error = begun.model, begun.meta["model"]["config"], begun.meta["training"]["pruning"]["error"]
        trainer = replace(config.trainer, steps=config.last_steps) if _is_last(number, config) else config.trainer
        done = fit(
            fabric,
            lesson.encoder(model),
            losses,
            trainer,
            folder,
            resume=resume,
            stop_after_s=max_minutes * 60 - (time.monotonic() - started),
            before_step=_regularizer(config),
        )
        if done.step < trainer.steps:
            return {"finished": False, "points": [asdict(point) for point in points]}
        points.append(measured(f"round {number}", model, lesson, tables, example, fabric))
        meta = {**_facts(dense, settings, config, error, points), **_figures(points[-1])}
        if fabric.is_global_zero:
            _report(number, config, points, cost(layers_of(model.cpu(), example)) / whole, lesson.figure)
            _write_points(output, points)
            save_checkpoint(folder, model.cpu(), meta)
            draw_tradeoff(points, lesson.figure, output / PICTURE)
        fabric.barrier()
    if fabric.is_global_zero:
        save_checkpoint(output, model.cpu(), meta)
    fabric.barrier()
    return {**meta, "finished": True, "points": [asdict(point) for point in points]}


def check_target(
    dense: Checkpoint, config: PruneConfig, tables: Mapping[str, LatencyModel]
) -> tuple[Cost, float, float]:
    """See, before anything is read or trained, that the network can be pruned and the target be reached.

    Returns:
        The cost, the share of it that is to be left, and the dense network's.

    Raises:
        TrainingError: it can't; see :func:`prune_once`.
    """
    if config.importance not in IMPORTANCES:
        raise TrainingError(f"no importance '{config.importance}'", f"there are {', '.join(IMPORTANCES)}")
    own = prunable(dense.model, dense.meta["model"]["key"])
    cost, share = read_target(config, tables)
    example = example_input(dense.meta)
    whole = cost(layers_of(dense.model, example))
    # Magnitudes serve to find out.
    prune_once(dense.model, example, cost, share * whole, multiple=config.multiple, untouched=own.untouched)
    return cost, share, whole


def read_target(config: PruneConfig, tables: Mapping[str, LatencyModel]) -> tuple[Cost, float]:
    """The cost that a target speaks of, and the share that is to be left.

    Raises:
        TrainingError: it can't be understood, or a latency is asked for without a table.
    """
    kind, _, number = config.target.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if kind not in ("latency", "flops", "params") or not 0 < share < 1:
        raise TrainingError(
            f"--target {config.target}: expected latency, flops or params, and a share below 1",
            "as in --target latency=0.5",
        )
    if kind == "flops":
        return total_flops, share
    if kind == "params":
        return total_parameters, share
    if not tables:
        raise TrainingError(
            "a latency needs a table of layer times, measured where the network is to run",
            "kittiwake layer-times CHECKPOINT -o times.json, then --times times.json; or --target flops=...",
        )
    return latency_cost(tables, config.backend), share


def example_input(meta: Mapping[str, Any]) -> Tensor:
    """A random input of the typical size that a checkpoint names; it must have a single one."""
    if len(meta["inputs"]) != 1:
        raise TrainingError(f"{meta['name']} has {len(meta['inputs'])} inputs; networks of one can be pruned")
    shape = [meta["dims"][size]["typical"] if isinstance(size, str) else size for size in meta["inputs"][0]["shape"]]
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _removed(
    model: nn.Module, dense: Checkpoint, config: PruneConfig, cost: Cost, limit: float, losses: Any, lesson: Lesson,
    example: Tensor, fabric: Fabric,
) -> tuple[nn.Module, dict[str, Any], float]:  # fmt: skip
    """The model without what this round removes, its config, and the proof's error."""
    if config.importance == "taylor":
        encoder = lesson.encoder(model.to(fabric.device))
        accumulate_gradients(encoder, lambda module, step: losses(module, step, 0.0)["loss"], config.gradient_batches)
    model = model.cpu()
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad = parameter.grad.cpu()
    key = dense.meta["model"]["key"]
    own = prunable(model, key)
    done = prune_once(
        model, example, cost, limit, importance=config.importance, multiple=config.multiple, untouched=own.untouched
    )
    state = {name: tensor.float() if tensor.is_floating_point() else tensor
             for name, tensor in done.removal.network.state_dict().items()}  # fmt: skip
    smaller, settings = rebuild(key, dense.meta["model"]["config"], own, state)
    if not (apart := largest_difference(done.removal.network, smaller, [example])) <= dense.meta["tolerance"]:
        raise TrainingError(
            f"'{key}' with the widths that pruning left is another function: it differs by {apart:.3g}",
            "what it computes may depend on its widths, as a skip that is there where two widths agree",
        )
    return smaller, settings, done.error


def _regularizer(config: PruneConfig) -> Any:
    if config.importance != "sensitivity":
        return None
    return lambda module: shrink_insensitive(module, config.sensitivity)


def _report(number: int, config: PruneConfig, points: Sequence[Point], share: float, figure: str) -> None:
    """A line above the progress bars."""
    before, now = points[0].value(figure), points[-1].value(figure)
    kind = config.target.partition("=")[0]
    text = f"round {number} of {config.rounds}: {share:.2f} of the {kind}, {figure} {now:.2f} (dense {before:.2f})"
    tqdm.write(text, file=sys.stderr)


def _is_last(number: int, config: PruneConfig) -> bool:
    return number == config.rounds and config.last_steps > 0


def measured(
    label: str, model: nn.Module, lesson: Lesson, tables: Mapping[str, LatencyModel], example: Tensor, fabric: Fabric
) -> Point:
    """What a network is worth and what it costs."""
    layers: list[Layer] = layers_of(model.cpu(), example)
    found = lesson.evaluate(model, fabric.device) if fabric.is_global_zero else {"metrics": [], "calibration": {}}
    return Point(
        label=label,
        flops=total_flops(layers),
        parameters=total_parameters(layers),
        latency_s={name: table(layers) for name, table in tables.items()},
        metrics=list(found["metrics"]),
        calibration=dict(found["calibration"]),
    )


def _figures(point: Point) -> dict[str, Any]:
    return {"metrics": point.metrics, "calibration": point.calibration}


def _facts(
    dense: Checkpoint, settings: Mapping[str, Any], config: PruneConfig, error: float, points: Sequence[Point]
) -> dict[str, Any]:
    """The dense checkpoint's meta with what has changed."""
    meta = dense.meta
    pruning = {"config": asdict(config), "error": error, "dense": meta["model"]}
    lines = [str(meta.get("card", "")).rstrip(), "", *_card(points, config)] if points else [str(meta.get("card", ""))]
    return {
        **meta,
        "model": {"key": meta["model"]["key"], "config": dict(settings)},
        "training": {**meta["training"], "pruning": pruning},
        "card": "\n".join(lines).strip() + "\n",
    }


def _card(points: Sequence[Point], config: PruneConfig) -> list[str]:
    """What the card says of the dense network that this one was pruned from."""
    dense, now = points[0], points[-1]
    lines = [
        f"Pruned to `{config.target}` of the dense network in {config.rounds} rounds by `{config.importance}`, and "
        "trained beside it. The dense network's figures, and this one's:",
        "",
        "| what | dense | this |",
        "| --- | --- | --- |",
        f"| parameters | {dense.parameters:,.0f} | {now.parameters:,.0f} |",
        f"| operations, typical input | {dense.flops:.3g} | {now.flops:.3g} |",
    ]
    for name in dense.latency_s:
        lines.append(
            f"| predicted, {name} | {1e3 * dense.latency_s[name]:.3g} ms | {1e3 * now.latency_s[name]:.3g} ms |"
        )
    for before, after in zip(dense.metrics, now.metrics, strict=True):
        lines.append(f"| {before['name']}, {before['split']} | {before['value']} | {after['value']} {after['unit']} |")
    settings = "".join(f" \\\n    --set {shlex.quote(setting)}" for setting in changed_settings(config))
    times = " --times times.json" if dense.latency_s else ""
    command = f"kittiwake prune DENSE --data places{times} -o PRUNED --resume{settings}"
    return [*lines, "", "Made by:", "", "```text", command, "```"]


def record(dense: Checkpoint, settings: Mapping[str, Any], output: Path, resume: bool) -> None:
    """Keep beside the rounds what they were begun with; they go on under that alone."""
    text = json.dumps({"dense": dense.meta["model"], "name": dense.meta["name"], **settings}, indent=2) + "\n"
    path = output / CONFIG
    if resume and path.exists() and path.read_text(encoding="utf-8") != text:
        raise TrainingError(
            f"{output} was begun with another checkpoint or config than this", "prune without --resume, or as before"
        )
    output.mkdir(parents=True, exist_ok=True)
    replace_file(path, text.encode())


def _write_points(output: Path, points: Sequence[Point]) -> None:
    replace_file(output / POINTS, (json.dumps([asdict(point) for point in points], indent=1) + "\n").encode())


def _read_points(output: Path) -> list[Point]:
    path = output / POINTS
    return [Point(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
