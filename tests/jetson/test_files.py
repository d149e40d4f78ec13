"""The scripts and Dockerfiles against the linters of their kinds, and what they copy and name against what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
JETSON = ROOT / "jetson"
SCRIPTS = sorted(JETSON.glob("*.sh"))
DOCKERFILES = sorted(JETSON.glob("Dockerfile.*"))


def linter(name: str) -> str:
    """A program of the development's environment; not every machine has a wheel of it."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: python -m pip install -r requirements-dev.txt")
    return str(path)


def test_there_is_something_to_look_at() -> None:
    assert len(SCRIPTS) == 5
    assert [path.suffix for path in DOCKERFILES] == [".jetpack6", ".jetpack7"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_lint(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    done = subprocess.run([linter("shellcheck"), "-x", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_that_are_run_can_be(script: Path) -> None:
    assert bool(script.stat().st_mode & 0o111) is (script.name != "lib.sh")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_lint(dockerfile: Path) -> None:
    done = subprocess.run(
        [linter("hadolint"), "--failure-threshold", "warning", str(dockerfile)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfiles_start_from_an_exact_tag_end_without_root_and_copy_what_is_there(dockerfile: Path) -> None:
    text = dockerfile.read_text(encoding="utf-8")
    (base,) = re.findall(r"^FROM (\S+)$", text, flags=re.MULTILINE)
    name, _, tag = base.rpartition(":")
    assert name
    assert re.search(r"\d", tag)
    assert re.findall(r"^USER (\S+)$", text, flags=re.MULTILINE)[-1] == "kittiwake"
    copied = re.findall(r"^COPY (\S+) ", text, flags=re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    assert f"runtime[{dockerfile.suffix[1:]}]" in text


def test_what_a_jetson_may_not_have_newer_is_what_the_runtime_takes() -> None:
    """jetson/constraints.txt narrows the runtime's own floors, and contradicts none of them."""
    project = (ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8")
    lines = (JETSON / "constraints.txt").read_text(encoding="utf-8").splitlines()
    constraints = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert {constraint.name for constraint in constraints} == {"numpy", "opencv-python-headless"}
    for constraint in constraints:
        (floor,) = set(re.findall(rf'"{constraint.name}>=([\d.]+)', project))
        assert constraint.specifier.contains(floor)
