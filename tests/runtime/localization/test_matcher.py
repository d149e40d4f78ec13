"""The matcher against plain references: every state's view looked up one by one, scores interpolated in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kittiwake_runtime.localization.belief import Belief, uniform
from kittiwake_runtime.localization.descriptor import Descriptor
from kittiwake_runtime.localization.footprint import HEADINGS
from kittiwake_runtime.localization.likelihood import Likelihood
from kittiwake_runtime.localization.matcher import Matcher, Query, significant_planes

GENTLE = Likelihood(-6.0, 14.0, 0.8 * np.linspace(-6.0, 14.0, 256), 0.05)
"""One step of its table changes a ratio by 6 %, so that rounding can't hide a cell looked up beside the right one."""


@pytest.fixture(scope="module")
def holed(country_maker: Callable[..., Any]) -> Any:
    """A map of 70 by 60 cells with a hole in it."""
    valid = np.ones((70, 60), bool)
    valid[20:33, 25:40] = False
    return country_maker(rows=70, cols=60, valid=valid)


def make_matcher(country: Any, likelihood: Likelihood = GENTLE) -> Matcher:
    return Matcher(country.index, Descriptor(country.engine), likelihood)


def some_belief(country: Any, row: int, col: int, rows: int, cols: int, headings: int = 8) -> Belief:
    """Random mass and offsets in a window of the map."""
    rng, index = np.random.default_rng(rows + cols), country.index
    belief = uniform(rows, cols, index.e0 + col * 10.0, index.n0 - row * 10.0, 10.0, headings)
    belief.mass[...] = rng.random(belief.mass.shape, np.float32)
    belief.offset = rng.uniform(-4.9, 4.9, (headings, 2))
    return belief


def plain_ratio(matcher: Matcher, query: Query, table: np.ndarray, k: int, row: int, col: int) -> float:
    """The ratio of one heading at one cell of the index; 1 off the map and in its holes."""
    index = matcher.index
    if not (0 <= row < index.rows and 0 <= col < index.cols and index.valid[row, col]):
        return 1.0
    return float(table[query.levels(index.descriptors[row : row + 1, col])[k, 0]])


def test_z_is_the_score_standardized_over_the_map(country: Any) -> None:
    index = country.index
    patch = country.view(index.e0 + 700, index.n0 - 900, 0.0, noise=3)
    query = make_matcher(country).query(patch, np.arange(HEADINGS) * 2 * np.pi / HEADINGS)
    levels = query.levels(index.descriptors.reshape(-1, index.dim)).T
    z = GENTLE.lo + levels / GENTLE.steps_per_z
    assert z.mean() == pytest.approx(0, abs=0.06)  # its zero lies on a whole level
    assert z.std() == pytest.approx(1, rel=0.02)
    row, col, k = np.unravel_index(z.argmax(), (index.rows, index.cols, HEADINGS))
    assert (row, col, k) == (90, 70, 0)
    assert (levels > 80).mean() == pytest.approx(query.background[81:].sum() / query.background.sum(), abs=0.02)


@pytest.mark.parametrize(
    ("row", "col", "rows", "cols", "lever"),
    [
        (0, 0, 70, 60, (0.0, 0.0)),  # the whole map
        (15, 20, 25, 30, (0.0, 0.0)),  # a window about the hole
        (15, 20, 25, 30, (38.0, -14.0)),  # that looks ahead
        (0, 0, 9, 11, (-60.0, 20.0)),  # in a corner, looking over the border
    ],
)
@pytest.mark.parametrize("exponent", [1.0, 0.3])
def test_an_area_is_weighed_as_state_by_state(
    holed: Any, row: int, col: int, rows: int, cols: int, lever: tuple[float, float], exponent: float
) -> None:
    matcher, belief = make_matcher(holed), some_belief(holed, row, col, rows, cols)
    patches = [holed.view(holed.index.e0 + 300, holed.index.n0 - 200, 1.0, noise=1, height=h) for h in (0.8, 1.0)]
    queries = [matcher.query(patch, belief.headings) for patch in patches]
    c, s = np.cos(belief.headings), np.sin(belief.headings)
    looks = np.stack([c * lever[0] - s * lever[1], s * lever[0] + c * lever[1]], 1)
    shares = np.array([0.3, 0.7])

    tables = [matcher.likelihood.table(query.background, exponent) for query in queries]
    ratios = np.ones((2, *belief.mass.shape))
    for k in range(len(belief.headings)):
        cells = np.rint((belief.offset[k] + looks[k]) / 10.0).astype(int)
        for r in range(rows):
            for col_in in range(cols):
                at = (row + r - cells[1], col + col_in + cells[0])
                for scale, (query, table) in enumerate(zip(queries, tables, strict=True)):
                    ratios[scale, k, r, col_in] = plain_ratio(matcher, query, table, k, *at)
    before = belief.mass.astype(np.float64)
    expected = before * np.tensordot(shares, ratios, 1)
    evidence = matcher.weigh_area(belief, before.sum(), queries, looks, exponent, shares)

    close = np.isclose(belief.mass, expected, rtol=1e-4)
    assert close.mean() > 0.999  # a z that falls between two steps may be rounded either way
    np.testing.assert_allclose(belief.mass, expected, rtol=0.08)
    np.testing.assert_allclose(evidence, (before * ratios).sum(axis=(1, 2, 3)) / before.sum(), rtol=1e-3)


