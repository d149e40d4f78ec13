"""`kittiwake demo --quick`: everything in small, as a newcomer runs it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from kittiwake_runtime.cli import main
from kittiwake_runtime.localization.map_index import MapIndex


@pytest.mark.slow
def test_the_demo_finds_itself_and_leaves_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--quick", "-o", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    lines = [line for line in told if line.startswith("update")]
    assert len(lines) == 15
    assert all("spread" in line and "error" in line and " ms" in line for line in lines), "state, spread, error, time"
    known = r"is known to [\d.]+ (m|degrees) only$"
    why = re.compile(rf"several places fit \(spread \d+ m\)$|{known}|waiting|fits here badly \(")
    assert all(why.search(line) for line in lines if "searching" in line), "why it is not found"
    assert told[-1] == f"report: {tmp_path / 'report.html'}"

    expected = {"map.tif", "area.kwmap", "track.csv", "track.geojson", "track.png", "belief.png", "report.html"}
    assert {path.name for path in tmp_path.iterdir()} == expected
    with MapIndex.open(tmp_path / "area.kwmap") as index:
        west, south, east, north = index.bounds_m
        assert (east - west, north - south) == pytest.approx((2000, 2000), abs=index.cell_m)
        assert index.source == "procedural world 7"
    with (tmp_path / "track.csv").open(newline="") as file:
        states = [row["state"] for row in csv.DictReader(file)]
    believed = [line for line in lines if "converged" in line]
    assert states.count("converged") == len(believed) > 0, "found under snow on a map of summer"
    errors_m = [float(line.partition(" error ")[2].split()[0]) for line in believed]
    assert max(errors_m) < 60
    points = [f for f in json.loads((tmp_path / "track.geojson").read_text())["features"]
              if f["geometry"]["type"] == "Point"]  # fmt: skip
    assert len(points) == len(believed)

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "http" not in page and page.count("<img ") == 6 and page.count("<polyline ") == 2
    for words in ("4 km²", "winter", "onnxruntime", "orthorectify"):
        assert words in page
    (told_median,) = re.findall(r"([0-9.]+) m median", page)
    assert float(told_median) == pytest.approx(np.median(errors_m), abs=0.11)  # both are rounded
    track = cv2.imread(str(tmp_path / "track.png"))
    assert track is not None and track.shape == (900, 900, 3)


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--quick", "-o", str(tmp_path / "out"), "--bundle", "no-such-model"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ") and "no-such-model" in error and hint.startswith("hint: ")
    assert not (tmp_path / "out").exists()
