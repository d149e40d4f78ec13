"""Views turned to a heading, against closed forms; what a descriptor says of itself and gives back."""

from __future__ import annotations

import math
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.errors import FrameError
from kittiwake_runtime.localization.descriptor import Descriptor, rotated_views
from kittiwake_runtime.localization.footprint import DISC_PX, disc_mask
from kittiwake_runtime.localization.map_build import find_bundle

AXIS = np.arange(DISC_PX) - DISC_PX // 2
EAST, NORTH = AXIS[None, :], -AXIS[:, None]


def waves(forward: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Grey without symmetry, known at every point; samples."""
    return 0.5 + 0.2 * np.sin(0.25 * forward + 0.4) + 0.15 * np.cos(0.2 * left - 0.1 * forward) + 0.004 * left


@given(heading=st.floats(-10, 10))
@settings(max_examples=40)
def test_a_turned_view_shows_the_ground_north_up(heading: float) -> None:
    patch = waves(NORTH, -EAST).astype(np.float32)  # up is forward, right is right
    (view,) = rotated_views(patch, np.array([heading]), 1)
    c, s = math.cos(heading), math.sin(heading)
    expected = waves(c * EAST + s * NORTH, c * NORTH - s * EAST)
    inner = np.hypot(EAST, NORTH) < DISC_PX / 2 - 1  # beyond, the patch's corners may be missing
    assert view[1][inner].min() == 1
    assert np.abs(view[0] - expected)[inner].max() < 0.01


def test_quarter_turns_are_exact() -> None:
    patch = np.random.default_rng(0).random((DISC_PX, DISC_PX), np.float32)
    north, east, south = rotated_views(patch, np.array([np.pi / 2, 0.0, -np.pi / 2]), 1)
    disc = disc_mask(DISC_PX)
    for view, turned in ((north, patch), (east, np.rot90(patch, -1)), (south, np.rot90(patch, 2))):
        np.testing.assert_array_equal(view[1], disc)
        np.testing.assert_allclose(view[0], turned * disc, atol=1e-5)


@given(heading=st.floats(-4, 4), edge=st.floats(-8, 8))
@settings(max_examples=30)
def test_what_was_not_seen_turns_along_and_darkens_nothing(heading: float, edge: float) -> None:
    patch = np.where(np.broadcast_to(NORTH, (DISC_PX, DISC_PX)) < edge, 0.6, np.nan).astype(np.float32)
    (view,) = rotated_views(patch, np.array([heading]), 1)
    forward = math.cos(heading) * EAST + math.sin(heading) * NORTH
    inner = np.hypot(EAST, NORTH) < DISC_PX / 2 - 1
    last_seen = np.ceil(edge) - 1
    assert view[1][inner & (forward < last_seen)].min(initial=1) == 1
    assert view[1][inner & (forward > last_seen + 1)].max(initial=0) == 0
    np.testing.assert_allclose(view[0][view[1] == 1], 0.6, atol=1e-3)
    assert not view[0][view[1] == 0].any()


def test_colours_turn_as_grey_does() -> None:
    patch, headings = np.random.default_rng(3).random((DISC_PX, DISC_PX, 3), np.float32), np.array([0.4, -2.0])
    patch[:9] = np.nan
    views = rotated_views(patch, headings, 3)
    assert views.shape == (2, 4, DISC_PX, DISC_PX)
    for colour in range(3):
        alone = rotated_views(patch[..., colour], headings, 1)
        np.testing.assert_allclose(views[:, [colour, 3]], alone, atol=1e-6)


def test_a_grey_camera_and_a_colour_network_understand_each_other() -> None:
    rgb, headings = np.random.default_rng(4).random((DISC_PX, DISC_PX, 3), np.float32), np.array([1.0])
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    in_grey = rotated_views(grey, headings, 1)
    np.testing.assert_allclose(rotated_views(rgb, headings, 1), in_grey, atol=1e-5)
    np.testing.assert_allclose(rotated_views(grey, headings, 3), in_grey[:, [0, 0, 0, 1]], atol=1e-6)


def test_bad_patches_are_refused() -> None:
    with pytest.raises(FrameError, match=r"\(32, 33\), expected \(33, 33\)"):
        rotated_views(np.zeros((32, 33), np.float32), np.zeros(1), 1)
    with pytest.raises(FrameError, match="no seen pixel"):
        rotated_views(np.full((33, 33), np.nan, np.float32), np.zeros(1), 1)


def test_descriptions_are_unit_vectors_one_for_each_two_samples(box_bundle: Bundle) -> None:
    grey = np.random.default_rng(2).random((41, 45), np.float32)
    with open_engine(box_bundle, device="cpu") as engine:
        descriptor = Descriptor(engine)
        assert (descriptor.dim, descriptor.bundle_sha256) == (8, box_bundle.sha256)
        dense = descriptor.describe(np.stack([grey, np.ones_like(grey)])[None])
        assert dense.shape == (1, 8, 5, 7)
        np.testing.assert_allclose(np.linalg.norm(dense, axis=1), 1, atol=1e-3)
        views = rotated_views(grey[4:37, 6:39], np.array([0.0, 1.0, 2.0]), 1)
        assert descriptor.describe(views).shape == (3, 8, 1, 1)


def test_a_network_s_threads_leave_the_cores_to_the_filter() -> None:
    with open_engine(find_bundle(), device="cpu", threads=2) as engine:
        descriptor, used_s = Descriptor(engine), []
        patch = waves(NORTH, -EAST).astype(np.float32)
        views = rotated_views(patch, np.linspace(0, 6, 36), descriptor.colours)
        for _ in range(4):
            descriptor.describe(views)
            before_s = time.process_time()  # of all threads: none is to wait for the next run by spinning
            time.sleep(0.1)
            used_s.append(time.process_time() - before_s)
        assert min(used_s) < 0.01, "what else this process does may come between once"
