"""What the painted ground shows is what the world itself renders, and it forgets."""

from __future__ import annotations

import numpy as np
import pytest

from kittiwake_ros import painted_ground
from kittiwake_ros.painted_ground import PaintedGround
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Truth, photograph
from kittiwake_runtime.localization.world import World


@pytest.mark.parametrize("height_agl_m", [80.0, 120.0])
def test_a_photograph_is_the_same(height_agl_m: float) -> None:
    truth = Truth(1003.0, 977.0, 0.7, 0.05, -0.03, height_agl_m)
    with PaintedGround(7) as ground:
        seen = photograph(ground, DEFAULT_CAMERA, truth, "autumn", 1, threads=1)
    expected = photograph(World(7), DEFAULT_CAMERA, truth, "autumn", 1, threads=1)
    difference = np.abs(seen.astype(float) - expected)
    assert difference.mean() < 2.5  # of 255; a camera's noise is 6
    shifted = np.abs(np.roll(seen, 1, axis=1).astype(float) - expected)
    assert shifted.mean() > 2 * difference.mean()  # and it lies where it should, to less than a pixel


def test_what_was_painted_is_kept_but_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(painted_ground, "_TILES_KEPT", 12)
    with PaintedGround(7) as ground:
        first = ground.render((0, 0, 50, 50), 1.0, "summer")
        assert first.shape == (50, 50, 3)
        for far in (1, 2):
            ground.render((1000.0 * far, 0, 1000.0 * far + 50, 50), 1.0, "summer")
            assert len(ground._tiles) <= 12
        np.testing.assert_array_equal(ground.render((0, 0, 50, 50), 1.0, "summer"), first)
