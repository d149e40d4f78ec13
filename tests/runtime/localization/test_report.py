"""The page of a flight: parsed as a browser would, with nothing to fetch."""

from __future__ import annotations

import base64
import itertools
import math
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.outputs import Fix, State
from kittiwake_runtime.localization.pictures import Canvas
from kittiwake_runtime.localization.report import Update, error_chart, five_moments, write_report

GRID = Grid.from_crs("EPSG:32633")
EAST_M, NORTH_M = 500_500.0, 5_999_500.0
VOID = {"meta", "img", "line", "rect", "polyline"}
OPTIONAL_END = {"html", "p", "dt", "dd"}


class Page(HTMLParser):
    """Elements in order, what they say, and whether they are nested as they should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert [tag for tag in self.open if tag not in OPTIONAL_END] == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open}"
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def said(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def update(i: int, state: State, std_m: float, error_m: float | None, reason: str = "") -> Update:
    fix = Fix(
        time_s=float(i), easting_m=EAST_M + 10 * i + (error_m or 0), northing_m=NORTH_M, heading_rad=0.0,
        covariance=np.eye(2) * std_m**2, position_std_m=math.sqrt(2) * std_m, heading_std_rad=0.1, state=state,
        source="map_matched", age_s=0.0, distance_since_match_m=0.0, elsewhere=1e-3,
        evidence=math.nan if i == 0 else 2.5, reason=reason, grid=GRID, stages_ms={"predict": 3.0, "match": 40.0 + i},
    )  # fmt: skip
    belief = np.full((60, 60), 1e-6, np.float32)
    belief[30, 10 + i] = 0.9
    truth = None if error_m is None else (EAST_M + 10 * i, NORTH_M)
    return Update(fix, belief, truth, {"orthorectify": 2.0, **fix.stages_ms})


def flight(truth: bool = True) -> list[Update]:
    errors = (400.0, 250.0, 90.0, 8.0, 6.0, 5.0, 7.0, 4.0)
    spreads = (300.0, 280.0, 100.0, 9.0, 8.0, 8.0, 8.0, 8.0)
    return [
        update(i, "converged" if i >= 3 else "searching", std, error if truth else None, "" if i else "<several & fit>")
        for i, (error, std) in enumerate(zip(errors, spreads, strict=True))
    ]


@pytest.fixture
def canvas() -> Canvas:
    ground = np.random.default_rng(0).integers(60, 120, (60, 60, 3), dtype=np.uint8)
    return Canvas(ground, EAST_M - 100, NORTH_M + 150, 5.0)


def written(folder: Path, canvas: Canvas, updates: Sequence[Update]) -> tuple[str, Page]:
    path = write_report(folder, canvas, updates, title="A <flight>", facts={"index": "2 MB & more"})
    assert path == folder / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_holds_all_that_it_shows(tmp_path: Path, canvas: Canvas) -> None:
    text, page = written(tmp_path / "new", canvas, flight())
    links = [value for _, attrs in page.elements for key, value in attrs.items() if key in ("src", "href", "data")]
    assert links and all((link or "").startswith("data:image/jpeg;base64,") for link in links)
    assert "http" not in text and "url(" not in text and "@import" not in text and not page.all("script")
    pictures = [_decoded(attrs["src"] or "") for attrs in page.all("img")]
    assert len(pictures) == 6, "the map with the track, and five beliefs"
    assert pictures[0].shape == canvas.image.shape
    beliefs = cv2.imread(str(tmp_path / "new" / "belief.png"))
    assert beliefs is not None and beliefs.shape == (300, 1500, 3)
    for i, picture in enumerate(pictures[1:]):
        assert np.abs(picture.astype(int) - beliefs[:, 300 * i : 300 * i + 300]).mean() < 6
    assert not list((tmp_path / "new").glob("*.part"))


def _decoded(link: str) -> np.ndarray:
    data = base64.b64decode(link.partition(",")[2], validate=True)
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    return picture


def test_the_page_says_what_was_measured(tmp_path: Path, canvas: Canvas) -> None:
    _, page = written(tmp_path, canvas, flight())
    for words in ("A <flight>", "2 MB & more", "<several & fit>", "Error and 95 % radius", "Green ring", "true track"):
        assert words in page.said
    # A stage: the median of its first five, its median, its largest.
    assert re.search(r"match 42\.0 43\.5 47\.0", page.said)
    assert re.search(r"orthorectify 2\.0 2\.0 2\.0", page.said)
    assert page.said.count("converged") >= 5
    assert "update 4: converged, spread 13 m, error 8 m" in page.said


def test_without_truth_it_shows_no_error(tmp_path: Path, canvas: Canvas) -> None:
    _, page = written(tmp_path, canvas, flight(truth=False))
    assert "95 % radius against updates" in page.said and len(page.all("polyline")) == 1
    for words in ("Green ring", "true track", "Error and", "nan"):
        assert words not in page.said


def test_the_chart_is_on_a_logarithmic_scale() -> None:
    page = Page(error_chart(flight()))
    radius, error = ([tuple(map(float, point.split(","))) for point in (line["points"] or "").split()]
                     for line in page.all("polyline"))  # fmt: skip
    assert len(radius) == len(error) == 8
    levels = {
        level: float(line["y1"] or "nan") for level, line in zip((1, 10, 100, 1000), page.all("line"), strict=True)
    }
    decade = levels[1] - levels[10]
    for (_, y), update_ in zip(error, flight(), strict=True):
        assert y == pytest.approx(levels[1] - decade * math.log10(update_.error_m), abs=0.2)
    for (_, y), update_ in zip(radius, flight(), strict=True):
        assert y == pytest.approx(levels[1] - decade * math.log10(update_.fix.radius95_m), abs=0.2)
    assert all(b[0] - a[0] == pytest.approx(error[1][0] - error[0][0], abs=0.11) for a, b in itertools.pairwise(error))
    shaded = page.all("rect")
    assert len(shaded) == 5
    assert float(shaded[0]["x"] or "nan") < error[3][0] < float(shaded[1]["x"] or "nan")


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 50])
@pytest.mark.parametrize("found", [None, 0, 3, 40])
def test_five_moments_are_different_and_in_order(count: int, found: int | None) -> None:
    states: list[State] = ["converged" if found is not None and i >= found else "searching" for i in range(count)]
    updates = [update(i % 40, state, 9.0, 1.0) for i, state in enumerate(states)]
    moments = five_moments(updates)
    assert moments == sorted(set(moments)) and len(moments) == min(count, 5)
    assert moments[0] == 0 and moments[-1] == count - 1
    if found is not None and found < count:
        assert found in moments


def test_a_flight_of_one_frame_is_a_page(tmp_path: Path, canvas: Canvas) -> None:
    _, page = written(tmp_path, canvas, flight()[:1])
    assert len(page.all("img")) == 2
