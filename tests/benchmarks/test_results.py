"""The results' format, as docs/architecture.md states it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import results
from results import Figure, write_results

FIGURES = [
    Figure("nd160.converged", 99.123456, "%", 400, (98.0, 100.0), ">= 99.5", 50.0, "naip_nd", "declared"),
    Figure("nd160.error_m", None, "m", note="nothing converged"),
]


def test_fields_are_those_of_the_architecture(tmp_path: Path) -> None:
    path = write_results("demo", FIGURES, command="python x.py", seed=5, directory=tmp_path)
    report = json.loads(path.read_text())
    assert list(report) == ["benchmark", "command", "date", "machine", "versions", "seed", "figures"]
    assert (report["benchmark"], report["command"], report["seed"]) == ("demo", "python x.py", 5)
    first = report["figures"][0]
    assert list(first) == ["id", "value", "unit", "n", "interval", "bar", "baseline", "data", "note"]
    assert first["value"] == 99.12 and first["interval"] == [98.0, 100.0]
    assert report["figures"][1]["value"] is None
    assert {"cpu", "cores", "memory", "system"} <= set(report["machine"])
    assert {"python", "numpy"} <= set(report["versions"])


def test_other_figures_stay_and_known_ones_are_replaced_in_place(tmp_path: Path) -> None:
    write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    again = [Figure("nd160.converged", 100.0, "%"), Figure("speed.update_s", 0.1, "s")]
    path = write_results("demo", again, command="b", seed=5, directory=tmp_path)
    found = {figure["id"]: figure["value"] for figure in json.loads(path.read_text())["figures"]}
    assert found == {"nd160.converged": 100.0, "nd160.error_m": None, "speed.update_s": 0.1}
    assert list(found) == ["nd160.converged", "nd160.error_m", "speed.update_s"]


def test_table_shows_value_interval_bar_and_baseline(tmp_path: Path) -> None:
    path = write_results("demo", FIGURES, command="a", seed=5, directory=tmp_path)
    table = path.with_suffix(".md").read_text()
    assert "| `nd160.converged` | 99.12 % | 98 – 100 | 400 | >= 99.5 | 50 |" in table
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
