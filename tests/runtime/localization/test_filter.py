"""The point-mass filter: what holds for any flight, and its motion against Monte Carlo and closed forms."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kittiwake_runtime.localization.descriptor import Descriptor
from kittiwake_runtime.localization.filter import SCALES_UNKNOWN, FilterConfig, PointMassFilter
from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.likelihood import ESTIMATES
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.matcher import Matcher

SIGMA_TURN = math.radians(1.5)


def make_filter(country: Any, index: Any = None, **config: float) -> PointMassFilter:
    likelihood = ESTIMATES["softmax"](country.engine.bundle.calibration)
    matcher = Matcher(index or country.index, Descriptor(country.engine), likelihood)
    return PointMassFilter(matcher, FilterConfig(**config))


def tracking(country: Any, start: tuple[float, float, float], frames: int = 8) -> PointMassFilter:
    """A filter that has followed a flight from `start` until it was sure."""
    found = make_filter(country)
    for number, (step, pose) in enumerate(itertools.islice(country.walk(3, start), frames)):
        if step is not None:
            found.predict(step)
        found.weigh([country.view(*pose, noise=number)], (0.0, 0.0), 1.0)
        found.adapt()
    assert found.is_tracking
    return found


@pytest.fixture(scope="module")
def small(country_maker: Callable[..., Any]) -> Any:
    return country_maker(rows=50, cols=60)


steps = st.builds(
    OdometryStep,
    st.floats(-300, 300),
    st.floats(-300, 300),
    st.floats(-4, 4),
    st.floats(0, 60),
    st.floats(0, 0.5),
)
views = st.sampled_from(["none", "right", "wrong", "plain", "half seen", "two scales"])


@given(st.lists(st.tuples(steps, views, st.floats(0.01, 1)), min_size=1, max_size=8), st.sampled_from([1, 2]))
@settings(max_examples=60)
def test_mass_is_one_and_nothing_is_ever_nan(
    small: Any, flight: list[tuple[OdometryStep, str, float]], width: int
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("kittiwake_runtime.localization.filter.WIDE_ABOVE", 0 if width > 1 else 1 << 40)
        check_a_flight(make_filter(small), small, flight)


def check_a_flight(found: PointMassFilter, small: Any, flight: list[tuple[OdometryStep, str, float]]) -> None:
    """What holds after every frame of any flight."""
    middle = (small.index.e0 + 300.0, small.index.n0 - 250.0, 0.7)
    for number, (step, kind, exponent) in enumerate(flight):
        found.predict(step)
        patch = small.view(*middle, noise=number)
        if kind == "wrong":
            patch = np.random.default_rng(number).random((33, 33), np.float32)
        elif kind == "plain":
            patch = np.full((33, 33), 0.5, np.float32)
        elif kind == "half seen":
            patch[:, 10:] = np.nan
        if kind != "none":
            evidence = found.weigh([patch] * (2 if kind == "two scales" else 1), (12.0, -5.0), exponent)
            assert math.isfinite(evidence)
        moments = found.adapt()
        assert np.isfinite(found.belief.mass).all() and found.belief.mass.min() >= 0
        assert 0 <= found.elsewhere <= 1
        assert found.scale_shares.sum() == pytest.approx(1)
        assert moments.planes.sum() == pytest.approx(1)
        assert np.isfinite(moments.mean).all() and np.linalg.eigvalsh(moments.covariance)[0] > 0
        assert math.isfinite(moments.heading_rad) and moments.heading_std_rad > 0


@given(shift=st.tuples(st.floats(-4e5, 4e5), st.floats(-5e6, 5e6)))
@settings(max_examples=8)
def test_a_shift_of_everything_shifts_the_answer(small: Any, shift: tuple[float, float]) -> None:
    index = small.index
    meta = replace(index.meta, west_m=index.meta.west_m + shift[0], north_m=index.meta.north_m + shift[1])
    moved = MapIndex(index.path, meta, index._sections, index.header)
    answers = []
    for index, by in ((small.index, (0.0, 0.0)), (moved, shift)):
        found = make_filter(small, index)
        for number, (step, pose) in enumerate(itertools.islice(small.walk(1), 6)):
            if step is None:
                found.set_prior(np.array(pose[:2]) + by + (15.0, -20.0), 60.0)
            else:
                found.predict(step)
            found.weigh([small.view(*pose, noise=number)], (3.0, 1.0), 1.0)
            moments = found.adapt()
            answers.append((moments.mean - by, moments.covariance, moments.heading_rad, found.elsewhere))
    for first, second in zip(answers[:6], answers[6:], strict=True):
        assert second[0] == pytest.approx(first[0], abs=0.01)
        assert second[1] == pytest.approx(first[1], rel=1e-3, abs=0.1)
        assert second[2] == pytest.approx(first[2], abs=1e-4)
        assert second[3] == pytest.approx(first[3], rel=1e-3)


@pytest.mark.parametrize("length_m", [30.0, 100.0])
def test_twenty_blank_frames_widen_the_belief_as_the_odometry_noise_does(
    country_maker: Callable[..., Any], length_m: float
) -> None:
    wide = country_maker(rows=150, cols=340)
    start = (wide.index.e0 + 300.0, wide.index.n0 - 750.0, 0.0)
    found = tracking(wide, start, frames=5)
    belief, rng, n = found.belief, np.random.default_rng(0), 20_000
    flat = belief.mass.astype(np.float64).ravel()
    k, row, col = np.unravel_index(rng.choice(flat.size, n, p=flat / flat.sum()), belief.mass.shape)
    east = belief.east_m + belief.offset[k, 0] + (col + rng.uniform(-0.5, 0.5, n)) * belief.cell_m
    north = belief.north_m + belief.offset[k, 1] - (row + rng.uniform(-0.5, 0.5, n)) * belief.cell_m
    heading = belief.headings[k] + rng.uniform(-0.5, 0.5, n) * belief.heading_step
    position, sigma = east + 1j * north, 0.02 * length_m
    for frame in range(20):
        found.predict(OdometryStep(length_m, 0.0, 0.0, sigma, SIGMA_TURN))
        moments = found.adapt()
        noise = rng.normal(0, sigma, (2, n))
        position += (length_m + noise[0] + 1j * noise[1]) * np.exp(1j * heading)
        heading += rng.normal(0, SIGMA_TURN, n)
        expected = np.cov(position.real, position.imag)
        assert moments.std_m == pytest.approx(math.sqrt(np.trace(expected)), rel=0.2), frame
    assert np.sqrt(np.linalg.eigvalsh(moments.covariance)) == pytest.approx(
        np.sqrt(np.linalg.eigvalsh(expected)), rel=0.35
    )
    assert moments.mean == pytest.approx([position.real.mean(), position.imag.mean()], abs=0.05 * moments.std_m)
    assert found.elsewhere < 0.02


def test_hover_moves_no_probability(country: Any) -> None:
    found = make_filter(country)
    pose = (country.index.e0 + 600.0, country.index.n0 - 700.0, 1.0)
    found.weigh([country.view(*pose, noise=0)], (0.0, 0.0), 1.0)
    before, elsewhere = found.adapt(), found.elsewhere
    for _ in range(600):
        found.predict(OdometryStep(0.0, 0.0, 0.0, 0.0, 0.0))
    after = found.adapt()
    assert found.elsewhere == pytest.approx(elsewhere, rel=1e-6)
    assert after.covariance == pytest.approx(before.covariance, rel=1e-3)
    assert after.planes == pytest.approx(before.planes, rel=1e-3, abs=1e-9)


def test_a_leg_is_the_same_however_it_is_cut(country: Any) -> None:
    knows_nothing, knows = [], []
    for parts in (1, 4, 20):
        doubtful = make_filter(country)
        found = tracking(country, (country.index.e0 + 700.0, country.index.n0 - 900.0, 0.4))
        sigma = 4.0 / math.sqrt(parts)
        for _ in range(parts):
            doubtful.predict(OdometryStep(50.0 / parts, 0.0, 0.0, sigma / 4, 0.0))
            found.predict(OdometryStep(200.0 / parts, 0.0, 0.0, sigma, 0.0))
        knows_nothing.append(doubtful.elsewhere)
        knows.append(found.belief.moments())
        assert found.elsewhere < 0.003
    assert knows_nothing[1:] == pytest.approx([knows_nothing[0]] * 2, rel=0.03)
    for moments in knows[1:]:
        assert moments.mean == pytest.approx(knows[0].mean, abs=1.0)
        assert moments.heading_rad == pytest.approx(knows[0].heading_rad, abs=2e-3)
        assert moments.std_m == pytest.approx(knows[0].std_m, rel=0.1)


@pytest.mark.parametrize(("length_m", "sigma_m"), [(100.0, 50.0), (900.0, 18.0), (0.0, 120.0)])
def test_a_wide_step_is_not_cut_off_by_the_window_that_tracks(country: Any, length_m: float, sigma_m: float) -> None:
    found = tracking(country, (country.index.e0 + 500.0, country.index.n0 - 1000.0, 0.0), frames=4)
    before = found.belief.moments()
    found.predict(OdometryStep(length_m, 0.0, 0.0, sigma_m, SIGMA_TURN))
    after = found.belief.moments()
    # What is coarsened knows the heading to a plane of 10 degrees only.
    within, across = math.radians(10) / math.sqrt(12), length_m * before.heading_std_rad
    least = math.sqrt(before.std_m**2 + 2 * sigma_m**2 + across**2)
    assert 0.95 * least < after.std_m < 1.05 * math.hypot(least, length_m * within)
    assert found.elsewhere < 0.01


def test_an_absurd_step_is_soon_done(country: Any) -> None:
    found = tracking(country, (country.index.e0 + 700.0, country.index.n0 - 900.0, 0.4))
    begin = time.perf_counter()
    found.predict(OdometryStep(0.0, 0.0, 0.0, 100_000.0, 0.0))
    assert time.perf_counter() - begin < 5
    assert found.elsewhere > 0.99
    assert np.isfinite(found.adapt().mean).all()


@pytest.mark.parametrize("length_m", [100.0, 400.0])
def test_what_flies_off_the_map_is_elsewhere(country: Any, length_m: float) -> None:
    found = make_filter(country, off_map=1e-9, kidnap=0.0, recover=0.0)
    found.predict(OdometryStep(length_m, 0.0, 0.0, 0.0, 0.0))
    c, s = np.abs(np.cos(found.belief.headings)), np.abs(np.sin(found.belief.headings))
    side_m = country.index.cols * 10.0
    stays = (1 - c * length_m / side_m) * (1 - s * length_m / side_m)
    assert found.elsewhere == pytest.approx(1 - stays.mean(), rel=0.06)


def test_what_flies_in_comes_from_elsewhere(country: Any) -> None:
    found = make_filter(country, kidnap=0.0, recover=0.0)
    found.belief.mass *= np.float32(1e-12)
    found.belief.mass[:, 90:110, 90:110] += np.float32(1)  # far from any border
    found._total = found.belief.total()
    outside = found.elsewhere
    found.predict(OdometryStep(100.0, 0.0, 0.0, 2.0, SIGMA_TURN))
    entered = found.belief.mass[:, :, :10]
    east, west = found.belief.headings < 0.01, np.abs(found.belief.headings - np.pi) < 0.01
    assert entered[east].sum() > 100 * entered[west].sum()
    assert 0.5 * outside < found.elsewhere < outside


@pytest.fixture
def in_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search over any map is one over squares of cells."""
    monkeypatch.setattr("kittiwake_runtime.localization.filter.WIDE_ABOVE", 0)


