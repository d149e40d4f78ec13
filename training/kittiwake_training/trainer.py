"""The trainer: one loop on Lightning Fabric, from one CPU to many GPUs, that can stop and go on.

A task brings a module and a function from (module, step, progress) to a loss; the trainer brings devices,
precision, the optimizer (AdamW with warm-up and a cosine down to zero), the log with its picture, and a state
file. The state is one safetensors file whose header carries the JSON, replaced in one move, so a kill at any
moment leaves a whole one. Batches are to follow from the step alone; then a resumed run gives the weights of
an uninterrupted one (exactly on a CPU; on a GPU up to the order of its sums).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from kittiwake_training.distributed import share_statistics
from kittiwake_training.errors import TrainingError

try:
    from lightning_fabric import Fabric
except ImportError:  # the package `lightning` carries Fabric under its own name
    from lightning.fabric import Fabric

LOG = "log.jsonl"
PLOT = "loss.png"
STATE = "state.safetensors"
CLOCK_EVERY = 10
"""Steps between two looks at the clock that several processes take together: each look waits for all of them."""

LossFunction = Callable[[nn.Module, int, float], dict[str, Tensor]]


@dataclass(frozen=True)
class TrainerConfig:
    """How to optimize.

    Args:
        steps: how many.
        learning_rate: the highest, after the warm-up.
        warmup_steps: steps of linear rise.
        weight_decay: AdamW's, on weights of more than one dimension.
        clip: greatest norm of the gradient.
        precision: Fabric's name: ``32-true``, ``bf16-mixed``; ``auto`` takes bf16 on a GPU.
        accelerator: Fabric's name: ``auto``, ``cpu``, ``cuda``.
        save_every_s: seconds between states written.
        log_every: steps between lines of the log.
    """

    steps: int = 8000
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.02
    clip: float = 1.0
    precision: str = "auto"
    accelerator: str = "auto"
    save_every_s: float = 60.0
    log_every: int = 20


@dataclass
class Progress:
    """Where a run is: steps done, seconds of training over all its parts, and the log so far."""

    step: int = 0
    elapsed_s: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)


def make_fabric(config: TrainerConfig, devices: int = 1) -> Fabric:
    """Devices and precision; of several devices, this process's (``distributed.launch`` has started it)."""
    precision = config.precision
    if precision == "auto":
        on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
        precision = "bf16-mixed" if on_gpu else "32-true"
    torch.set_float32_matmul_precision("high")
    fabric = Fabric(accelerator=config.accelerator, devices=devices, precision=precision)
    fabric.launch()
    return fabric


def fit(
    fabric: Fabric,
    module: nn.Module,
    losses: LossFunction,
    config: TrainerConfig,
    folder: Path,
    *,
    resume: bool = False,
    stop_after_s: float = math.inf,
    before_step: Callable[[nn.Module], None] | None = None,
) -> Progress:
    """Train until the steps are done or the time is up.

    Args:
        fabric: from :func:`make_fabric`.
        module: on any device; it is moved, and trained in place.
        losses: gives ``{"loss": scalar, ...}`` for the module, the step and the share of steps done; the
            other scalars are only logged.
        config: how.
        folder: gets the state, the log and the loss curve.
        resume: go on from the state in ``folder``, if there is one.
        stop_after_s: seconds after which this call stops, whatever is left to do.
        before_step: gets the module between its gradients and the optimizer's step, and may change its weights.

    Returns:
        Where the run is; it is finished when ``step`` equals ``config.steps``.

    Raises:
        TrainingError: the state is of another run, or the loss is not finite.
    """
    if fabric.world_size > 1:
        share_statistics(module, fabric.device)
    optimizer = torch.optim.AdamW(_groups(module, config.weight_decay), lr=config.learning_rate)
    wrapped, optimizer = fabric.setup(module, optimizer)
    wrapped.train()
    progress = Progress()
    if resume and (folder / STATE).exists():
        progress = _load_state(folder / STATE, module, optimizer)
    started, saved = time.monotonic(), time.monotonic()
    earlier_s = progress.elapsed_s
    bar = tqdm(total=config.steps, initial=progress.step, desc="training", unit="step", disable=_quiet(fabric))
    while progress.step < config.steps:
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(progress.step, config)
        scalars = losses(wrapped, progress.step, progress.step / config.steps)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(scalars["loss"])
        if before_step is not None:
            before_step(module)
        fabric.clip_gradients(wrapped, optimizer, max_norm=config.clip)
        optimizer.step()
        progress.step += 1
        progress.elapsed_s = earlier_s + time.monotonic() - started
        bar.update()
        last = progress.step == config.steps
        if progress.step % config.log_every == 0 or last:
            line = _log_line(progress, scalars, optimizer)
            progress.log.append(line)
            bar.set_postfix(loss=f"{line['loss']:.3f}")
        now = time.monotonic()
        if _is_time_up(fabric, progress.step, now - started > stop_after_s):
            break
        if now - saved > config.save_every_s and not last:
            _write(fabric, folder, module, optimizer, progress)
            saved = now
    bar.close()
    _write(fabric, folder, module, optimizer, progress)
    fabric.barrier()
    return progress