@pytest.mark.parametrize("lever", [(0.0, 0.0), (38.0, -14.0)])
def test_a_square_is_as_likely_as_the_best_of_its_cells(
    country_maker: Callable[..., Any], lever: tuple[float, float]
) -> None:
    valid = np.ones((61, 53), bool)  # the last squares are cut
    valid[20:33, 25:40] = False
    holed = country_maker(rows=61, cols=53, valid=valid)
    matcher, index, rng = make_matcher(holed), holed.index, np.random.default_rng(5)
    belief = uniform(31, 27, index.e0 + 5.0, index.n0 - 5.0, 20.0, 8)
    belief.mass[...] = rng.random(belief.mass.shape, np.float32)
    belief.offset = rng.uniform(-9.9, 9.9, (8, 2))
    patch = holed.view(index.e0 + 300, index.n0 - 100, 1.0, noise=1)
    query = matcher.query(patch, belief.headings, 2)
    c, s = np.cos(belief.headings), np.sin(belief.headings)
    looks = np.stack([c * lever[0] - s * lever[1], s * lever[0] + c * lever[1]], 1)

    table, ratios = matcher.likelihood.table(query.background, 0.8), np.ones(belief.mass.shape)
    for k, row, col in np.ndindex(belief.mass.shape):
        east, north = np.rint((belief.offset[k] + looks[k]) / 10.0).astype(int)
        square = [(2 * row + i - north, 2 * col + j + east) for i in (0, 1) for j in (0, 1)]
        known = [at for at in square if 0 <= at[0] < 61 and 0 <= at[1] < 53 and valid[at]]
        ratios[k, row, col] = max((plain_ratio(matcher, query, table, k, *at) for at in known), default=1.0)
    # One that begins off the map looks at nothing of it.
    begins = np.rint((belief.offset + looks) / 10.0).astype(int)
    for k, (east, north) in enumerate(begins):
        ratios[k, : max(-(-north // 2), 0)] = 1
        ratios[k, :, : max(-(east // 2), 0)] = 1
    before = belief.mass.astype(np.float64)
    evidence = matcher.weigh_area(belief, before.sum(), [query], looks, 0.8, np.ones(1))

    assert np.isclose(belief.mass, before * ratios, rtol=1e-4).mean() > 0.999
    np.testing.assert_allclose(belief.mass, before * ratios, rtol=0.08)
    assert evidence[0] == pytest.approx((before * ratios).sum() / before.sum(), rel=1e-3)


def test_over_squares_a_wrong_place_s_mean_ratio_is_one_too(country: Any) -> None:
    matcher, index = make_matcher(country), country.index
    belief = uniform(index.rows // 2, index.cols // 2, index.e0 + 5.0, index.n0 - 5.0, 20.0, HEADINGS)
    patch = np.random.default_rng(1).random((33, 33), np.float32)  # fits nowhere
    query = matcher.query(patch, belief.headings, 2)
    evidence = matcher.weigh_area(belief, 1.0, [query], np.zeros((HEADINGS, 2)), 1.0, np.ones(1))
    assert evidence[0] == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("lever", [(0.0, 0.0), (35.0, -12.0)])
@pytest.mark.parametrize("at", [(330.0, 460.0), (310.0, 270.0), (30.0, 40.0)])  # on the map, about its hole, its corner
def test_a_track_s_evidence_comes_from_interpolated_scores(
    holed: Any, at: tuple[float, float], lever: tuple[float, float]
) -> None:
    matcher, index, rng = make_matcher(holed), holed.index, np.random.default_rng(0)
    mean = np.array([index.e0 + at[0], index.n0 - at[1]])
    headings = 0.4 + np.deg2rad(2.5) * np.arange(8)
    patch, off = holed.view(mean[0], mean[1], 0.45, noise=2), []
    for _ in range(60):
        # A belief in one state alone has that state's ratio as its evidence.
        k, row, col = rng.integers(0, 8), *rng.integers(0, 48, 2)
        belief = Belief(np.zeros((8, 48, 48), np.float32), mean[0] - 58.0, mean[1] + 59.0, 2.5, headings)
        belief.offset = rng.uniform(-1.2, 1.2, (8, 2))
        belief.mass[k, row, col] = 1
        c, s = np.cos(headings), np.sin(headings)
        looks = np.stack([c * lever[0] - s * lever[1], s * lever[0] + c * lever[1]], 1)
        query = matcher.query(patch, headings[[k]])
        evidence = matcher.weigh_track(belief, 1.0, [query], looks, 0.7, np.ones(1))

        east = belief.east_m + 2.5 * col + belief.offset[k, 0] + looks[k, 0]
        north = belief.north_m - 2.5 * row + belief.offset[k, 1] + looks[k, 1]
        ratio = interpolated(matcher, query, (index.n0 - north) / 10.0, (east - index.e0) / 10.0, 0.7)
        off.append(abs(np.log(evidence[0]) - np.log(ratio)))
    assert np.median(off) < 0.04  # of a table whose steps are 0.06 high, and a picture's 32nds of a cell
    assert np.quantile(off, 0.95) < 0.12  # at the edge of a hole, a cell is known or not by a hair


def interpolated(matcher: Matcher, query: Query, row: float, col: float, exponent: float) -> float:
    """The ratio of z between four cells; 1 where one of them that counts has none."""
    index, level = matcher.index, 0.0
    r0, c0 = int(np.floor(row)), int(np.floor(col))
    for r, c in ((r0, c0), (r0, c0 + 1), (r0 + 1, c0), (r0 + 1, c0 + 1)):
        weight = (1 - abs(row - r)) * (1 - abs(col - c))
        if 0 <= r < index.rows and 0 <= c < index.cols and index.valid[r, c]:
            level += weight * float(query.levels(index.descriptors[r : r + 1, c])[0, 0])
        elif weight > 0.01:
            return 1.0
    return float(np.exp(np.interp(level, np.arange(256), np.log(GENTLE.table(query.background, exponent)))))


def test_cells_without_data_are_neutral(holed: Any, country_maker: Callable[..., Any]) -> None:
    matcher = make_matcher(holed)
    belief = some_belief(holed, 24, 28, 6, 8)  # with all it looks at inside the hole
    before = belief.mass.copy()
    query = matcher.query(holed.view(holed.index.e0 + 300, holed.index.n0 - 500, 0.0), belief.headings)
    nowhere = np.zeros((8, 2))
    assert matcher.weigh_area(belief, belief.total(), [query], nowhere, 1.0, np.ones(1)) == pytest.approx(1)
    np.testing.assert_array_equal(belief.mass, before)
    fine = Belief(np.ones((8, 10, 10), np.float32), belief.east_m + 25, belief.north_m - 15, 2.5, belief.headings)
    assert matcher.weigh_track(fine, fine.total(), [query], nowhere, 1.0, np.ones(1)) == pytest.approx(1)
    np.testing.assert_array_equal(fine.mass, 1)

    blank = country_maker(rows=20, cols=20, valid=np.zeros((20, 20), bool))
    matcher, belief = make_matcher(blank), some_belief(blank, 0, 0, 20, 20)
    query = matcher.query(blank.view(blank.index.e0, blank.index.n0, 0.0), belief.headings)
    assert matcher.weigh_area(belief, belief.total(), [query], nowhere, 1.0, np.ones(1)) == pytest.approx(1)


def test_planes_of_no_weight_are_passed_over() -> None:
    belief = uniform(4, 4, 0.0, 0.0, 10.0, 6)
    belief.mass *= np.array([1, 1e-6, 0.5, 0, 1e-3, 1e-5], np.float32)[:, None, None]
    assert significant_planes(belief) == [0, 2, 4]
