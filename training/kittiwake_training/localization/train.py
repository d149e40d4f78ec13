"""Train a descriptor: places in, checkpoint out."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kittiwake_training.checkpoint import git_commit, load_checkpoint, save_checkpoint
from kittiwake_training.config import changed_settings
from kittiwake_training.distributed import Peers
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.data import PairSampler, SamplerConfig
from kittiwake_training.localization.evaluate import EvaluationConfig, calibration, evaluate, metrics
from kittiwake_training.localization.lite0 import KEY as LITE0
from kittiwake_training.localization.lite0 import Lite0Descriptor
from kittiwake_training.localization.losses import info_nce
from kittiwake_training.localization.model import CELL_PX, DISC_PX, HALO_PX, LARGEST_PX
from kittiwake_training.localization.places import WORLD, Place, hold_out_strip, load_places
from kittiwake_training.localization.prepare import place_from_rasters, world_places
from kittiwake_training.registry import build_model
from kittiwake_training.trainer import Fabric, LossFunction, TrainerConfig, fit, make_fabric, replace_file

CONFIG = "config.json"
CNN = "localization.cnn"
MAP_HELD_OUT = 0.25
"""Share of an operator's own area that validates."""


@dataclass(frozen=True)
class CnnConfig:
    """The network's size: see ``DescriptorCNN``."""

    width: int = 128
    dim: int = 48
    sigmas_px: tuple[float, ...] = (5.0, 12.0)
    widths: tuple[int, ...] = ()
    colours: int = 3


@dataclass(frozen=True)
class WorldConfig:
    """The procedural places.

    Args:
        places: how many to train on; 0 for none.
        prairies: places of open country to train on besides (`prairie.py`).
        validation_places: how many more to measure on.
        size_m: the side of each.
        gsds_m: metres a pixel, taken in turn.
    """

    places: int = 48
    prairies: int = 0
    validation_places: int = 4
    size_m: float = 3000.0
    gsds_m: tuple[float, ...] = (5.0, 2.5)


@dataclass(frozen=True)
class LocalizationConfig:
    """Training of a descriptor for localization.

    Args:
        name: the checkpoint's, and the bundle's that is made of it.
        model: the registry's key. ``localization.lite0`` starts from weights of ImageNet and takes ``cnn.dim`` and
            ``cnn.sigmas_px``; ``localization.capsules`` takes ``cnn.width`` besides; ``localization.gradients`` is
            hand-made: it is only calibrated. These three see gray.
        seed: of weights, batches and evaluation.
        temperature: of the loss.
        freeze_norm_at: share of the steps after which batch normalization keeps its running statistics, so
            that the last steps train the network as it will run.
        init: a checkpoint to start from, whose model and size are taken; a gray one learns colours besides unless
            ``cnn.colours`` is 1. Empty: start from fresh weights.
        cnn: size of the network, when it is one.
        sampler: how pairs are drawn.
        world: the procedural places.
        trainer: optimization.
        evaluation: how much to evaluate at the end.
    """

    name: str = "localization-descriptor"
    model: str = CNN
    seed: int = 0
    temperature: float = 0.07
    freeze_norm_at: float = 0.8
    init: str = ""
    cnn: CnnConfig = field(default_factory=CnnConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)


class PairEncoder(nn.Module):
    """Describes both sides of a batch in one pass, so that they share the statistics of normalization."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, query: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C + 1, 33, 33) and (N, C + 1, 63, 63) -> twice (N, D) float32."""
        core = self.model.contrast(window)[:, :, HALO_PX:-HALO_PX, HALO_PX:-HALO_PX]
        both = torch.cat([self.model.contrast(query), core])
        described = self.model.describe(both.contiguous(memory_format=torch.channels_last))
        return described[:, :, 0, 0].chunk(2)


