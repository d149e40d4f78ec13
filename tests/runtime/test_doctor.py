"""The doctor against recorded files of a Jetson, and against packages that are wrong in every way."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest

from kittiwake_runtime import Bundle, doctor
from kittiwake_runtime.cli import main
from kittiwake_runtime.doctor import Finding, Requirement, examine


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    """A Jetson Orin Nano of JetPack 6.2, as far as its files tell."""
    files = {
        "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 62.50\n",
        "proc/meminfo": "MemTotal:        7802784 kB\nMemFree:          521336 kB\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_jetson_is_recognized(jetson: Path) -> None:
    found = by_name(examine(jetson))
    assert found["board"].value == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found["L4T"].value == "36.4.3"
    assert found["JetPack"].value == "6"
    assert found["memory"].value == "7.4 GiB"


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [("# R39 (release), REVISION: 1.0,", "7.2"), ("# R38 (release), REVISION: 2.0,", "7.0 or 7.1"),
     ("# R99 (release), REVISION: 1.0,", "unknown to this version")],
)  # fmt: skip
def test_other_jetpacks(jetson: Path, release: str, jetpack: str) -> None:
    (jetson / "etc/nv_tegra_release").write_text(release)
    assert by_name(examine(jetson))["JetPack"].value == jetpack


def test_a_machine_without_these_files_is_no_error(tmp_path: Path) -> None:
    found = by_name(examine(tmp_path))
    assert "board" not in found
    assert found["CPU"].value


def test_packages_that_are_missing_old_or_broken_come_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "old_package.py").write_text("__version__ = '1.9.11'\n")
    (tmp_path / "new_package.py").write_text("__version__ = '1.10.0'\n")
    (tmp_path / "broken_package.py").write_text("raise ImportError('wrong ELF class')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("absent", "old", "new", "broken")
    monkeypatch.setattr(doctor, "REQUIREMENTS", tuple(Requirement(f"{name}_package", name, "1.10") for name in names))
    found = by_name(examine(tmp_path))
    assert [found[name].status for name in names] == ["problem", "problem", "ok", "problem"]
    assert found["absent"].value == "not installed"
    assert found["absent"].mend == f"{sys.executable} -m pip install --upgrade 'absent>=1.10'"
    assert found["old"].value == "1.9.11, older than 1.10"
    assert "wrong ELF class" in found["broken"].value


def test_it_asks_for_what_the_package_declares() -> None:
    pyproject = Path(__file__).parents[2] / "runtime" / "pyproject.toml"
    declared = re.search(r"^dependencies = \[(.*?)\]", pyproject.read_text(), re.MULTILINE | re.DOTALL)
    assert declared
    asked = {f"{wanted.distribution}>={wanted.least}" for wanted in doctor.REQUIREMENTS}
    assert asked == set(re.findall(r'"(.+?)"', declared[1]))


def test_a_gpu_that_lies_idle_is_advice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answer = SimpleNamespace(stdout="NVIDIA H200, 9.0, 143771 MiB, 580.95.05\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: answer)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    found = by_name(examine(tmp_path))
    assert found["NVIDIA GPU"].value == "NVIDIA H200, 9.0, 143771 MiB, 580.95.05"
    assert found["CUDA"].status == "advice"
    assert "pip install onnxruntime-gpu" in found["CUDA"].mend


def test_it_prints_for_people_and_for_machines(
    make_bundle: Callable[..., Bundle], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kittiwake_runtime.bundle.MODELS_PACKAGE", "no_such_package")
    root = make_bundle().root
    monkeypatch.setenv("KITTIWAKE_MODELS", str(root.parent))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "twice" in text
    assert text.endswith("ready\n")

    (root / "card.md").write_text("altered")
    assert main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    problems = [finding for finding in report["findings"] if finding["status"] == "problem"]
    assert [finding["name"] for finding in problems] == ["twice"]
    assert "card.md: altered" in problems[0]["value"]
    assert problems[0]["mend"]
