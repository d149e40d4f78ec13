"""benchmark.sh: what it measures, what it does to the board, and that the board is left as it was found, always."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# `kittiwake`, whose `bench` is played: it takes half a second and says when it measured.
KITTIWAKE = """
[[ "$1" != bench ]] || exec "{python}" "{folder}/bin/bench.py" "$@"
exec "{python}" -m kittiwake_runtime "$@"
"""
BENCH = """
import json, pathlib, sys, time
began = time.time()
pathlib.Path({folder!r}, "root", "benching").touch()
time.sleep({seconds})
window = dict(name="fp16", began_s=began, ended_s=time.time(), inferences=50)
pathlib.Path(sys.argv[sys.argv.index("-o") + 1]).write_text(json.dumps(dict(windows=[window])))
sys.exit({status})
"""


def bench(board: Any, seconds: float = 0.4, status: int = 0) -> None:
    board.program("kittiwake", KITTIWAKE.format(folder=board.folder, python=sys.executable))
    script = BENCH.format(folder=str(board.folder), seconds=seconds, status=status)
    (board.folder / "bin" / "bench.py").write_text(script)


@pytest.fixture
def ready(board: Any) -> Any:
    """The board with a benchmark of half a second."""
    (board.folder / "bin" / "python3").unlink()
    bench(board)
    return board


def mode(board: Any) -> str:
    return str((board.folder / "root" / "mode").read_text().strip())


def test_the_present_mode_without_root(ready: Any, tmp_path: Path) -> None:
    done = ready.run("benchmark.sh", "--settle-s", "0", "--backend", "cpu", "a")
    assert done.returncode == 0, done.stderr
    assert ready.calls("sudo", "jetson_clocks") == []
    assert not any(" -m " in call for call in ready.calls("nvpmodel"))
    power = json.loads((tmp_path / "out/jetson/a-cpu-25W.power.json").read_text())
    assert power["power_mode"] == "25W"
    assert power["pinned"] is False
    (window,) = power["windows"]
    assert window["joules_an_inference"] == pytest.approx(8.0 * window["summary"]["duration_s"] / 50)
    table = (tmp_path / "out/jetson/table.md").read_text()
    assert table.splitlines()[2].startswith("| a-cpu-25W, fp16 | 25W | ")
    assert table in done.stdout


def test_all_modes_with_pinned_clocks_and_everything_is_put_back(ready: Any, tmp_path: Path) -> None:
    done = ready.run(
        "benchmark.sh",
        "--allow-root",
        "--modes",
        "all",
        "--pin",
        "--settle-s",
        "0",
        "--backend",
        "tensorrt:fp16",
        "--backend",
        "cpu",
        "a",
    )
    assert done.returncode == 0, done.stderr
    changes = [call for call in ready.calls("nvpmodel", "jetson_clocks") if "-q" not in call and "-p" not in call]
    assert [call.partition(" /")[0] for call in changes] == [
        "jetson_clocks --store",
        "nvpmodel -m 0",
        "jetson_clocks ",
        "nvpmodel -m 1",
        "jetson_clocks ",
        "nvpmodel -m 2",  # which wants a reboot, and gets none
        "jetson_clocks --restore",
    ]
    assert changes[0].split()[-1] == changes[-1].split()[-1]
    assert "power mode 2 is passed over" in done.stdout
    assert not (tmp_path / "root/mode.rebooted").exists()
    assert mode(ready) == "1"
    runs = {f"a-{backend}-{name}.power.json" for backend in ("tensorrt-fp16", "cpu") for name in ("15W", "25W")}
    written = {path.name for path in (tmp_path / "out/jetson").glob("*.power.json")}
    assert written == runs
    assert all(json.loads((tmp_path / "out/jetson" / name).read_text())["pinned"] for name in runs)
    benches = [call for call in ready.calls("kittiwake") if call.startswith("kittiwake bench")]
    assert benches[0].startswith("kittiwake bench a --backend tensorrt:fp16 -o ")
    assert any(call.startswith("sudo -n tegrastats") for call in ready.calls("sudo"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("to_group", [True, False])
def test_an_interrupt_restores_mode_and_clocks(number: int, to_group: bool, ready: Any, tmp_path: Path) -> None:
    bench(ready, seconds=60)
    process = ready.start("benchmark.sh", "--allow-root", "--modes", "0 1", "--pin", "--settle-s", "0", "a")
    deadline = time.monotonic() + 30
    while not (tmp_path / "root/benching").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mode(ready) == "0"
    if to_group:  # as a terminal does
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else 143)
    assert mode(ready) == "1"
    assert ready.calls("jetson_clocks")[-1].startswith("jetson_clocks --restore ")


def test_a_benchmark_that_fails_is_said_and_the_rest_goes_on(ready: Any, tmp_path: Path) -> None:
    bench(ready, status=2)
    done = ready.run("benchmark.sh", "--allow-root", "--modes", "0", "--settle-s", "0", "--backend", "cpu", "a", "b")
    assert done.returncode == 1
    assert "error: not measured: a-cpu-15W b-cpu-15W" in done.stderr
    assert mode(ready) == "1"


def test_the_board_is_not_changed_without_leave(ready: Any) -> None:
    for words in (["--pin"], ["--modes", "0"]):
        done = ready.run("benchmark.sh", *words, "a")
        assert done.returncode == 2
        assert "--allow-root" in done.stderr
    assert ready.calls() == []


def test_a_dry_run_changes_nothing(ready: Any, tmp_path: Path) -> None:
    done = ready.run("benchmark.sh", "--dry-run", "--allow-root", "--modes", "all", "--pin", "a")
    assert done.returncode == 0, done.stderr
    assert ready.calls("sudo", "jetson_clocks", "tegrastats", "kittiwake") == []
    assert not (tmp_path / "out").exists()
    assert mode(ready) == "1"
    assert "sudo -n nvpmodel -m 0" in done.stdout


def test_a_board_without_power_modes_is_measured_as_it_is(ready: Any, tmp_path: Path) -> None:
    ready.program("nvpmodel", "exit 1")
    done = ready.run("benchmark.sh", "--settle-s", "0", "--backend", "cpu", "a")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/jetson/a-cpu-unknown.power.json").exists()
    refused = ready.run("benchmark.sh", "--allow-root", "--modes", "all", "a")
    assert refused.returncode == 2
    assert "nvpmodel does not tell the power mode" in refused.stderr
