"""How much of a frame is news: new ground, and views that their predecessors foretell."""

from __future__ import annotations

import cmath
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kittiwake_runtime.localization.descriptor import Descriptor, rotated_views
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.news import REMEMBERED, News

FAR_M = 1000.0


def news_of(country: Any) -> News:
    return News(Descriptor(country.engine), country.index.footprint_m, 0.25)


def moved(news: News, forward_m: float, left_m: float = 0.0, turn_rad: float = 0.0) -> News:
    news.move(OdometryStep(forward_m, left_m, turn_rad, 0.0, 0.0, 1.0))
    return news


def place(country: Any, number: int) -> tuple[float, float]:
    """Places that share no ground."""
    return country.index.e0 + 200.0 + 200.0 * (number % 8), country.index.n0 - 200.0 - 200.0 * (number // 8)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.floats(-90, 90), st.floats(-90, 90), st.floats(-math.pi, math.pi)), min_size=1, max_size=4
    )
)
def test_new_ground_is_what_a_count_of_points_finds(country: Any, steps: list[tuple[float, float, float]]) -> None:
    news, at, heading = news_of(country), 0j, 0.0
    assert news.new_ground() == 1.0
    news.see(country.view(*place(country, 0), 0.0))
    for forward, left, turn in steps:
        moved(news, forward, left, turn)
        at += complex(forward, left) * cmath.exp(1j * heading)
        heading += turn
    x = abs(at) / country.index.footprint_m
    if abs(x - 0.25) < 1e-9:
        return
    axis = np.linspace(-0.5, 0.5, 401)
    points = (axis[:, None] + 1j * axis[None, :]).ravel()
    disc = points[np.abs(points) < 0.5]
    counted = np.mean(np.abs(disc + x) >= 0.5) if x >= 0.25 else 0.0
    assert news.new_ground() == pytest.approx(counted, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(turn_deg=st.floats(-180, 180), repeats=st.integers(1, REMEMBERED))
def test_a_view_seen_before_is_no_news_however_the_vehicle_turned(country: Any, turn_deg: float, repeats: int) -> None:
    news, turn = news_of(country), math.radians(turn_deg)
    news.see(country.view(*place(country, 0), 0.0))
    for number in range(1, repeats):
        news.see(country.view(*place(country, number), 0.0))
        moved(news, FAR_M)
    moved(news, FAR_M, turn_rad=turn)
    # The same ground from another heading: sampled anew, it differs a little.
    assert news.see(country.view(*place(country, 0), turn)) < 0.1


def test_only_the_last_views_are_remembered(country: Any) -> None:
    news = news_of(country)
    for number in range(REMEMBERED + 1):
        news.see(country.view(*place(country, number), 0.0))
        moved(news, FAR_M)
    assert news.see(country.view(*place(country, 0), 0.0)) > 0.5


def test_news_is_the_share_that_no_view_before_foretells(country: Any) -> None:
    """What is left of a unit vector once its part along the likest other is taken off."""
    engine, seen, overlap = country.engine, [], 0.6
    step_m = overlap * country.index.footprint_m
    news = news_of(country)
    for number in range(12):
        patch = country.view(*place(country, number), 0.0, noise=number)
        vector = engine.infer({"view": rotated_views(patch, np.zeros(1), 1)})["descriptor"][0, :, 0, 0].astype(float)
        ground = moved(news, step_m).new_ground() if seen else 1.0
        left_over = min(
            (float(np.linalg.norm(vector - max(vector @ old, 0.0) * old)) ** 2 for old in seen[-REMEMBERED:]),
            default=1.0,
        )
        assert news.see(patch) == pytest.approx(left_over, abs=1e-4)
        seen.append(vector)
    assert ground == pytest.approx(1 - 2 / math.pi * (math.acos(overlap) - overlap * math.sqrt(1 - overlap**2)))
