"""The benchmark's script: its command line, and how tracks become figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import localization
import numpy as np
import pytest
from flights import Place, Raster
from localization import ND160, ROWS, flight_figures
from scoring import Track

ROOT = Path(__file__).resolve().parents[2]
PLACE = Place("made", {"2009-01-01": Raster(np.zeros((9, 9), np.float32), 0.0, 45.0, 5.0)}, ())


def tracks(n: int, error_m: float) -> list[Track]:
    column = np.full(50, error_m)
    converged = np.arange(50) >= 4
    radius = np.full(50, 30.0)
    return [Track((str(i % 4), "x"), column, converged, radius, column / 2, np.full(50, 0.1)) for i in range(n)]


def test_figures_bear_bar_baseline_and_interval() -> None:
    figures = {
        figure.id: figure
        for figure in flight_figures("nd160", ND160, tracks(40, 5.0), PLACE, "bundle b", tracks(8, 12.0))
    }
    assert set(figures) == {f"nd160.{name}" for name in ND160}
    converged = figures["nd160.converged"]
    assert (converged.value, converged.baseline, converged.n, converged.bar) == (100.0, 100.0, 40, ">= 99.5")
    assert figures["nd160.updates"].value == 5.0
    assert (figures["nd160.error_m"].value, figures["nd160.error_m"].baseline) == (5.0, 12.0)
    assert figures["nd160.sigma_ratio"].value == 0.5 and figures["nd160.sigma_ratio"].baseline is None


def test_none_false_comes_with_its_bound() -> None:
    figure = next(f for f in flight_figures("nd160", ND160, tracks(400, 5.0), PLACE, "") if "false" in f.id)
    assert figure.value == 0 and figure.interval == (0.0, 3.0)
    assert "0 of 400, 95 % bound 0.75 %" in figure.note


def test_a_baselines_own_figures_have_no_bar() -> None:
    figures = flight_figures("nd160", ND160, tracks(8, 5.0), PLACE, "key k", suffix=".ncc")
    assert "nd160.converged.ncc" in {figure.id for figure in figures}
    assert not any(figure.id.startswith("nd160.inside95") for figure in figures)
    assert all(figure.bar is None and figure.baseline is None for figure in figures)


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
    assert all(name in shown and row.about in shown for name, row in ROWS.items())
    assert "QUICK=1" in shown and "KITTIWAKE_DATA" in shown
