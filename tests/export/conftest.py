"""Checkpoints of models that another package adds by entry points, as one would that is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from kittiwake_training.checkpoint import save_checkpoint

Register = Callable[[str, str, Mapping[str, Mapping[str, str]]], None]


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Register]:
    """Install a module for the tests of one file: its name, its source, its entry points by group."""
    modules = []
    with pytest.MonkeyPatch.context() as patch:

        def install(module: str, source: str, groups: Mapping[str, Mapping[str, str]]) -> None:
            site = tmp_path_factory.mktemp(module)
            (site / f"{module}.py").write_text(source)
            metadata = site / f"{module}-1.0.dist-info"
            metadata.mkdir()
            (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
            lines = []
            for group, points in groups.items():
                lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
            (metadata / "entry_points.txt").write_text("\n".join(lines))
            patch.syspath_prepend(str(site))
            modules.append(module)

        yield install
    for module in modules:
        sys.modules.pop(module, None)


def tensor(name: str, shape: list[int | str], dtype: str = "float32", **more: Any) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "units": "1", "meaning": "test", **more}


@pytest.fixture(scope="module")
def write_checkpoint() -> Callable[..., None]:
    """Write the checkpoint of a model: a folder, the model, its key, then fields that differ from the usual."""

    def write(folder: Path, model: torch.nn.Module, key: str, **changes: Any) -> None:
        meta = {
            "name": "net",
            "task": "test.net",
            "licence": "Apache-2.0",
            "description": "A network for tests.",
            "model": {"key": key, "config": {}},
            "inputs": [tensor("view", ["N", 2, "H", "W"])],
            "outputs": [tensor("y", ["N", 4, "h", "w"])],
            "dims": {
                "N": {"min": 1, "typical": 2},
                "H": {"min": 9, "typical": 12, "max": 64},
                "W": {"min": 9, "typical": 12, "max": 64},
            },
            "preprocessing": {"mean": 0.5},
            "calibration": {"slope": 2.0},
            "tolerance": 1e-5,
            "training": {"data": [{"name": "noise"}], "config": {}, "commit": "c0ffee", "seed": 7},
            "metrics": [{"name": "loss", "value": 0.25, "unit": "1", "split": "test", "n": 10}],
            **changes,
        }
        save_checkpoint(folder, model, meta)

    return write
