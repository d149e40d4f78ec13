"""The results' format, as docs/architecture.md states it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import results
from results import Figure, merge_results, write_results

FIGURES = [
    Figure("nd160.converged", 99.123456, "%", 400, (98.0, 100.0), ">= 99.5", 50.0, "naip_nd", "declared"),
    Figure("nd160.error_m", None, "m", note="nothing converged"),
]


def test_fields_are_those_of_the_architecture(tmp_path: Path) -> None:
    path = write_results("demo", FIGURES, command="python x.py", seed=5, directory=tmp_path)
    report = json.loads(path.read_text())
    assert list(report) == ["benchmark", "runs", "figures"]
    (run,) = report["runs"]
    assert list(run) == ["command", "date", "machine", "versions", "seed"]
    assert (report["benchmark"], run["command"], run["seed"]) == ("demo", "python x.py", 5)
    first = report["figures"][0]
    assert list(first) == ["id", "value", "unit", "n", "interval", "bar", "baseline", "data", "note", "run"]
    assert first["value"] == 99.12 and first["interval"] == [98.0, 100.0]
    assert report["figures"][1]["value"] is None
    assert {"cpu", "cores", "memory", "system"} <= set(run["machine"])
    assert {"python", "numpy"} <= set(run["versions"])


def test_other_figures_stay_and_known_ones_are_replaced_in_place(tmp_path: Path) -> None:
    write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    again = [Figure("nd160.converged", 100.0, "%"), Figure("speed.update_s", 0.1, "s")]
    path = write_results("demo", again, command="b", seed=5, directory=tmp_path)
    found = {figure["id"]: figure["value"] for figure in json.loads(path.read_text())["figures"]}
    assert found == {"nd160.converged": 100.0, "nd160.error_m": None, "speed.update_s": 0.1}
    assert list(found) == ["nd160.converged", "nd160.error_m", "speed.update_s"]


def test_every_figure_keeps_the_run_that_measured_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    monkeypatch.setattr(results, "machine", lambda: {"cpu": "another one"})
    path = write_results("demo", [Figure("nd160.error_m", 4.0, "m")], command="b", seed=6, directory=tmp_path)
    report = json.loads(path.read_text())
    commands = {figure["id"]: report["runs"][figure["run"]]["command"] for figure in report["figures"]}
    assert commands == {"nd160.converged": "a", "nd160.error_m": "b"}
    page = path.with_suffix(".md").read_text()
    assert "| 4 m |  |  |  |  | 2 |" in page
    assert "`b`, seed 6. another one." in page
    path = write_results("demo", [Figure("nd160.converged", 1.0)], command="c", seed=7, directory=tmp_path)
    assert {run["command"] for run in json.loads(path.read_text())["runs"]} == {"b", "c"}, "a is no figure's any more"


def test_another_machines_figures_come_with_their_runs(tmp_path: Path) -> None:
    write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    there = write_results(
        "demo", [Figure("gpu.x", 2.0, "x", interval=(1.0, 3.0))], command="g", seed=1, directory=tmp_path / "g"
    )
    assert merge_results(there, tmp_path / "demo.json") == [Figure("gpu.x", 2.0, "x", interval=(1.0, 3.0))]
    report = json.loads((tmp_path / "demo.json").read_text())
    assert {figure["id"]: report["runs"][figure["run"]]["command"] for figure in report["figures"]} == {
        "nd160.converged": "a",
        "nd160.error_m": "a",
        "gpu.x": "g",
    }


def test_table_shows_value_interval_bar_and_baseline(tmp_path: Path) -> None:
    path = write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    table = path.with_suffix(".md").read_text()
    assert "| `nd160.converged` | 99.12 % | 98 – 100 | 400 | >= 99.5 | 50 | 1 |" in table
    assert "| `nd160.error_m` | not measured |" in table


def test_an_interrupted_write_leaves_the_last_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    before = path.read_text()

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(results.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_results("demo", [Figure("nd160.converged", 1.0)], command="b", seed=5, directory=tmp_path)
    assert path.read_text() == before


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_results("demo", [Figure("x", float("nan"))], command="a", seed=1, directory=tmp_path)


def test_the_command_tells_nothing_of_this_machines_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    root, far = results.RESULTS_DIR.parent.parent, Path("/") / "far" / "places"
    words = [str(root / "benchmarks" / "x.py"), "--rows", "a,b", "--data", str(far), str(root / "out/a")]
    monkeypatch.setattr(results.sys, "argv", words)
    assert results.command_line() == "python benchmarks/x.py --rows a,b --data places out/a"


@pytest.mark.parametrize(
    ("bar", "reaching", "missing"),
    [
        (">= 99.5", 99.5, 99.49),
        ("<= 1e-5", 1e-5, 1.1e-5),
        ("< 1", 0.9, 1.0),
        ("0", 0.0, 1.0),
        ("90 - 98", 98.0, 89.9),
        ("0.7-1.3", 0.7, 1.31),
        (">= 200 and all (362)", 362.0, 199.0),
    ],
)
def test_a_bar_is_read_as_it_is_meant(bar: str, reaching: float, missing: float) -> None:
    assert results.is_reached(reaching, bar) is True
    assert results.is_reached(missing, bar) is False


@pytest.mark.parametrize("bar", ["all", ">= the baseline", "<= 3 % or 30 us"])
def test_a_bar_in_words_is_left_to_the_reader(bar: str) -> None:
    assert results.is_reached(1.0, bar) is None


def test_the_page_names_what_misses_its_bar_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(results.UNREACHED, "nd160.converged", "The fields changed.")
    extra = [Figure("all.false", 3.0, "flights", bar="0"), Figure("speed.track_s", 0.04, "s", bar="<= 0.05")]
    path = write_results("demo", [*FIGURES, *extra], command="a", seed=5, directory=tmp_path)
    page = path.with_suffix(".md").read_text()
    part = page.split("## Bars that are not reached")[1].split("##")[0]
    assert "- `nd160.converged`: 99.12 %, bar >= 99.5. The fields changed." in part
    assert "- `all.false`: 3 flights, bar 0." in part and "speed.track_s" not in part
