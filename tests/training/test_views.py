from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from kittiwake_training.localization.views import (
    disc,
    mix_bands,
    turn,
    view,
)


def _smooth(size: int, seed: int = 0) -> np.ndarray:
    rough = np.random.default_rng(seed).random((size // 8, size // 8)).astype(np.float32)
    return cv2.resize(rough, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)


@pytest.mark.parametrize("angle_deg", [0, 30, 90, 215])
@pytest.mark.parametrize("step", [0.5, 1.0, 1.3])
def test_a_rotated_window_is_what_opencv_cuts(angle_deg: float, step: float) -> None:
    image, angle = _smooth(96), math.radians(angle_deg)
    seen = view([torch.from_numpy(image)[None]], torch.tensor([[50.0, 44.0]]), torch.tensor([angle]), [step], 33)
    a, b = step * math.cos(angle), step * math.sin(angle)
    to_image = np.array([[a, -b, 50 - 16 * (a - b)], [b, a, 44 - 16 * (a + b)]])
    expected = cv2.warpAffine(image, to_image, (33, 33), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    assert np.abs(seen[0, 0].numpy() - expected).max() < 0.02  # OpenCV's weights are 5 bits


def test_a_coarse_window_stays_in_place_and_does_not_alias() -> None:
    ramp = np.add.outer(np.arange(160), 2 * np.arange(160)).astype(np.float32)
    checks = (np.indices((160, 160)).sum(axis=0) % 2).astype(np.float32)
    image = torch.from_numpy(np.stack([ramp, checks]))
    seen = view([image], torch.tensor([[80.0, 70.0]]), torch.zeros(1), [2.0], 33)[0]
    rows, columns = np.mgrid[-16:17, -16:17] * 2.0
    np.testing.assert_allclose(seen[0], (70 + rows) + 2 * (80 + columns), atol=1e-2)
    np.testing.assert_allclose(seen[1], 0.5, atol=1e-6)


def test_nothing_is_seen_beyond_the_image() -> None:
    seen = view([torch.ones(1, 40, 40)], torch.tensor([[0.0, 20.0]]), torch.zeros(1), [1.0], 33)
    assert seen[0, 0, :, :15].max() == 0
    assert seen[0, 0, :, 17:].min() == pytest.approx(1)


def test_turning_a_view_undoes_its_heading() -> None:
    image, heading = torch.from_numpy(_smooth(96))[None], torch.tensor([0.7])
    centre = torch.tensor([[48.0, 48.0]])
    seen = view([torch.cat([image, torch.ones_like(image)])], centre, heading, [1.0], 33)
    north_up = view([image], centre, torch.zeros(1), [1.0], 33)
    turned = turn(seen, -heading)
    inside = disc(image.device) > 0
    assert (turned[0, 0] - north_up[0, 0]).abs()[inside].max() < 0.03
    assert turned[0, 1][inside].min() == 1
    assert turned[0, 1][~inside].max() == 0


def test_windows_of_several_images_are_those_of_each_alone() -> None:
    images = [torch.rand(2, 60, 80), torch.rand(2, 90, 70)]
    centre, angle = torch.rand(6, 2) * 50, torch.rand(6) * 6
    together = view(images, centre, angle, [0.7, 1.9], 33)
    apart = [
        view([images[i]], centre[3 * i : 3 * i + 3], angle[3 * i : 3 * i + 3], [(0.7, 1.9)[i]], 33) for i in (0, 1)
    ]
    torch.testing.assert_close(together, torch.cat(apart))


def test_bands_become_colours_within_0_and_1() -> None:
    image = torch.rand(4, 5, 5)
    weights = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.5, -0.3, 0.2]], np.float32)
    green, inverse, mixed, valid = mix_bands(image, weights)
    torch.testing.assert_close(torch.stack([green, valid]), image[[1, 3]])
    torch.testing.assert_close(inverse, 1 - image[0])
    torch.testing.assert_close(mixed, 0.5 * image[0] + 0.3 * (1 - image[1]) + 0.2 * image[2])
