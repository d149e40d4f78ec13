"""The three networks as bundles: the shipped descriptor, EfficientNet-Lite0, and a deliberately awkward one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from networks import Awkward
from runs import CACHE, HERE, code_hash, key_of

from kittiwake_runtime.bundle import Bundle
from kittiwake_training import registry
from kittiwake_training.checkpoint import save_checkpoint
from kittiwake_training.efficientnet_lite0 import EfficientNetLite0, checkpoint_meta, pretrained
from kittiwake_training.errors import TrainingError

DESCRIPTOR = "localization-descriptor"
AWKWARD_KEY = "benchmarks.awkward"


def subjects() -> dict[str, Bundle]:
    """Each as a bundle in float32, exported once for each state of the code."""
    return {"descriptor": Bundle.open(DESCRIPTOR), "efficientnet-lite0": _efficientnet(), "awkward": _awkward()}


def efficientnet() -> EfficientNetLite0:
    """With the public weights where they are installed, else with others: time doesn't depend on them."""
    try:
        return pretrained()
    except TrainingError:
        torch.manual_seed(0)
        return EfficientNetLite0().eval()


def _efficientnet() -> Bundle:
    return _exported("efficientnet-lite0", efficientnet(), checkpoint_meta())


def _awkward() -> Bundle:
    registry.BUILT_IN.setdefault(AWKWARD_KEY, "networks:Awkward")
    torch.manual_seed(0)
    return _exported("awkward", Awkward().eval(), awkward_meta(AWKWARD_KEY))


def awkward_meta(key: str) -> dict[str, Any]:
    """What the awkward network's checkpoint says, its model registered under ``key``."""
    image = {"name": "image", "dtype": "float32", "shape": ["N", 1, "H", "W"], "units": "1", "meaning": "grey"}
    vectors = {"name": "vectors", "dtype": "float32", "shape": ["N", 8, "h", "w"], "units": "1", "meaning": "a patch"}
    return {
        "name": "awkward",
        "task": key,
        "licence": "Apache-2.0",
        "description": "Attention over patches, with a norm that overflows in float16.",
        "model": {"key": key, "config": {}},
        "inputs": [image],
        "outputs": [vectors],
        "dims": {
            "N": {"min": 1, "typical": 1},
            "H": {"min": 8, "typical": 64, "max": 256},
            "W": {"min": 8, "typical": 96, "max": 256},
        },
        "preprocessing": {},
        "calibration": {},
        "tolerance": 1e-4,
        "training": {"data": [], "config": {}, "commit": "", "seed": 0},
        "metrics": [],
    }


def _exported(name: str, model: torch.nn.Module, meta: Mapping[str, Any]) -> Bundle:
    from kittiwake_export.export import export

    code = [HERE / "networks.py", *sorted((HERE.parent / "export").rglob("*.py")),
            *sorted((HERE.parent / "training" / "kittiwake_training").glob("*.py"))]  # fmt: skip
    folder = CACHE / "bundles" / key_of(code_hash(code), torch.__version__) / name
    if not folder.exists():
        checkpoint = Path(f"{folder}.checkpoint")
        save_checkpoint(checkpoint, model, meta)
        export(checkpoint, folder)
    return Bundle.open(folder)
