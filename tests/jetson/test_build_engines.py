"""build_engines.sh: all bundles one after the other, and when it refuses to begin."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUNDLES = sorted(path.parent.name for path in ROOT.glob("models/kittiwake_models/*/manifest.json"))

# `kittiwake`, of which building and listing engines are noted alone: that takes a GPU.
KITTIWAKE = """
case "$1 $2" in
    "engine build") [[ "$3" != "{broken}" ]] || {{ echo "error: {broken} has no luck" >&2; exit 2; }} ;;
    "engine list") echo "all the engines" ;;
    *) exec "{python}" -m kittiwake_runtime "$@" ;;
esac
"""


@pytest.fixture
def idle(board: Any) -> Any:
    """The board with a GPU that has nothing to do."""
    board.tegrastats(load=0)
    (board.folder / "bin" / "python3").unlink()
    board.program("kittiwake", KITTIWAKE.format(python=sys.executable, broken="no-such"))
    return board


def test_every_bundle_is_built_in_turn(idle: Any) -> None:
    done = idle.run("build_engines.sh")
    assert done.returncode == 0, done.stderr
    assert idle.calls("kittiwake")[2:] == [
        *(f"kittiwake engine build {name} --precision all" for name in BUNDLES),
        "kittiwake engine list",
    ]
    assert f"[{len(BUNDLES)}/{len(BUNDLES)}] {BUNDLES[-1]}" in done.stdout
    assert "GPU load 0 %" in done.stdout
    assert "all the engines" in done.stdout


def test_a_bundle_that_fails_does_not_stop_the_others(idle: Any) -> None:
    idle.program("kittiwake", KITTIWAKE.format(python=sys.executable, broken="b"))
    done = idle.run("build_engines.sh", "--precision", "fp16", "a", "b", "c")
    assert done.returncode == 1
    builds = [call for call in idle.calls("kittiwake") if "engine build" in call]
    assert builds == [f"kittiwake engine build {name} --precision fp16" for name in "abc"]
    assert "error: not built: b\n" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b.tegrastats(load=57), "the GPU is busy (57 %)"),
        (lambda b: b.write("proc/meminfo", "MemAvailable: 1048576 kB\n"), "1024 MiB of memory are available"),
        (lambda b: b.program("df", "printf 'Filesystem\\n/dev/a 9 9 1048576\\n'"), "1024 MiB are free"),
    ],
)
def test_it_refuses_unless_it_is_forced(change: Any, message: str, idle: Any) -> None:
    change(idle)
    done = idle.run("build_engines.sh", "a")
    assert done.returncode == 2
    assert f"{message}" in done.stderr
    assert "or --force" in done.stderr
    assert not any("engine build" in call for call in idle.calls())
    forced = idle.run("build_engines.sh", "--force", "a")
    assert forced.returncode == 0, forced.stderr
    assert f"{message}" in forced.stdout
    assert any("engine build a" in call for call in idle.calls())


def test_where_tegrastats_tells_no_load_nvidia_smi_is_asked(idle: Any) -> None:
    idle.program("tegrastats", "exit 1")
    idle.program("nvidia-smi", "echo 83")
    assert "the GPU is busy (83 %)" in idle.run("build_engines.sh", "a").stderr
    idle.program("nvidia-smi", "exit 9")
    assert "nothing tells the GPU's load" in idle.run("build_engines.sh", "a").stdout


def test_a_dry_run_starts_nothing(idle: Any) -> None:
    done = idle.run("build_engines.sh", "--dry-run", "a")
    assert done.returncode == 0, done.stderr
    assert idle.calls("kittiwake", "tegrastats") == []
    assert done.stdout.endswith("engine list\n")


def test_without_an_installation_it_says_what_to_run(board: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    monkeypatch.setenv("PATH", os.pathsep.join(["/usr/bin", "/bin"]))
    done = board.run("build_engines.sh")
    assert done.returncode == 2
    assert "hint: run jetson/install.sh" in done.stderr
