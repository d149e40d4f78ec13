from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kittiwake_training.checkpoint import Checkpoint, load_checkpoint
from kittiwake_training.localization.data import SamplerConfig
from kittiwake_training.localization.evaluate import EvaluationConfig
from kittiwake_training.localization.places import Place
from kittiwake_training.localization.train import CnnConfig, LocalizationConfig, WorldConfig, train
from kittiwake_training.pruning.lessons import Lesson, Sources, find_lesson
from kittiwake_training.trainer import TrainerConfig

TRAINER = TrainerConfig(steps=4, warmup_steps=1, log_every=1, learning_rate=1e-3, accelerator="cpu")
DENSE = LocalizationConfig(
    cnn=CnnConfig(width=32, dim=16),
    sampler=SamplerConfig(pairs=16, groups=2),
    world=WorldConfig(places=0, validation_places=0),
    trainer=replace(TRAINER, steps=2),
    evaluation=EvaluationConfig(queries=2, imagery_steps=(1.0,)),
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, place_maker: Callable[..., Place]) -> Path:
    folder = tmp_path_factory.mktemp("places")
    for place in (*(place_maker(f"train_{i}", seed=i) for i in range(2)), place_maker("v", seed=9, split="validation")):
        place.save(folder)
    return folder


@pytest.fixture(scope="session")
def dense_folder(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("dense")
    train(DENSE, data, folder)
    return folder


@pytest.fixture
def dense(dense_folder: Path) -> Checkpoint:
    return load_checkpoint(dense_folder)


@pytest.fixture
def lesson(dense: Checkpoint, data: Path, tmp_path: Path) -> Lesson:
    return find_lesson(dense.meta, [], Sources(data, tmp_path))


@pytest.fixture
def trainer() -> TrainerConfig:
    return TRAINER
