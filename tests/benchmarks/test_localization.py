"""The benchmark's script: its command line, and how tracks become figures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import localization
import numpy as np
import pytest
from by_rows import Row, Skipped
from localization import ALL, ROWS
from results import Figure
from rows.figures import flight_figures, ncc_figures, share_figure
from rows.north_dakota import ND160, measure_tuned
from rows.run import Run
from rows.trust import measure_all
from scoring import Track

ROOT = Path(__file__).resolve().parents[2]


def tracks(n: int, error_m: float) -> list[Track]:
    column = np.full(50, error_m)
    off = np.stack([column, 0 * column], axis=1)
    converged = np.arange(50) >= 4
    radius = np.full(50, 30.0)
    return [Track((str(i % 4), "x"), off, converged, radius, column / 2, np.full(50, 0.1)) for i in range(n)]


def test_figures_bear_bar_baseline_and_interval() -> None:
    figures = {
        figure.id: figure
        for figure in flight_figures("nd160", ND160, tracks(40, 5.0), "made, bundle b", tracks(8, 12.0))
    }
    assert set(figures) == {f"nd160.{name}" for name in ND160}
    converged = figures["nd160.converged"]
    assert (converged.value, converged.baseline, converged.n, converged.bar) == (100.0, 100.0, 40, ">= 99.5")
    assert figures["nd160.updates"].value == 5.0
    assert (figures["nd160.error_m"].value, figures["nd160.error_m"].baseline) == (5.0, 12.0)
    assert figures["nd160.sigma_ratio"].value == 0.5 and figures["nd160.sigma_ratio"].baseline is None


def test_none_false_comes_with_its_bound() -> None:
    figure = next(f for f in flight_figures("nd160", ND160, tracks(400, 5.0), "") if "false" in f.id)
    assert figure.value == 0 and figure.interval == (0.0, 3.0)
    assert "0 of 400, 95 % bound 0.75 %" in figure.note


def test_a_baselines_own_figures_have_no_bar() -> None:
    figures = ncc_figures("nd160", ND160, tracks(8, 5.0), "key k")
    assert "nd160.converged.ncc" in {figure.id for figure in figures}
    assert not any(figure.id.startswith("nd160.inside95") for figure in figures)
    assert all(figure.bar is None and figure.baseline is None for figure in figures)


def test_where_the_baseline_did_not_fly_there_are_no_figures_of_it() -> None:
    assert ncc_figures("nd160", ND160, [], "key k") == []
    assert all(figure.baseline is None for figure in flight_figures("nd160", ND160, tracks(8, 5.0), "made"))


def test_recall_is_the_mean_over_labels_not_over_queries() -> None:
    figure = share_figure("pairs.recall", [[True] * 300, [False] * 100, [True, False] * 50], bar=">= 40")
    assert (figure.value, figure.n, figure.bar) == (50.0, 500, ">= 40")
    assert figure.interval is not None and figure.interval[0] == 0.0 and figure.interval[1] == 100.0
    alone = share_figure("one", [[True] * 50 + [False] * 50])
    assert alone.value == 50.0 and alone.interval == pytest.approx((40, 60), abs=1.5)  # binomial, 100 trials


def test_false_of_all_rows_is_their_sum() -> None:
    rows = [
        Figure("nd160.false", 0.0, "flights", 400),
        Figure("nd160.false.ncc", 7.0, "flights", 60),
        Figure("kidnap.false", 1.0, "flights", 190),  # within kidnap.late, unless it was forgiven
        Figure("kidnap.late", 1.0, "flights", 200),
        Figure("offmap.entry_false", 0.0, "flights", 100),
        Figure("nd160.converged", 99.0, "%", 400),
    ]
    (figure,) = measure_all(rows, ["snow"])
    assert (figure.id, figure.value, figure.n, figure.bar) == ("all.false", 1.0, 700, "0")
    assert "without snow" in figure.note and "ncc" not in figure.note
    (none,) = measure_all(rows[:1], [])
    assert none.interval == (0.0, 3.0) and "95 % bound 0.75 %" in none.note
    assert measure_all([], ["nd160"]) == []


def test_a_row_without_its_model_is_skipped() -> None:
    with pytest.raises(Skipped, match="--tuned-bundle"):
        measure_tuned(Run(quick=True))


def test_a_row_is_measured_once_for_each_state_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = []

    def measure(run: Run) -> list[Figure]:
        calls.append(run.quick)
        return [Figure("made.false", 0.0, "flights", 10, (0.0, 3.0))]

    monkeypatch.setattr(localization, "CACHE", tmp_path)
    monkeypatch.setattr(localization, "ROWS", {"made": Row(measure, "made")})
    for more, times in (([], 1), ([], 1), (["--again"], 2), (["--flights", "9"], 3)):
        monkeypatch.setattr(sys, "argv", ["localization.py", "--rows", "made,all", "--output", str(tmp_path), *more])
        assert localization.main() == 0
        assert len(calls) == times
    found = {figure["id"]: figure for figure in json.loads((tmp_path / "localization.json").read_text())["figures"]}
    assert found["made.false"]["interval"] == [0.0, 3.0] and found["all.false"]["n"] == 10
    assert "made.false" in capsys.readouterr().out


def test_rows_are_checked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["localization.py", "--rows", "nd160,nowhere"])
    with pytest.raises(SystemExit):
        localization.parse_options()
    assert "no row nowhere" in capsys.readouterr().err


def test_help_names_every_row() -> None:
    shown = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "localization.py", "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(name in shown and row.about in shown for name, row in ROWS.items()) and ALL in shown
    assert "QUICK=1" in shown and "KITTIWAKE_DATA" in shown
