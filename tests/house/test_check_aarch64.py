"""tools/check_aarch64.py follows dependencies with the markers of the target, not of this machine."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_aarch64.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_aarch64", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_aarch64"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_markers_are_those_of_the_target(tool: ModuleType) -> None:
    index = {
        "a>=1": ("b; python_version < '3.11'", "c>=2; platform_machine == 'aarch64'", "d; extra == 'all'"),
        "b": ("a",),
        "c>=2": ("e; sys_platform == 'win32'",),
    }

    def ask(requirement: str, target: object) -> object:
        return tool.Wheel(requirement, "1", "x.whl", index[requirement])

    names = {target.python: [wheel.name for wheel in tool.resolve(["a>=1"], target, ask)] for target in tool.TARGETS}
    assert names == {"3.10": ["a>=1", "b", "c>=2"], "3.12": ["a>=1", "c>=2"]}


def test_what_a_jetson_installs_is_what_the_runtime_asks_for_narrowed(tool: ModuleType) -> None:
    project = {
        "dependencies": ["numpy>=1.26", "onnxruntime>=1.23.2", "tqdm>=4"],
        "optional-dependencies": {"jetpack6": ["cuda-bindings<13"], "jetpack7": ["cuda-bindings>=13"]},
    }
    jetpack6, jetpack7 = (tool.installed(project, ["# why", "numpy<2", "unknown<1"], target) for target in tool.TARGETS)
    assert jetpack6 == ["numpy<2", "onnxruntime>=1.23.2", "tqdm>=4", "cuda-bindings<13"]
    assert jetpack7 == ["numpy<2", "tqdm>=4", "cuda-bindings>=13", "onnxruntime-gpu>=1.23.2"]


def test_platforms_reach_from_the_targets_glibc_down_to_manylinux2014(tool: ModuleType) -> None:
    jetpack6 = tool.TARGETS[0].platforms
    assert "manylinux_2_35_aarch64" in jetpack6
    assert "manylinux_2_36_aarch64" not in jetpack6
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64", "linux_aarch64"} <= set(jetpack6)