def train(
    config: LocalizationConfig,
    data: Path | None,
    output: Path,
    *,
    maps: Sequence[Path] = (),
    workers: int = 1,
    resume: bool = False,
    max_minutes: float = math.inf,
    devices: int = 1,
) -> dict[str, Any]:
    """Train, evaluate on held-out places, and write a checkpoint.

    Args:
        config: everything that decides the result, together with the data.
        data: a folder of prepared places; none to train on the procedural world or on ``maps`` alone.
        output: the checkpoint's folder; also gets the state to resume from, the log and the loss curve, and
            keeps the rendered worlds under ``world/``.
        maps: georeferenced rasters of the operator's own area at several dates; its eastern quarter
            validates.
        workers: processes that render worlds.
        resume: go on from ``output``'s state.
        max_minutes: stop after so long, rendering and all but the evaluation included.
        devices: that share every batch; with several, this is one of the processes that ``distributed.launch`` started.

    Returns:
        What ``checkpoint.json`` holds, with ``finished``: whether all steps were done. Of several processes
        the first alone evaluates and writes; the others' has no metrics and no calibration.

    Raises:
        TrainingError: no data, or a config, a state or a checkpoint that doesn't fit.
    """
    started = time.monotonic()
    config = sized_as_init(config)
    fabric = make_fabric(config.trainer, devices)
    with fabric.rank_zero_first():  # what the first has rendered the others read
        _record_config(config, output, resume)
        places = gather_places(config, data, output / "world", maps, workers)
    left_s = max_minutes * 60 - (time.monotonic() - started)
    model, steps = train_model(fabric, config, places, output, resume=resume, stop_after_s=left_s)
    meta = describe_run(config, places)
    if fabric.is_global_zero:
        held_out = [place for place in places if place.split == "validation"]
        outcomes = evaluate(model, held_out, config.evaluation, fabric.device, config.seed)
        if not outcomes:
            raise TrainingError("no held-out place could be queried", "prepare data with validation places")
        meta |= {"metrics": metrics(outcomes), "calibration": calibration(outcomes, held_out), "steps": steps}
        save_checkpoint(output, model.cpu(), meta)
    fabric.barrier()
    return {**meta, "finished": steps == config.trainer.steps or steps == 0}


def train_model(
    fabric: Fabric,
    config: LocalizationConfig,
    places: Sequence[Place],
    output: Path,
    *,
    resume: bool = False,
    stop_after_s: float = math.inf,
) -> tuple[nn.Module, int]:
    """The optimization alone: the model trained on those of the places that are to be trained on.

    Args:
        fabric: from ``make_fabric``.
        config, places: what decides the result.
        output: gets the state, the log and the loss curve.
        resume: go on from ``output``'s state.
        stop_after_s: seconds after which to stop.

    Returns:
        The model, on the fabric's device, and the steps done; 0 for a model that has nothing to train.
    """
    torch.manual_seed(config.seed)
    model = make_model(config)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model, 0
    peers = Peers(fabric.global_rank, fabric.world_size)
    training = [place for place in places if place.split == "train"]
    sampler = PairSampler(training, config.sampler, fabric.device, config.seed, peers, model.colours)
    encoder = PairEncoder(model).to(memory_format=torch.channels_last)
    losses = pair_losses(config, sampler, peers)
    progress = fit(fabric, encoder, losses, config.trainer, output, resume=resume, stop_after_s=stop_after_s)
    return model, progress.step


def gather_places(
    config: LocalizationConfig, data: Path | None, world_folder: Path, maps: Sequence[Path], workers: int
) -> list[Place]:
    """All places of a run, each with its split: prepared ones, the operator's own, and procedural worlds."""
    places = load_places(data) if data else []
    if maps:
        own = place_from_rasters(maps, "own_area")
        gap_px = math.ceil(2 * DISC_PX * config.sampler.imagery_step[1])
        places += hold_out_strip(own, MAP_HELD_OUT, gap_px)
    world = config.world
    for kind, split, count in (
        (WORLD, "train", world.places),
        ("prairie", "train", world.prairies),
        (WORLD, "validation", world.validation_places),
    ):
        places += world_places(
            world_folder, count, size_m=world.size_m, gsds_m=world.gsds_m, workers=workers, split=split, kind=kind
        )
    return places


