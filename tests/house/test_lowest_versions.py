"""Every committed bundle opens with the lowest versions, and gives its golden outputs there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "models" / "kittiwake_models"
BUNDLES = sorted(path.parent.name for path in MODELS.glob("*/manifest.json"))

# Runs in the environment: prints the largest difference of every variant and output from the golden one,
# as a share of what is allowed: the bundle's tolerance, or the loss of its precision measured at export.
COMPARE = """
import sys
import numpy as np
from kittiwake_runtime import Bundle, open_engine

bundle = Bundle.open(sys.argv[1])
cases = bundle.golden()
assert cases, "no golden case"
for precision, variant in bundle.variants.items():
    with open_engine(bundle, device="cpu", precision=precision, policy="require") as engine:
        for case in cases:
            outputs = engine.infer(dict(case.inputs))
            for name, golden in case.outputs.items():
                assert outputs[name].shape == golden.shape and outputs[name].dtype == golden.dtype
                allowed = max(bundle.tolerance, 2 * variant.parity.get(name, 0.0))
                worst = float(np.abs(outputs[name].astype(np.float64) - golden).max())
                print(precision, name, worst / allowed)
"""


def lowest() -> dict[str, str]:
    lines = (ROOT / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(pin) for line in lines if (pin := line.partition("#")[0].strip())]
    return {pin.name: str(pin.specifier).removeprefix("==") for pin in pins}


def test_bundles_are_committed() -> None:
    assert BUNDLES, "models/kittiwake_models holds no bundle"


def test_the_lowest_versions_are_the_floors_that_the_packages_declare() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("*/pyproject.toml"))
    for name, version in lowest().items():
        floors = set(re.findall(rf'"{re.escape(name)}>=([\d.]+)', text))
        assert len(floors) == 1, f"{name} has floors {sorted(floors)} in the pyproject.toml files"
        assert f"{version}.".startswith(f"{floors.pop()}.")


@pytest.fixture(scope="module")
def lowest_venv(make_venv: Callable[..., Any]) -> Any:
    return make_venv(["runtime", "models"], options=["-c", str(ROOT / "constraints-lowest.txt")])


@pytest.mark.slow
@pytest.mark.parametrize("name", BUNDLES)
def test_the_golden_outputs_come_out(name: str, lowest_venv: Any) -> None:
    assert lowest_venv.run("python", "-c", "import numpy; print(numpy.__version__)").strip() == lowest()["numpy"]
    shares = [line.split() for line in lowest_venv.run("python", "-c", COMPARE, name).splitlines()]
    assert shares
    assert {f"{precision} {output}": share for precision, output, share in shares if float(share) > 1} == {}
