"""Dense matching against plain sums, and on ground whose place is known."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kittiwake_runtime.localization.belief import gaussian, uniform
from kittiwake_runtime.localization.dense import DenseMatcher, correlation, orientation_field
from kittiwake_runtime.localization.descriptor import rotated_views
from kittiwake_runtime.localization.footprint import disc_mask

EVERYWHERE = np.ones((80, 90), np.bool_)


def ground(seed: int = 0, shape: tuple[int, int] = (80, 90)) -> np.ndarray:
    noise = cv2.GaussianBlur(np.random.default_rng(seed).normal(size=shape), (0, 0), 2.0)
    return (0.5 + 0.1 * noise / noise.std()).astype(np.float32)


def cut(grey: np.ndarray, row: int, col: int) -> np.ndarray:
    mask = disc_mask(33)
    return np.stack([grey[row : row + 33, col : col + 33] * mask, mask]).astype(np.float32)


def test_correlation_is_the_normalized_product_of_the_fields() -> None:
    field = orientation_field(ground(), EVERYWHERE)
    view = cut(ground(seed=1), 5, 8)
    found = correlation(view, field, EVERYWHERE.astype(np.float32))
    template, mask = orientation_field(view[0], view[1] > 0.5), view[1] > 0.5
    for row, col in ((0, 0), (20, 31), (47, 57)):
        part = field[row : row + 33, col : col + 33]
        product = (part * template.conj())[mask].sum().real
        energy = (np.abs(part[mask]) ** 2).sum() * (np.abs(template[mask]) ** 2).sum()
        assert found[row, col] == pytest.approx(product / np.sqrt(energy), abs=1e-4)
    assert found.shape == (80 - 32, 90 - 32)
    assert np.abs(found).max() <= 1


@given(row=st.integers(0, 47), col=st.integers(0, 57), gain=st.floats(0.3, 1.0), inverted=st.booleans())
def test_a_view_is_found_where_it_was_cut_whatever_its_light(row: int, col: int, gain: float, inverted: bool) -> None:
    grey = ground()
    seen = gain * (1 - grey if inverted else grey)
    found = correlation(cut(seen, row, col), orientation_field(grey, EVERYWHERE), EVERYWHERE.astype(np.float32))
    assert np.unravel_index(found.argmax(), found.shape) == (row, col)
    assert found.max() > 0.8


def test_ground_that_the_map_lacks_is_not_judged() -> None:
    grey, seen = ground(), EVERYWHERE.copy()
    seen[:, 45:] = False
    found = correlation(cut(grey, 10, 50), orientation_field(grey, seen), seen.astype(np.float32))
    assert (found[:, 45:] == 0).all()
    assert found[:, :10].any()


@pytest.mark.parametrize("lever", [(0.0, 0.0), (14.0, -9.0)])
def test_the_state_that_saw_the_view_explains_it_best(country: Any, lever: tuple[float, float]) -> None:
    index = country.index
    true = np.array([index.e0 + 703.0, index.n0 - 914.0])
    belief = uniform(60, 60, index.e0 + 630.0, index.n0 - 840.0, 2.5, 36)
    heading = 4
    belief.offset[heading] = 1.1, -0.7
    belief.mass[...] = gaussian(belief, true + np.array([6.0, -5.0]), np.eye(2) * 15.0**2)
    patch = country.view(*(true + lever), float(belief.headings[heading]))
    views = rotated_views(patch, belief.headings[[heading]], 1)
    levers = np.tile(np.array(lever), (36, 1))
    ratios, (rows, cols) = DenseMatcher(index).ratios(belief, [heading], views, levers, 1.0)
    row, col = np.unravel_index(ratios[0].argmax(), ratios[0].shape)
    east = belief.east_m + (col + cols.start) * 2.5 + belief.offset[heading, 0]
    north = belief.north_m - (row + rows.start) * 2.5 + belief.offset[heading, 1]
    assert np.hypot(east - true[0], north - true[1]) < 2.5 * np.sqrt(0.5) + 0.5
    mass = belief.mass[heading, rows, cols]
    assert (mass * ratios[0]).sum() / mass.sum() == pytest.approx(1, abs=1e-3)


def test_beyond_the_map_every_state_explains_a_view_alike(country: Any) -> None:
    index = country.index
    belief = uniform(30, 30, index.e0 - 3000.0, index.n0, 2.5, 36)
    views = rotated_views(country.view(index.e0 + 500, index.n0 - 500, 0.0), belief.headings[:1], 1)
    ratios, _ = DenseMatcher(index).ratios(belief, [0], views, np.zeros((36, 2)), 1.0)
    assert ratios == pytest.approx(1)


def test_coarse_imagery_says_less(country: Any) -> None:
    """Pixels of twice the samples' size are a quarter as many: so is the logarithm of what they say."""
    index = copy.copy(country.index)
    fine = spread(country, DenseMatcher(index))
    index.meta = replace(index.meta, imagery_gsd_m=2 * index.gsd_m)
    assert spread(country, DenseMatcher(index)) == pytest.approx(fine / 4, rel=0.05)
    index.meta = replace(index.meta, imagery_gsd_m=index.gsd_m / 3)
    assert spread(country, DenseMatcher(index)) == pytest.approx(fine)


def test_old_imagery_says_less(country: Any) -> None:
    matcher = DenseMatcher(country.index)
    unknown, unknown_null = spread(country, matcher), matcher.null
    found = []
    for years in (0.0, 1.0, 5.0, 10.0, 40.0):
        matcher.set_age(years)
        found.append((spread(country, matcher), -matcher.null))
    assert found == sorted(found, reverse=True)
    spreads, nulls = zip(*found, strict=True)
    assert spreads[0] > 2 * spreads[3] > 2 * spreads[4] and nulls[4] == -0.2
    assert spreads[3] < unknown < spreads[2] and -nulls[2] < unknown_null < -nulls[3]


def spread(country: Any, matcher: DenseMatcher) -> float:
    """Of the log-likelihood over the states, the null's floor taken off."""
    index = matcher.index
    belief = uniform(40, 40, index.e0 + 630.0, index.n0 - 840.0, 2.5, 36)
    views = rotated_views(country.view(index.e0 + 680, index.n0 - 890, 0.0), belief.headings[:1], 1)
    ratios, _ = matcher.ratios(belief, [0], views, np.zeros((36, 2)), 1.0)
    logs = np.log(np.maximum(ratios.astype(np.float64) - matcher.null, 1e-300))
    return float(logs.max() - np.quantile(logs, 0.9))