def plot_loss(log: list[dict[str, float]], path: Path) -> None:
    """The loss and, where logged, the accuracy against steps, as a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    steps = [line["step"] for line in log]
    axes.plot(steps, [line["loss"] for line in log], color="tab:blue")
    axes.set(xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    if log and "accuracy" in log[0]:
        right = axes.twinx()
        right.plot(steps, [100 * line["accuracy"] for line in log], color="tab:orange", alpha=0.7)
        right.set_ylabel("right answers in the batch, %", color="tab:orange")
    figure.savefig(path, dpi=120)


def _groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    weights = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _learning_rate(step: int, config: TrainerConfig) -> float:
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _log_line(progress: Progress, scalars: dict[str, Tensor], optimizer: Any) -> dict[str, float]:
    values = {name: float(value.detach()) for name, value in scalars.items()}
    if not math.isfinite(values["loss"]):
        raise TrainingError(f"the loss is {values['loss']} at step {progress.step}", "lower trainer.learning_rate")
    return {
        "step": progress.step,
        "elapsed_s": round(progress.elapsed_s, 2),
        "learning_rate": optimizer.param_groups[0]["lr"],
        **values,
    }


def _is_time_up(fabric: Fabric, step: int, is_late: bool) -> bool:
    """Every process must leave the loop at the same step: the first one's clock decides, asked now and then."""
    if fabric.world_size == 1:
        return is_late
    return step % CLOCK_EVERY == 0 and bool(fabric.broadcast(is_late))


def _quiet(fabric: Fabric) -> bool | None:
    return None if fabric.is_global_zero else True


def _write(fabric: Fabric, folder: Path, module: nn.Module, optimizer: Any, progress: Progress) -> None:
    if not fabric.is_global_zero:
        return
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    header = json.dumps({"step": progress.step, "elapsed_s": progress.elapsed_s, "log": progress.log})
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    replace_file(folder / STATE, save(plain, metadata={"progress": header}))
    replace_file(folder / LOG, "".join(json.dumps(line) + "\n" for line in progress.log).encode())
    plot_loss(progress.log, folder / PLOT)


def _load_state(path: Path, module: nn.Module, optimizer: Any) -> Progress:
    try:
        with safe_open(path, framework="pt") as file:
            progress = Progress(**json.loads(file.metadata()["progress"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        module.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("module.")})
        states: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                states.setdefault(int(index), {})[name] = tensor
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    except Exception as error:
        raise TrainingError(f"{path} is not the state of this run: {error}", "train without --resume") from error
    return progress


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one move: a reader sees the old one or the new one, never a part."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
