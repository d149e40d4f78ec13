"""`kittiwake bench` from end to end, in the process of the test and in fresh ones."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from kittiwake_runtime import Bundle, EngineError
from kittiwake_runtime.bench.cold_start import start_cold
from kittiwake_runtime.bench.compare import changes, compare, unlike
from kittiwake_runtime.bench.results import read_result
from kittiwake_runtime.cli import main

Make = Callable[..., Bundle]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of a shipped bundle and of its twin under another name and of another task."""
    folder = tmp_path_factory.mktemp("bench")
    twin = folder / "twin"
    shutil.copytree(Bundle.open("localization-gradients").root, twin)
    manifest = json.loads((twin / "manifest.json").read_text())
    (twin / "manifest.json").write_text(json.dumps({**manifest, "name": "twin", "task": "test.alone"}))
    words = ["bench", str(twin), "--backend", "cpu:fp32", "--samples", "70", "--threads", "1"]
    assert main([*words, "--vs", "localization-gradients", "-o", str(folder / "a.json")]) == 0
    return folder / "a.json"


@pytest.fixture
def result(run: Path) -> dict[str, Any]:
    return read_result(run)


def test_the_file_says_what_ran_where(result: dict[str, Any], run: Path) -> None:
    twin, other = result["contenders"]
    assert twin["label"] == "twin cpu:fp32"
    assert twin["bundle_sha256"] == hashlib.sha256((run.parent / "twin" / "manifest.json").read_bytes()).hexdigest()
    assert twin["file_sha256"] == hashlib.sha256((run.parent / "twin" / "model.onnx").read_bytes()).hexdigest()
    assert (twin["threads"], twin["providers"], twin["reasons"]) == (1, ["CPUExecutionProvider"], [])
    assert set(twin["stages"]) == {"infer"}
    assert set(other["stages"]) == {"pre", "infer", "post", "end_to_end"}
    infer = twin["stages"]["infer"]
    assert infer["n"] == 70
    assert 0 < infer["median"] <= infer["p90"]["value"] <= infer["p90"]["bound"]
    assert infer["p99"]["value"] is None
    assert "takes at least 459" in infer["p99"]["refused"]
    assert 10 < twin["cold_start"]["peak_rss_mb"] < 1000
    assert result["machine"]["cores"] >= 1
    assert result["versions"]["numpy"] == np.__version__
    (found,) = result["ratios"]
    assert (found["label"], found["vs"], found["stage"]) == ("twin cpu:fp32", other["label"], "infer")
    assert 0.3 < found["value"] < 3  # the same network
    page = run.with_suffix(".md").read_text()
    assert "| twin cpu:fp32 | infer |" in page
    assert "too few samples" in page
    assert cv2.imread(str(run.with_suffix(".png"))).shape == (560, 900, 3)
    assert sorted(path.name for path in run.parent.iterdir()) == ["a.json", "a.md", "a.png", "twin"]


def test_a_monitor_beside_it_learns_when_each_stream_ran(result: dict[str, Any], run: Path) -> None:
    from kittiwake_runtime.power_command import measured_windows

    windows = measured_windows(run)
    assert [window["name"] for window in windows] == [contender["label"] for contender in result["contenders"]]
    assert all(window["ended_s"] - window["began_s"] >= 1 for window in windows)
    assert windows[0]["ended_s"] <= windows[1]["began_s"]


def test_like_runs_are_compared(
    result: dict[str, Any], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slower = copy.deepcopy(result)
    stage = slower["contenders"][0]["stages"]["infer"]
    stage["median"] *= 3
    stage["interval"] = [3 * bound for bound in stage["interval"]]
    slower["versions"]["onnxruntime"] = "0.1"
    (tmp_path / "b.json").write_text(json.dumps(slower))
    assert main(["bench", "compare", str(run), str(tmp_path / "b.json")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "x 3.000" in lines[0]
    assert lines[0].endswith("slower")
    assert lines[1].endswith("no difference")
    assert lines[-1].startswith("differs: onnxruntime")
    assert compare(slower, result)[0].verdict == "faster"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: r["machine"].update(cpu="Cortex-A78AE"), "cpu is '.*' and 'Cortex-A78AE'"),
        (lambda r: r["machine"].update(power_mode="15W"), "power_mode is not told and '15W'"),
        (lambda r: r["machine"].update(governor="powersave"), "governor is .* and 'powersave'"),
        (lambda r: r["contenders"][0].update(threads=8), "threads of twin cpu:fp32 is 1 and 8"),
        (lambda r: r["contenders"][0].update(workload="more"), "workload of twin cpu:fp32"),
        (lambda r: r["state_before"].update(temperatures_c={"tj": 71.0}), "they began at 45 and 71 °C of tj"),
        (lambda r: [entry.update(label="x") for entry in r["contenders"]], "the runs share no contender"),
    ],
)
def test_unlike_runs_are_refused(result: dict[str, Any], change: Callable[[Any], object], reason: str) -> None:
    result["state_before"]["temperatures_c"] = {"tj": 45.0}
    result["machine"]["power_mode"] = ""
    other = copy.deepcopy(result)
    assert unlike(result, other) == []
    change(other)
    with pytest.raises(EngineError, match=reason):
        compare(result, other)


def test_another_network_is_a_change_not_a_refusal(result: dict[str, Any]) -> None:
    other = copy.deepcopy(result)
    other["contenders"][0]["file_sha256"] = "0" * 64
    assert unlike(result, other) == []
    assert changes(result, other) == ["twin cpu:fp32: another model.onnx"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["NAME", "--backend", "gpu"], "--backend is 'gpu'; expected DEVICE or DEVICE:PRECISION"),
        (["NAME", "--backend", "cpu:fp12"], "--backend is 'cpu:fp12'"),
        (["NAME", "--backend", "cpu", "--vs", "cpu:fp32"], "is to be measured twice"),
        (["NAME", "--backend", "cpu:int8"], "has no int8 variant"),
        (["NAME", "--backend", "cpu", "--samples", "0"], "0 samples are asked for"),
        (["NAME", "-o", "there.txt"], "expected a name that ends in .json"),
        (["nobody"], "no bundle is called nobody"),
        (["compare", "one.json"], "1 results are given"),
        (["compare", "absent.json", "absent.json"], "absent.json: No such file"),
    ],
)
def test_mistakes_are_one_line(
    make_bundle: Make, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    root = str(make_bundle().root)
    assert main(["bench", *(root if word == "NAME" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_another_file_is_no_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.json").write_text('{"figures": []}')
    assert main(["bench", "compare", str(tmp_path / "a.json"), str(tmp_path / "a.json")]) == 2
    assert "not a result of `kittiwake bench`" in capsys.readouterr().err


def test_a_fresh_process_that_fails_says_why(make_bundle: Make) -> None:
    bundle = make_bundle()
    assert start_cold(bundle.root, "cpu", "fp32", 1).first_result_s < 30
    with pytest.raises(EngineError, match="twice has no int8 variant"):
        start_cold(bundle.root, "cpu", "int8")
