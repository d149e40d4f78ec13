"""A device installs the runtime and the models and nothing else: that must be enough for the demo."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NEVER = {"torch", "onnx", "onnxscript", "rclpy", "matplotlib", "scipy", "tensorflow", "pytest"}


def interpreter(name: str) -> str:
    """The path of a Python that really starts (a version manager leaves shims that don't), or skip."""
    found = sys.executable if name == "this" else shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on this machine")
    if subprocess.run([found, "-c", "import venv, ensurepip"], capture_output=True).returncode:
        pytest.skip(f"{name} is on PATH but does not start, or has no venv")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["this", "python3.10", "python3.12"])
def test_the_runtime_alone_flies_the_demo(name: str, make_venv: Callable[..., Any], tmp_path: Path) -> None:
    venv = make_venv(["runtime", "models"], interpreter=interpreter(name))

    installed = {entry["name"].lower() for entry in json.loads(venv.run("pip", "list", "--format", "json"))}
    assert {name for name in installed if name.startswith("kittiwake")} == {
        "kittiwake-runtime",
        "kittiwake-models",
    }
    assert installed & NEVER == set()

    venv.run("kittiwake", "demo", "--quick", "-o", str(tmp_path / "demo"))
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
    assert list((tmp_path / "demo").glob("*.png"))