def make_model(config: LocalizationConfig) -> nn.Module:
    """The model of a config, with fresh weights or those of ``config.init``."""
    key, settings = config.model, model_settings(config)
    if not config.init:
        model = build_model(key, settings)
        if isinstance(model, Lite0Descriptor):
            model.load_imagenet()
        return model
    start = load_checkpoint(Path(config.init))
    if start.meta["model"] == {"key": key, "config": settings}:
        return start.model
    if start.meta["model"] != {"key": key, "config": _in_gray(settings)}:
        raise TrainingError(f"{config.init} is a {start.meta['model']}, the config asks for {key} {settings}")
    model = build_model(key, settings)
    model.load_state_dict(model.widened(start.model.state_dict()))
    return model


def sized_as_init(config: LocalizationConfig) -> LocalizationConfig:
    """The config with the model and size of the checkpoint that it starts from, if it starts from one.

    Raises:
        TrainingError: that checkpoint is of another task.
    """
    if not config.init:
        return config
    model = load_checkpoint(Path(config.init)).meta["model"]
    size = {name: tuple(value) if isinstance(value, list) else value for name, value in model["config"].items()}
    known = {name: value for name, value in size.items() if name in {f.name for f in fields(CnnConfig)}}
    sized = replace(config, model=model["key"], cnn=replace(config.cnn, **{"widths": (), **known}))
    fits = model["config"] in (model_settings(sized), _in_gray(model_settings(sized)))
    if model["key"].partition(".")[0] != "localization" or not fits:
        raise TrainingError(f"{config.init} is a {model['key']}, which is not trained for localization")
    return sized


def model_settings(config: LocalizationConfig) -> dict[str, Any]:
    """What the registry's factory takes."""
    cnn, key = config.cnn, config.model
    if key == "localization.gradients":
        return {}
    size: dict[str, Any] = {"dim": cnn.dim, "sigmas_px": list(cnn.sigmas_px)}  # as JSON gives them back
    if key != LITE0:
        size["width"] = cnn.width
    if cnn.widths:
        size["widths"] = list(cnn.widths)
    if key == CNN and cnn.colours != 1:
        size["colours"] = cnn.colours
    return size


