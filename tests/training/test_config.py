from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kittiwake_training.config import changed_settings, load_config
from kittiwake_training.errors import TrainingError
from kittiwake_training.localization.train import LocalizationConfig
from kittiwake_training.pruning.rounds import PruneConfig


def test_settings_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("seed = 3\n[sampler]\npairs = 64\ngroups = 4\nimagery_step = [0.5, 1]\n")
    config = load_config(LocalizationConfig, file, ["sampler.pairs=128", "name=mine", "sampler.augmentation.noise=0"])
    assert (config.seed, config.name, config.sampler.pairs, config.sampler.groups) == (3, "mine", 128, 4)
    assert config.sampler.imagery_step == (0.5, 1.0)
    assert config.sampler.augmentation.noise == 0.0
    assert config.trainer == LocalizationConfig().trainer


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("sampler.pears=1", "sampler.pears"),
        ("sampler.pairs=many", "sampler.pairs is 'many', expected int"),
        ("sampler.pairs=1.5", "expected int"),
        ("sampler=3", "expected a table"),
        ("seed.x=3", "no field|table|expected int"),
        ("sampler.imagery_step=[1]", "expected 2 values"),
        ("world.gsds_m=5", "several values"),
        ("seed", "key=value"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        load_config(LocalizationConfig, None, [setting])


def test_a_value_inside_a_part_leaves_the_part_s_own_defaults() -> None:
    config = load_config(PruneConfig, None, ["trainer.steps=300"])
    assert config.trainer == replace(PruneConfig().trainer, steps=300)
    assert changed_settings(config) == ["trainer.steps=300"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("seed = ")
    with pytest.raises(TrainingError, match=r"run\.toml"):
        load_config(LocalizationConfig, tmp_path / "run.toml")


def test_changed_settings_lead_from_the_defaults_to_the_config() -> None:
    settings = ["name=mine", "cnn.width=192", "sampler.world_share=0.2", "world.gsds_m=[2.5]"]
    config = load_config(LocalizationConfig, None, settings)
    said = changed_settings(config)
    assert [setting.split("=")[0] for setting in said] == [setting.split("=")[0] for setting in settings]
    assert load_config(LocalizationConfig, None, said) == config
    assert changed_settings(LocalizationConfig()) == []
