"""The baseline finds what was planted, and its filter moves mass where the vehicle went."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from baselines import ncc
from baselines.ncc import CELL_M, HEADINGS, NccLocalizer, NccMap, ScoreLikelihood, predict
from flights import Odometry, cut_patch, fly, plan_flight
from places import Raster

FOOTPRINT_M = 160.0


@pytest.fixture
def mosaic() -> Raster:
    """1.2 x 1.0 km at 5 m of fields of many sizes, no two places alike."""
    rng = np.random.default_rng(4)
    grey = np.zeros((200, 240), np.float32)
    for cells in (8, 20, 40):
        grey += cv2.resize(rng.random((cells, cells), np.float32), (240, 200), interpolation=cv2.INTER_NEAREST)
    return Raster(grey / grey.max(), 5000.0, 7000.0, 5.0)


@pytest.mark.parametrize("fold", [1, 2])
@pytest.mark.parametrize("state", [(0, 10, 12), (7, 20, 30), (22, 5, 40)])
def test_finds_a_planted_view(mosaic: Raster, fold: int, state: tuple[int, int, int]) -> None:
    ncc_map = NccMap(mosaic, FOOTPRINT_M, fold)
    eastings, northings = ncc_map.cell_centres()
    k, row, col = state
    pose = np.array([eastings[col], northings[row], 2 * math.pi * k / HEADINGS])
    scores = ncc_map.scores(cut_patch(mosaic, pose, FOOTPRINT_M))
    assert scores.shape == (36, len(northings), len(eastings))
    assert ncc_map.nearest_state(pose) == state
    found = np.unravel_index(int(np.argmax(scores)), scores.shape)
    assert found[0] == k and max(abs(found[1] - row), abs(found[2] - col)) <= 1
    assert 0.5 < scores.max() <= 1.02 and scores.min() >= -1.02


def test_only_a_doubled_angle_stands_a_change_of_sign(mosaic: Raster) -> None:
    negative = Raster(1.0 - mosaic.grey, mosaic.west_m, mosaic.north_m, mosaic.gsd_m)
    pose = np.array([5600.0, 6500.0, 0.0])
    patch = cut_patch(negative, pose, FOOTPRINT_M)
    scores = [NccMap(mosaic, FOOTPRINT_M, fold).scores(patch).max(axis=0).max() for fold in (1, 2)]
    assert scores[1] > 0.6 > scores[0]


def test_scores_match_a_direct_correlation(mosaic: Raster) -> None:
    ncc_map = NccMap(mosaic, FOOTPRINT_M)
    patch = cut_patch(mosaic, np.array([5500.0, 6400.0, 1.0]), FOOTPRINT_M)
    templates = ncc.view_features(patch, FOOTPRINT_M, 1)
    features = ncc._map_features(mosaic, 100, 120, 1)
    disc = ncc._turned_views(ncc._inner(ncc.disc_mask()), FOOTPRINT_M)[0]
    for k, row, col in ((0, 3, 4), (11, 20, 31), (30, 41, 50)):
        best = -1.0
        for r, c in ((2 * row + i, 2 * col + j) for i in (0, 1) for j in (0, 1)):
            window = features[r : r + 17, c : c + 17]
            product = np.sum(window * np.conj(templates[k])).real
            norm = math.sqrt(np.sum(np.abs(templates[k]) ** 2) * np.sum(np.abs(window) ** 2 * disc))
            best = max(best, product / norm)
        assert ncc_map.scores(patch)[k, row, col] == pytest.approx(best, abs=1e-3)


def test_predict_moves_each_heading_its_own_way_and_keeps_mass() -> None:
    belief = np.zeros((HEADINGS, 40, 40), np.float32)
    for k in (0, 9, 18):
        belief[k, 20, 20] = 1 / 3
    moved = predict(belief, Odometry(5 * CELL_M, 0.0, 0.0, 2.0, math.radians(1.5)))
    assert moved.sum() == pytest.approx(1.0, abs=1e-4)
    for k, (row, col) in {0: (20, 25), 9: (15, 20), 18: (20, 15)}.items():  # east, north, west
        assert np.unravel_index(np.argmax(moved[k]), (40, 40)) == (row, col)


def test_predict_turns_and_blurs_by_the_noise() -> None:
    belief = np.zeros((HEADINGS, 40, 40), np.float32)
    belief[4, 20, 20] = 1.0
    turned = predict(belief, Odometry(0.0, 0.0, math.radians(25.0), 0.0, 0.0)).sum(axis=(1, 2))
    np.testing.assert_allclose(turned[[6, 7]], 0.5, atol=1e-5)
    sigma_m = 0.5 * CELL_M
    spread = predict(belief, Odometry(0.0, 0.0, 0.0, sigma_m, 0.0)).sum(axis=(0, 1))
    assert spread @ (np.arange(40) - 20.0) ** 2 == pytest.approx(0.25, rel=0.2)


def test_mass_that_leaves_the_map_is_lost() -> None:
    belief = np.zeros((HEADINGS, 10, 10), np.float32)
    belief[0, 5, 9] = 1.0
    assert predict(belief, Odometry(100.0, 0.0, 0.0, 2.0, 0.0)).sum() < 1e-6


def test_likelihood_is_the_ratio_of_two_normals() -> None:
    rng = np.random.default_rng(0)
    right, wrong = rng.normal(0.4, 0.15, 4000), rng.normal(0.1, 0.15, 40000)
    ratio = ScoreLikelihood.fit(right, wrong).ratio(np.array([0.1, 0.25, 0.4], np.float32))
    exact = np.exp([-2.0, 0.0, 2.0])  # (s - .25) * .3 / .15²
    np.testing.assert_allclose(ratio, 0.9 * exact + 0.1, rtol=0.2)


def test_likelihood_never_falls_with_the_score_and_has_a_floor() -> None:
    rng = np.random.default_rng(0)
    table = ScoreLikelihood.fit(rng.normal(0.3, 0.1, 60), rng.normal(0.0, 0.1, 9000)).table
    assert (np.diff(table) >= 0).all()
    assert table.min() >= 0.1


def test_localizes_a_flight_over_its_own_map(mosaic: Raster) -> None:
    pairs = [(mosaic, mosaic)]
    likelihood = ncc.calibrate(pairs, FOOTPRINT_M, np.random.default_rng(1))
    plan = plan_flight((("m", "q"),), index=0, footprint_m=FOOTPRINT_M, area=mosaic.bounds, seed=3)
    localizer = NccLocalizer(NccMap(mosaic, FOOTPRINT_M), likelihood)
    for _, observation in zip(range(12), fly(plan, mosaic), strict=False):
        fix = localizer.update(observation.step, observation.view.patch)
    assert fix.converged and fix.position_std_m < 60
    assert math.dist((fix.easting_m, fix.northing_m), observation.pose[:2]) < 20
    assert abs(math.remainder(fix.heading_rad - observation.pose[2], 2 * math.pi)) < math.radians(10)


def test_recall_on_the_same_date_is_high(mosaic: Raster) -> None:
    ncc_map = NccMap(mosaic, FOOTPRINT_M)
    rng = np.random.default_rng(0)
    poses = np.column_stack([rng.uniform(5200, 6000, 15), rng.uniform(6200, 6800, 15), rng.uniform(-3, 3, 15)])
    assert np.mean(ncc.single_frame_hits(ncc_map, mosaic, poses, rng)) >= 0.8


def test_map_smaller_than_the_footprint(mosaic: Raster) -> None:
    small = Raster(mosaic.grey[:20, :20], 0.0, 100.0, 5.0)
    with pytest.raises(ValueError, match="smaller than the footprint"):
        NccMap(small, FOOTPRINT_M)