def _in_gray(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of the network that sees no colours."""
    return {name: value for name, value in settings.items() if name != "colours"}


def describe_run(config: LocalizationConfig, places: list[Place]) -> dict[str, Any]:
    """The fields of ``checkpoint.json`` that are known before evaluation."""
    dim = 48 if config.model == "localization.gradients" else config.cnn.dim
    colours = model_settings(config).get("colours", 1)
    seen = "gray" if colours == 1 else "red, green and blue, each"
    before = load_checkpoint(Path(config.init)).meta if config.init else {}
    pruned = {name: facts for name, facts in before.get("training", {}).items() if name == "pruning"}
    return {
        "name": config.name,
        "task": "localization.descriptor",
        "licence": "Apache-2.0",
        "description": "Describes a disc of ground seen from above by a unit vector that lasts over seasons "
        "and tells headings apart.",
        "model": {"key": config.model, "config": model_settings(config)},
        "inputs": [
            {
                "name": "view",
                "dtype": "float32",
                "shape": ["N", colours + 1, "H", "W"],
                "units": "1",
                "meaning": f"{seen} in [0, 1] times mask; mask, 1 where the ground was seen",
            }
        ],
        "outputs": [
            {
                "name": "descriptor",
                "dtype": "float32",
                "shape": ["N", dim, "h", "w"],
                "units": "1",
                "meaning": "unit vectors over axis 1; entry (i, j) describes the disc of 33 px centred at "
                "row 16 + 2 i, column 16 + 2 j; h = (H - 33) // 2 + 1, w = (W - 33) // 2 + 1",
            }
        ],
        "dims": {
            "N": {"min": 1, "typical": 36},
            "H": {"min": DISC_PX, "typical": DISC_PX, "max": LARGEST_PX},
            "W": {"min": DISC_PX, "typical": DISC_PX, "max": LARGEST_PX},
        },
        "preprocessing": {
            "disc_px": DISC_PX,
            "cell_px": CELL_PX,
            "halo_px": DISC_PX // 2 + HALO_PX,
            "gray": "0.299 R + 0.587 G + 0.114 B, 0..255 to 0..1",
        },
        "tolerance": 1e-3,
        **({"provider_options": {"cuda": {"fuse_conv_bias": True}}} if config.model == CNN else {}),
        "training": {
            "data": [
                {
                    "name": p.name,
                    "source": p.source,
                    "split": p.split,
                    "dates": len(p.dates),
                    "gsd_m": p.gsd_m,
                    "sha256": p.sha256,
                }
                for p in places
            ],
            "config": asdict(config),
            "commit": git_commit(),
            "seed": config.seed,
            **pruned,
        },
        "card": _card(config, places) + _card_of_init(config, before),
    }


def _card(config: LocalizationConfig, places: list[Place]) -> str:
    """What the bundle's card says for people: what it saw, on which terms, what measured it, and how to make it."""
    lines = ["Trained on (train) and measured and calibrated on (validation); no ground is in both:", ""]
    kinds = Counter((place.source, place.split, place.licence) for place in places)
    for (source, split, licence), count in sorted(kinds.items()):
        lines.append(f"- {source}, {split}: {count} places. {licence}")
    lines += ["", "Made by this command, which goes on from the last checkpoint in its folder, on any machine:", ""]
    settings = "".join(f" \\\n    --set {shlex.quote(setting)}" for setting in changed_settings(config))
    sources = {place.source for place in places} - {WORLD}
    own, prepared = "own_area" in sources, bool(sources - {"own_area"})
    given = (" --data places" if prepared else "") + (" --maps ..." if own else "")
    lines += ["```text", f"kittiwake train localization{given} -o runs/{config.name} --resume{settings}", "```"]
    return "\n".join(lines) + "\n"


def _card_of_init(config: LocalizationConfig, before: dict[str, Any]) -> str:
    """What is said of the checkpoint that a run started from."""
    if not before:
        return ""
    lines = [
        f"It started from `{Path(config.init).name}`, of which its own card says:",
        "",
        str(before["card"]).strip(),
    ]
    return "\n" + "\n".join(lines) + "\n"


def pair_losses(config: LocalizationConfig, sampler: PairSampler, peers: Peers) -> LossFunction:
    """What the trainer calls each step: a batch is drawn and described, and each query looks for its own ground."""

    def losses(encoder: nn.Module, step: int, progress: float) -> dict[str, Tensor]:
        if progress >= config.freeze_norm_at:
            freeze_norms(encoder)
        pairs = sampler.batch(step)
        query, ground = encoder(pairs.query, pairs.window)
        loss, accuracy = info_nce(query, ground, pairs.excluded, pairs.usable, config.temperature, peers)
        return {"loss": loss, "accuracy": accuracy}

    return losses


def freeze_norms(module: nn.Module) -> None:
    """Have batch normalization take its running statistics and leave them as they are."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm):
            part.eval()


def _record_config(config: LocalizationConfig, output: Path, resume: bool) -> None:
    """Keep the config beside the state; a state goes on only under the config that it was begun with."""
    record, text = output / CONFIG, json.dumps(asdict(config), indent=2) + "\n"
    if resume and record.exists() and record.read_text() != text:
        raise TrainingError(f"{record} differs from the config of this run", "train without --resume, or as before")
    output.mkdir(parents=True, exist_ok=True)
    replace_file(record, text.encode())