@pytest.mark.usefixtures("in_squares")
@pytest.mark.parametrize("seed", range(4))
def test_a_search_over_squares_finds_the_place_and_then_tracks_it(country: Any, seed: int) -> None:
    found = make_filter(country)
    assert found.covers_map and found.width == 2
    for number, (step, pose) in enumerate(itertools.islice(country.walk(seed), 10)):
        if step is not None:
            found.predict(step)
        found.weigh([country.view(*pose, noise=number)], (3.0, 1.0), 1.0)
        moments = found.adapt()
    assert found.is_tracking and not found.covers_map
    assert math.dist(moments.mean, pose[:2]) < 12
    found.widen()
    assert found.covers_map and found.width == 2 and found.belief.total() == pytest.approx(1, rel=1e-3)


def test_squares_and_cells_believe_alike_that_it_is_elsewhere(country: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    odds = []
    for above in (1 << 40, 0):
        monkeypatch.setattr("kittiwake_runtime.localization.filter.WIDE_ABOVE", above)
        found, rng = make_filter(country), np.random.default_rng(3)
        for _ in range(12):
            found.predict(OdometryStep(100.0, 0.0, 0.1, 2.0, SIGMA_TURN))
            found.weigh([rng.random((33, 33), np.float32)], (0.0, 0.0), 1.0)
            found.adapt()
        odds.append(math.log(found.elsewhere / (1 - found.elsewhere)))
    assert odds[1] > math.log(0.1 / 0.9), "frames that fit nowhere speak for it"
    assert odds[1] == pytest.approx(odds[0], abs=1.0)


def test_several_scales_find_the_right_one(country: Any) -> None:
    for truth in (2, 6):
        found = make_filter(country)
        for number, (step, pose) in enumerate(itertools.islice(country.walk(truth), 8)):
            if step is not None:
                found.predict(step)
            height = SCALES_UNKNOWN[truth]
            patches = [country.view(*pose, noise=number, height=height / scale) for scale in SCALES_UNKNOWN]
            found.weigh(patches, (0.0, 0.0), 1.0)
            moments = found.adapt()
        assert found.scale_shares.argmax() == truth
        assert math.dist(moments.mean, pose[:2]) < 20


def test_priors_are_soft(country: Any) -> None:
    found, index = make_filter(country), country.index
    mean = np.array([index.e0 + 804.0, index.n0 - 1203.0])
    found.set_prior(mean, 50.0)
    east = found.belief.east_m + 10.0 * np.arange(index.cols)
    north = found.belief.north_m - 10.0 * np.arange(index.rows)
    near = np.hypot(east - mean[0], north[:, None] - mean[1]) < 2.4477 * 50.0
    share = found.belief.marginal()[near].sum() / found.belief.total()
    assert share == pytest.approx(0.9 * 0.95 + 0.1 * near.mean(), abs=0.01)
    assert found.belief.mass.min() == pytest.approx(0.1 / found.belief.mass.size, rel=0.01)

    found.turn_to(2.0, math.radians(10))
    moments = found.belief.moments()
    turned = np.cos(found.belief.headings - 2.0) > math.cos(math.radians(25))
    assert moments.heading_rad == pytest.approx(2.0, abs=0.02)
    assert 0.85 < moments.planes[turned].sum() < 0.95
    assert moments.mean == pytest.approx(mean, abs=25)  # a tenth of the mass pulls towards the map's middle
