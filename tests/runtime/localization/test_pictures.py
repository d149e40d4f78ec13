"""What stands on the pictures, and where: against positions worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from kittiwake_runtime.localization.belief import gaussian, uniform
from kittiwake_runtime.localization.frames import Grid
from kittiwake_runtime.localization.outputs import Fix
from kittiwake_runtime.localization.pictures import (
    BELIEVED_COLOUR,
    Canvas,
    belief_map,
    belief_picture,
    scale_bar,
    track_picture,
)

GRID = Grid.from_crs("EPSG:32633")
WEST_M, NORTH_M, M_PER_PX = 500_000.0, 6_000_000.0, 5.0


@pytest.fixture
def canvas() -> Canvas:
    """2 × 1.5 km of plain grey at 5 m a pixel."""
    return Canvas(np.full((300, 400, 3), 80, np.uint8), WEST_M, NORTH_M, M_PER_PX)


def fix_at(east_m: float, north_m: float, std_m: float = 10.0, **changes: Any) -> Fix:
    fix = Fix(
        time_s=0.0, easting_m=east_m, northing_m=north_m, heading_rad=0.0, covariance=np.eye(2) * std_m**2,
        position_std_m=std_m, heading_std_rad=0.1, state="converged", source="map_matched", age_s=0.0,
        distance_since_match_m=0.0, elsewhere=1e-6, evidence=3.0, reason="", grid=GRID,
    )  # fmt: skip
    return replace(fix, **changes)


def coloured(picture: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(picture.astype(int) - colour).max(axis=-1) < 40)


def middle(mask: NDArray[np.bool_]) -> tuple[float, float]:
    rows, cols = np.nonzero(mask)
    return float(cols.mean()), float(rows.mean())


def test_a_canvas_puts_positions_on_pixels(canvas: Canvas) -> None:
    # The centre of pixel (x 10, y 20) is 10.5 pixels east and 20.5 south of the corner; in sixteenths of a pixel.
    assert canvas.pixel(WEST_M + 10.5 * 5, NORTH_M - 20.5 * 5) == (160, 320)
    assert canvas.pixel(WEST_M + 11.0 * 5, NORTH_M - 20.5 * 5) == (168, 320)


def test_a_track_is_drawn_where_it_was_believed(canvas: Canvas) -> None:
    here = (WEST_M + 200.5 * 5, NORTH_M - 100.5 * 5)
    lost = fix_at(WEST_M + 300, NORTH_M - 900, state="lost")
    picture = track_picture(canvas, [fix_at(*here), lost])
    mask = coloured(picture, BELIEVED_COLOUR)
    assert middle(mask[:250]) == pytest.approx((200, 100), abs=0.3)
    rows, cols = np.nonzero(mask[:250])
    # 95 % of a round Gaussian lies within 2.4477 standard deviations.
    assert np.hypot(cols - 200, rows - 100).max() == pytest.approx(2.4477 * 10 / 5, abs=1.2)
    assert not mask[170:190, 50:70].any(), "where it was lost is not where it was"
    assert (canvas.image == 80).all(), "the canvas itself stays as it was"


def test_a_line_joins_only_what_was_believed_in_a_row(canvas: Canvas) -> None:
    places = [(WEST_M + 5 * x, NORTH_M - 5 * 150.5) for x in (50.5, 150.5, 250.5, 350.5)]
    states = ["converged", "converged", "lost", "converged"]
    picture = track_picture(canvas, [fix_at(*p, state=s) for p, s in zip(places, states, strict=True)])
    row = coloured(picture, BELIEVED_COLOUR)[150]
    assert row[55:146].all() and not row[160:340].any()


def test_the_truth_is_white_and_its_start_a_ring(canvas: Canvas) -> None:
    truth = [(WEST_M + 5 * 100.5, NORTH_M - 5 * 50.5), (WEST_M + 5 * 300.5, NORTH_M - 5 * 50.5)]
    mask = coloured(track_picture(canvas, [], truth), (255, 255, 255))
    assert mask[50, 110:298].all()
    rows, cols = np.nonzero(mask[30:70, 85:100])
    assert np.hypot(cols + 85 - 100, rows + 30 - 50).max() == pytest.approx(7, abs=1.2)


@pytest.mark.parametrize(("m_per_px", "metres"), [(5.0, 200), (1.0, 50), (11.2, 500), (0.04, 2), (120.0, 5000)])
def test_the_scale_bar_is_as_long_as_it_says(m_per_px: float, metres: int) -> None:
    picture = scale_bar(np.full((300, 300, 3), 80, np.uint8), m_per_px)
    bar = np.nonzero(coloured(picture, (255, 255, 255))[300 - 18])[0]
    assert bar.max() - bar.min() == pytest.approx(metres / m_per_px, abs=2.5)


def test_a_belief_keeps_its_mass_and_its_place(canvas: Canvas) -> None:
    # Cells of 10 m over the canvas; the first cell's centre is 5 m inside its corner.
    belief = uniform(150, 200, WEST_M + 5, NORTH_M - 5, 10.0, 4)
    mean = np.array([WEST_M + 900.0, NORTH_M - 400.0])
    belief.mass[...] = gaussian(belief, mean, np.eye(2) * 40.0**2)
    plane = belief_map(SimpleNamespace(belief=belief, elsewhere=0.25), canvas)  # type: ignore[arg-type]
    assert plane.shape == (300, 400) and plane.sum() == pytest.approx(0.75, abs=1e-4)
    x, y = np.arange(400) + 0.5, np.arange(300) + 0.5
    assert plane.sum(0) @ x / plane.sum() * 5 + WEST_M == pytest.approx(mean[0], abs=5)
    assert NORTH_M - plane.sum(1) @ y / plane.sum() * 5 == pytest.approx(mean[1], abs=5)


def test_a_belief_is_hot_where_the_mass_is(canvas: Canvas) -> None:
    plane = np.full((300, 400), 1e-12, np.float32)
    plane[120, 300] = 0.9
    picture = belief_picture(canvas, plane)
    assert picture.shape == (225, 300, 3)
    light = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    rows, cols = np.nonzero(light > 0.8 * light.max())
    assert (cols.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((300.5 * 0.75, 120.5 * 0.75), abs=1)
    assert np.abs(picture[:50, :50].astype(int) - round(80 * 0.45)).max() <= 1, "elsewhere the map, darkened"
    ringed = belief_picture(canvas, plane, (WEST_M + 5 * 100.5, NORTH_M - 5 * 200.5))
    assert middle(coloured(ringed, (90, 255, 120))) == pytest.approx((100.5 * 0.75 - 0.5, 200.5 * 0.75 - 0.5), abs=0.7)


def test_a_belief_of_nothing_is_still_a_picture(canvas: Canvas) -> None:
    picture = belief_picture(canvas, np.zeros((300, 400), np.float32))
    assert np.isfinite(picture).all() and picture.std() < 30
