"""`kittiwake power` with a tegrastats of its own on PATH, which prints recorded lines and notes how it was called."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kittiwake_runtime import power_command
from kittiwake_runtime.cli import main

# As in test_tegrastats.py: an Orin Nano Super, JetPack 6.2. The stub puts in the power and the clock.
LINE = (
    "10-08-2026 04:35:02 RAM 6712/7620MB (lfb 12x4MB) SWAP 369/3810MB (cached 8MB) "
    "CPU [38%@1497,2%@729,1%@729,0%@729,1%@729,0%@729] EMC_FREQ 61%@2133 GR3D_FREQ 99%@[612] NVDEC off APE 200 "
    "cpu@57.125C gpu@58.625C tj@58.312C VDD_IN 8000mW/11204mW VDD_CPU_GPU_CV 7104mW/4944mW VDD_SOC 3120mW/3659mW"
)
PRINTS = "while :; do echo '{line}'; sleep 0.05; done"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a program on PATH that notes its arguments in ``calls`` and then runs a script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, script: str) -> Path:
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "{tmp_path}/calls"\n{script}\n')
        path.chmod(0o755)
        return tmp_path / "calls"

    return make


def run(*words: str) -> tuple[int, Any]:
    status = main(["power", "run", "-o", "out/power.json", "--interval-ms", "50", *words])
    return status, json.loads(Path("out/power.json").read_text())


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_command_is_measured(stub: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    calls = stub("tegrastats", PRINTS.format(line=LINE))
    stub("nvpmodel", "printf 'NV Power Mode: MAXN_SUPER\\n2\\n'")
    began = time.time()
    status, result = run("--pinned", "--", "sh", "-c", "sleep 0.6; exit 3")
    elapsed_s = time.time() - began
    assert status == result["status"] == 3
    assert result["power_mode"] == "MAXN_SUPER"
    assert result["command"] == ["sh", "-c", "sleep 0.6; exit 3"]
    assert 0.6 <= result["whole"]["duration_s"] <= elapsed_s
    assert result["whole"]["energy_j"] == pytest.approx(8.0 * result["whole"]["duration_s"])
    assert result["whole"]["gpu"] == {"reference_mhz": 612, "lowest_mhz": 612, "percent": 0.0,
                                      "judged": result["whole"]["samples"]}  # fmt: skip
    assert "tegrastats --interval 50" in calls.read_text()
    said = capsys.readouterr().out
    assert "8.00 W on average" in said
    assert "no throttling" in said
    assert main(["power", "read", "out/power.log", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mean_w"] == pytest.approx(8.0)


BENCH = """
import json, time
began = time.time()
time.sleep(0.4)
window = {"name": "fp16", "began_s": began, "ended_s": time.time(), "inferences": 100}
json.dump({"windows": [window]}, open("bench.json", "w"))
time.sleep(0.4)
"""


def test_joules_an_inference_are_those_of_the_measured_window(
    stub: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stub("tegrastats", PRINTS.format(line=LINE))
    status, result = run("--bench", "bench.json", "--", sys.executable, "-c", BENCH)
    (window,) = result["windows"]
    assert status == 0
    assert window["summary"]["duration_s"] == pytest.approx(0.4, abs=0.2)
    assert window["joules_an_inference"] == pytest.approx(8.0 * window["summary"]["duration_s"] / 100)
    assert result["whole"]["energy_j"] > 1.5 * window["summary"]["energy_j"]
    capsys.readouterr()
    assert main(["power", "table", "out/power.json"]) == 0
    header, rule, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert f"| {window['joules_an_inference']:.4g} |" in row
    assert "fp16" in row


def test_tegrastats_is_stopped_and_as_root_without_a_password(stub: Callable[[str, str], Path], tmp_path: Path) -> None:
    stub("tegrastats", f"echo $$ > '{tmp_path}/pid'; " + PRINTS.format(line=LINE))
    calls = stub("sudo", 'shift; exec "$@"')
    run("--sudo", "--", "sleep", "0.3")
    assert "sudo -n tegrastats --interval 50" in calls.read_text()
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_benchmark_that_says_nothing_of_windows_gives_no_joules_an_inference(
    stub: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stub("tegrastats", PRINTS.format(line=LINE))
    status, result = run("--bench", "bench.json", "--", "sh", "-c", "echo '{}' > bench.json; sleep 0.3")
    assert (status, result["windows"]) == (0, [])
    assert "joules an inference can't be told" in capsys.readouterr().err


def written(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@pytest.mark.parametrize("awaited", ["child", "pid"])  # the command runs; tegrastats has only just been started
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_both(
    number: int, status: int, awaited: str, stub: Callable[[str, str], Path], tmp_path: Path
) -> None:
    stub("tegrastats", f"echo $$ > '{tmp_path}/pid'; sleep 0.3; " + PRINTS.format(line=LINE))
    words = ["power", "run", "--", "sh", "-c", "echo $$ > child; exec sleep 60"]
    with subprocess.Popen(
        [sys.executable, "-m", "kittiwake_runtime", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 20
        while not written(tmp_path / awaited) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
        assert process.returncode == status
        assert "Traceback" not in said
    assert (tmp_path / "child").exists() == (awaited == "child")
    for name in {"pid", awaited}:
        assert not Path(f"/proc/{(tmp_path / name).read_text().strip()}").exists()
    assert not (tmp_path / "power.json").exists()


@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("exit 0", ["--", "true"], "printed nothing: without a word"),
        ("echo 'tegrastats: not permitted' >&2; exit 1", ["--", "true"], "tegrastats: not permitted"),
        ("echo hello; exec sleep 5", ["--", "sleep", "0.1"], "not a line of tegrastats"),
        (PRINTS.format(line=LINE), ["--", "true"], "samples lie in the 0.0 s"),
        (PRINTS.format(line=LINE), ["--", "no-such-command"], "no-such-command: No such file"),
        (PRINTS.format(line=LINE), ["--bench", "none.json", "--", "sleep", "0.2"], "none.json: No such file"),
    ],
)
def test_what_goes_wrong_is_said(
    script: str, words: list[str], message: str, stub: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    stub("tegrastats", script)
    assert main(["power", "run", "--interval-ms", "50", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not Path("power.json").exists()


def test_without_tegrastats_it_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["power", "run", "--", "true"]) == 2
    assert "comes with JetPack" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"windows": 3}',
        '{"windows": [{"name": "a"}]}',
        '{"windows": [{"name": "a", "began_s": 2, "ended_s": 1, "inferences": 5}]}',
        '{"windows": [{"name": "a", "began_s": 1, "ended_s": 2, "inferences": 0}]}',
    ],
)
def test_malformed_windows_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(power_command.TegrastatsError, match=r"bench\.json: its measured windows can't be read"):
        power_command.measured_windows(tmp_path / "bench.json")


@pytest.mark.parametrize("text", ["", "3", "{}", '{"format_version": 2}'])
def test_a_table_of_something_else_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a.json").write_text(text)
    assert main(["power", "table", "a.json"]) == 2
    assert "not what `kittiwake power run` writes" in capsys.readouterr().err


def test_overcurrent_events_are_read_from_the_drivers_counters(tmp_path: Path) -> None:
    hwmon = tmp_path / "sys/class/hwmon"
    for name, text in {
        "hwmon3/oc1_event_cnt": "0\n",
        "hwmon3/oc3_event_cnt": "37\n",
        "hwmon1/name": "ina3221\n",
    }.items():
        (hwmon / name).parent.mkdir(parents=True, exist_ok=True)
        (hwmon / name).write_text(text)
    assert power_command.overcurrent_events(tmp_path) == {"oc1": 0, "oc3": 37}
