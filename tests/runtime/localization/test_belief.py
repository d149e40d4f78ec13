"""The belief against closed forms and Monte Carlo: what moves, what spreads, what stays one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kittiwake_runtime.localization.belief import Belief, blur_kernel, gaussian, uniform

CELL = 10.0


def at(east: float, north: float, heading: int = 0, size: int = 61, headings: int = 36) -> Belief:
    """All mass in the cell nearest to (east, north) of a window around zero, at one heading."""
    half = size // 2
    belief = uniform(size, size, -half * CELL, half * CELL, CELL, headings)
    belief.mass[...] = 0
    belief.mass[heading, half - round(north / CELL), half + round(east / CELL)] = 1
    return belief


@given(
    along=st.floats(0.0, 3.0),
    across=st.floats(0.0, 1.0),
    direction=st.floats(-7, 7),
)
def test_kernel_has_the_noise_s_moments(along: float, across: float, direction: float) -> None:
    kernel = blur_kernel(along, across, direction).astype(np.float64)
    half = kernel.shape[0] // 2
    x, y = np.meshgrid(np.arange(-half, half + 1), -np.arange(-half, half + 1))
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert kernel.min() >= -1e-6
    tolerance = 2e-4 * max(1, (along**2 + across**2) * 3)
    assert (kernel * x * x).sum() == pytest.approx(along**2 + (across * np.sin(direction)) ** 2, abs=tolerance)
    assert (kernel * y * y).sum() == pytest.approx(along**2 + (across * np.cos(direction)) ** 2, abs=tolerance)
    exact = -(across**2) * np.sin(direction) * np.cos(direction)
    if abs(exact) <= min((kernel * x * x).sum(), (kernel * y * y).sum()):
        assert (kernel * x * y).sum() == pytest.approx(exact, abs=tolerance)


@given(st.lists(st.tuples(st.floats(-60, 60), st.floats(-60, 60), st.floats(-3, 3)), max_size=6))
@settings(max_examples=60)
def test_noiseless_motion_is_exact_however_it_is_cut_into_steps(
    steps: list[tuple[float, float, float]],
) -> None:
    belief = at(0, 0, heading=5, size=161, headings=360)
    position, heading = 0j, float(belief.headings[5])
    for forward, left, turn in steps:
        # A zero bin width isolates the motion from the noise that a heading's bin stands for.
        belief.move(forward, left, turn, 0.0, 0.0)
        position += complex(forward, left) * np.exp(1j * heading)
        heading += turn
    moments = belief.moments()
    assert moments.mean == pytest.approx([position.real, position.imag], abs=1e-2)
    assert np.exp(1j * moments.heading_rad) == pytest.approx(np.exp(1j * heading), abs=1e-6)


def test_twenty_blank_frames_spread_the_belief_as_the_odometry_noise_does() -> None:
    rng = np.random.default_rng(1)
    steps, particles = 20, 20000
    step_m, sigma_m, sigma_turn = 100.0, 2.0, np.deg2rad(1.5)
    position, heading = np.zeros(particles, complex), np.zeros(particles)
    for _ in range(steps):
        noise = rng.normal(0, sigma_m, (2, particles))
        position += (step_m + noise[0] + 1j * noise[1]) * np.exp(1j * heading)
        heading += rng.normal(0, sigma_turn, particles)
    belief = Belief(np.zeros((32, 200, 260), np.float32), -200.0, 1000.0, CELL, np.deg2rad(np.arange(-16, 16) * 2.5))
    belief.mass[16, 100, 20] = 1
    for _ in range(steps):
        belief.move(step_m, 0.0, 0.0, sigma_m, sigma_turn)
    moments = belief.moments()
    assert belief.total() == pytest.approx(1, abs=1e-3)
    assert np.sqrt(moments.covariance[1, 1]) == pytest.approx(position.imag.std(), rel=0.2)
    assert moments.heading_std_rad == pytest.approx(heading.std(), rel=0.2)
    assert np.sqrt(moments.covariance[0, 0]) == pytest.approx(position.real.std(), rel=0.35)


@given(
    st.lists(
        st.tuples(st.floats(-80, 80), st.floats(-80, 80), st.floats(-4, 4), st.floats(0, 8), st.floats(0, 0.2)),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=40)
def test_mass_never_grows_nor_turns_nan(steps: list[tuple[float, float, float, float, float]]) -> None:
    belief = uniform(20, 30, 0, 0, CELL, 36)
    for step in steps:
        before = belief.total()
        belief.move(*step)
        assert np.isfinite(belief.mass).all()
        assert belief.mass.min() >= -1e-9
        assert belief.total() <= before * (1 + 1e-5)


@given(rows=st.integers(-6, 6), cols=st.integers(-6, 6))
@settings(max_examples=20)
def test_a_shift_of_everything_shifts_the_answer(rows: int, cols: int) -> None:
    first, second = at(0, 0, 3), at(cols * CELL, -rows * CELL, 3)
    for belief in (first, second):
        belief.move(70, 13, 0.4, 4.0, 0.03)
        belief.move(55, -8, -0.2, 3.0, 0.03)
    difference = second.moments().mean - first.moments().mean
    assert difference == pytest.approx([cols * CELL, -rows * CELL], abs=0.05)


def test_entering_mass_comes_only_from_beyond_the_border() -> None:
    belief = uniform(20, 20, 0, 0, CELL, 36)
    belief.mass[...] = 0
    belief.move(30, 0, 0, 0.0, 0.0, entering=1.0)
    east = belief.mass[0]  # flies east: the three western columns had no predecessor
    assert east[:, :3].min() == pytest.approx(1)
    assert east[:, 3:].max() == pytest.approx(0)


def test_refining_and_coarsening_keep_mean_and_mass() -> None:
    belief = at(30, -40, heading=7)
    belief.mass[...] = gaussian(belief, np.array([33.0, -41.0]), np.eye(2) * 400, (belief.headings[7], 0.05))
    belief.offset += [2.3, -3.1]
    fine = belief.refined(4, 4, 96, 32)
    before, after = belief.moments(), fine.moments()
    assert fine.total() == pytest.approx(belief.total(), rel=1e-3)
    assert after.mean == pytest.approx(before.mean, abs=0.5)
    assert after.std_m == pytest.approx(before.std_m, rel=0.03)
    back = uniform(61, 61, -300, 300, CELL, 36)
    back.mass[...] = 0
    fine.deposit_into(back)
    assert back.moments().mean == pytest.approx(after.mean, abs=0.01)
    assert back.total() == pytest.approx(belief.total(), rel=1e-3)
