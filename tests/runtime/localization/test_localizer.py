"""The localizer finding itself: by steps of any length, hovering, from a prior, at an unknown height.

Most flights are over countries of noise, whose descriptor is exact and whose calibration is measured; the last
ones are over the procedural world, from images.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import pyproj
import pytest
from noise_flights import FALSE_M, falses, first_converged, flown, noisy_legs, off_m, start

from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.errors import BundleError, FrameError, MapError
from kittiwake_runtime.localization.filter import SCALES_UNKNOWN
from kittiwake_runtime.localization.flight import Observation, fly, likely_scale
from kittiwake_runtime.localization.flight_log import Odometry, OdometryStep, Pose, odometry_steps
from kittiwake_runtime.localization.localizer import Localizer, LocalizerConfig
from kittiwake_runtime.localization.map_build import build_index, find_bundle
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, simulate_flight
from kittiwake_runtime.localization.world import World, write_geotiff


@pytest.mark.parametrize("step_m", [5.0, 30.0, 100.0, 300.0])
def test_it_finds_itself_by_steps_of_any_length(country: Any, step_m: float) -> None:
    for seed in range(2):
        frames = max(12, round(1000 / step_m))
        found = flown(start(country), country, itertools.islice(country.walk(seed, step_m=step_m), frames), seed)
        first = first_converged(found)
        assert first * step_m <= max(800, 7 * step_m)
        assert falses(found) == 0
        assert median(off for _, off in found[first:]) < 12
        assert all(fix.reason for fix, _ in found[:first])


def test_only_frames_after_a_place_is_claimed_speak_for_it(country: Any) -> None:
    config = LocalizerConfig()
    for seed in range(4):
        found = [fix for fix, _ in flown(start(country), country, itertools.islice(country.walk(seed), 30), seed)]
        first = next(n for n, fix in enumerate(found) if fix.is_believed)
        claimed = first - next(n for n in range(first) if found[first - 1 - n].position_std_m >= config.claim_std_m)
        assert claimed < first, "the frame that chose the place is not the one that declares it"
        spoken = [min(fix.evidence, config.frame_evidence) for fix in found[claimed + 1 : first + 1]]
        assert sum(spoken) >= config.converged_evidence > sum(spoken[:-1])
        assert len(spoken) >= 2, "one frame that fits by chance is not enough"
        waiting = [fix for fix in found[:first] if fix.position_std_m < config.converged_std_m]
        assert all("more frames to agree" in fix.reason for fix in waiting if fix.elsewhere < 0.1)


@pytest.mark.parametrize("frames", [2, 6])
def test_ten_minutes_of_the_same_view_sharpen_nothing(country: Any, frames: int) -> None:
    localizer = start(country)
    legs = list(itertools.islice(country.walk(1), frames))
    before, _ = flown(localizer, country, legs)[-1]
    view = country.view(*legs[-1][1], noise=77)
    rng, swing = np.random.default_rng(0), np.zeros(2)
    for second in range(600):
        there = rng.normal(0, 0.3, 2)
        step = OdometryStep(*(there - swing), 0.0, 0.02 * math.hypot(*(there - swing)), 0.0, 1.0)
        swing, now = there, localizer.update(step, view, time_s=5.0 * frames + second)
        assert now.source == "propagated" and "hover" in now.reason
    assert now.state == before.state
    assert now.position_std_m > 0.98 * before.position_std_m
    assert now.heading_std_rad > 0.99 * before.heading_std_rad
    # The swinging alone is 250 m of flight, after which a little of what is elsewhere may be anywhere.
    assert now.elsewhere > 0.9 * before.elsewhere


def test_it_converges_after_it_flies_in(country_maker: Callable[..., Any]) -> None:
    wide = country_maker(beyond=100)
    west, south, _, _ = wide.index.bounds_m
    for seed in range(4):
        course = 0.1 * seed
        poses = [(west - 700 + 100 * n * math.cos(course), south + 500 + 100 * n * math.sin(course), course)
                 for n in range(18)]  # fmt: skip
        entry = next(number for number, pose in enumerate(poses) if pose[0] > west)
        found = flown(start(wide), wide, noisy_legs(poses, seed), seed)
        assert entry <= first_converged(found) <= entry + 6
        assert falses(found) == 0


@pytest.mark.parametrize("direction_deg", [0, 120, 200, 290])
def test_a_reset_of_the_odometry_does_not_move_the_belief(country: Any, direction_deg: int) -> None:
    """The legs have one length and turn as the vehicle does, so carrying the velocity on is exact."""
    for seed in range(2):
        legs = list(itertools.islice(country.walk(seed), 16))
        path, yaw = [0j], [legs[0][1][2]]
        for (_, before), (_, after) in itertools.pairwise(legs):
            path.append(path[-1] + complex(after[0] - before[0], after[1] - before[1]))
            yaw.append(after[2])
        jump = 200 * np.exp(1j * math.radians(direction_deg))
        after_reset = {}
        for reset in (0.0, jump):
            moved = [z + (reset if n >= 9 else 0) for n, z in enumerate(path)]
            poses = [
                Pose(time_s=5.0 * n, roll_deg=0, pitch_deg=0, odometry=Odometry(z.real, z.imag, math.degrees(y)))
                for n, (z, y) in enumerate(zip(moved, yaw, strict=True))
            ]
            localizer = start(country)
            for number, (step, (_, pose)) in enumerate(zip([None, *odometry_steps(poses)], legs, strict=True)):
                view = None if number == 9 else country.view(*pose, noise=1000 * seed + number)
                fix = localizer.update(step, view, time_s=5.0 * number)
                if number == 9:
                    after_reset[reset] = fix
            assert fix.is_believed and off_m(fix, pose) < 20
        plain, jumped = after_reset[0.0], after_reset[jump]
        assert off_m(jumped, (plain.easting_m, plain.northing_m)) <= 1.0
        assert jumped.radius95_m > plain.radius95_m


def test_a_wrong_prior_only_delays(country: Any) -> None:
    index, std_m = country.index, 80.0
    middle = complex(index.e0 + 1000, index.n0 - 1000)
    without, wrong = [], []
    for seed in range(6):
        legs = list(itertools.islice(country.walk(seed), 20))
        without.append(1 + first_converged(flown(start(country), country, legs, seed)))
        here = complex(*legs[0][1][:2])
        deceived = here + 5 * std_m * (middle - here) / abs(middle - here)
        localizer = start(country)
        lat, lon = index.grid.to_wgs84(deceived.real, deceived.imag)
        localizer.set_prior(float(lat), float(lon), 2.4477 * std_m)
        found = flown(localizer, country, legs, seed)
        wrong.append(1 + first_converged(found))
        assert falses(found) == 0
    assert mean(wrong) <= 2 * mean(without)


def test_a_right_prior_helps(country: Any) -> None:
    index, legs = country.index, list(itertools.islice(country.walk(3), 8))
    localizer = start(country)
    lat, lon = index.grid.to_wgs84(legs[0][1][0] + 20, legs[0][1][1] - 25)
    localizer.set_prior(float(lat), float(lon), 100.0)
    fix, off = flown(localizer, country, legs[:1], 3)[0]
    assert off < 40 and fix.position_std_m < 300
    assert flown(start(country), country, legs[:1], 3)[0][0].position_std_m > 500


def test_a_pose_carried_forward_is_off_by_little_more_than_its_odometry(country: Any) -> None:
    more = []
    for seed in range(8):
        localizer, rng = start(country), np.random.default_rng(seed)
        legs = list(itertools.islice(country.walk(seed), 9))
        fix, off = flown(localizer, country, legs, seed)[-1]
        assert fix.is_believed
        truth, odometry, pose = legs[-1][1], 0j, fix
        position, heading, felt = complex(*truth[:2]), truth[2], 0.0
        for _ in range(20):  # two seconds at 20 m/s in a gentle turn, ten samples a second
            sigma, turn = 0.02 * 2.0, 0.01
            noise, turn_noise = complex(*rng.normal(0, sigma, 2)), rng.normal(0, math.radians(0.05))
            step = OdometryStep(2.0 + noise.real, noise.imag, turn + turn_noise, sigma, math.radians(0.05), 0.1)
            pose = pose.carried(step)
            odometry += (2.0 + noise) * np.exp(1j * felt)
            felt += turn + turn_noise
            position, heading = position + 2.0 * np.exp(1j * heading), heading + turn
        # What the odometry alone got wrong, had it begun at the truth.
        drift = abs(complex(*truth[:2]) + odometry * np.exp(1j * truth[2]) - position)
        more.append(off_m(pose, (position.real, position.imag)) - off - drift)
        assert pose.time_s == pytest.approx(fix.time_s + 2.0) and pose.source == "propagated"
        assert pose.age_s == pytest.approx(fix.age_s + 2.0)
        assert pose.radius95_m > fix.radius95_m
    assert median(more) <= 1.0
    assert max(more) <= 40 * math.radians(5)  # its heading is off by less than five degrees


def test_at_a_zone_s_edge_position_and_heading_are_those_of_pyproj(country_maker: Callable[..., Any]) -> None:
    to_grid = pyproj.Transformer.from_crs(4326, 32635, always_xy=True)
    geod = pyproj.Geod(ellps="WGS84")
    lon, lat, azimuth = 29.99, 60.0, 75.0  # zone 35 ends at 30 E: grid north is 2.6 degrees off
    east, north = to_grid.transform(lon, lat)
    edge = country_maker(west_m=round(east) - 600.0, north_m=round(north) + 900.0)
    places, poses = [], []
    for _ in range(10):
        here = to_grid.transform(lon, lat)
        ahead = to_grid.transform(*geod.fwd(lon, lat, azimuth, 1.0)[:2])
        poses.append((*here, math.atan2(ahead[1] - here[1], ahead[0] - here[0])))
        places.append((lat, lon, azimuth))
        lon, lat, back = geod.fwd(lon, lat, azimuth, 100.0)
        azimuth = back + 180.0
    localizer = start(edge)
    localizer.set_prior(places[0][0], places[0][1], 150.0)
    localizer.set_heading(places[0][2], 5.0)
    turned = localizer.filter.belief.moments().heading_rad
    assert math.degrees(math.remainder(turned - poses[0][2], 2 * math.pi)) == pytest.approx(0, abs=1.0)
    found = flown(localizer, edge, noisy_legs(poses), 1)
    yaws = []
    for (fix, _), (lat, lon, azimuth) in list(zip(found, places, strict=True))[4:]:
        assert fix.is_believed
        got_lat, got_lon = fix.wgs84()
        assert geod.inv(lon, lat, got_lon, got_lat)[2] < 15
        yaws.append(math.remainder(fix.yaw_deg() - azimuth, 360))
    assert abs(mean(yaws)) < 1.2  # grid north taken for true north would be off by 2.6


def test_a_frame_that_moves_a_claim_does_not_speak_for_it(country: Any) -> None:
    legs = list(itertools.islice(country.walk(2), 20))
    declared = [first_converged(flown(start(country, claim_jump_std=most), country, legs))
                for most in (0.0, LocalizerConfig().claim_jump_std, math.inf)]  # fmt: skip
    assert declared[0] == len(legs), "where every frame moves it none speaks for it"
    assert declared[2] <= declared[1] < len(legs)


def test_what_is_waited_for_is_told(country: Any) -> None:
    """Several places, then one that is not known well enough."""
    config = LocalizerConfig(converged_std_m=0.5)
    legs = itertools.islice(country.walk(1), 12)
    for fix, _ in flown(start(country, converged_std_m=config.converged_std_m), country, legs):
        is_one = fix.position_std_m < config.claim_std_m
        told = "the place is known to" if is_one else "several places fit"
        assert fix.reason.startswith(told) or fix.elsewhere > config.converged_elsewhere
    assert is_one and fix.reason.endswith("m only")


@pytest.mark.parametrize("height", [0.7, 1.0, 1.24])
def test_an_unknown_height_is_found_among_several_scales(country: Any, height: float) -> None:
    localizer = start(country)
    for number, (step, pose) in enumerate(itertools.islice(country.walk(4), 12)):
        patches = [country.view(*pose, noise=number, height=height / scale) for scale in SCALES_UNKNOWN]
        fix = localizer.update(step, patches, time_s=5.0 * number)
    assert fix.is_believed and off_m(fix, pose) < 15
    assert likely_scale(localizer) == pytest.approx(height, rel=0.06)


def test_cells_without_data_say_nothing(country_maker: Callable[..., Any]) -> None:
    valid = np.ones((200, 200), bool)
    valid[:, 90:130] = False  # a lake, four steps across
    lake = country_maker(valid=valid)
    legs = noisy_legs([(lake.index.e0 + 300.0 + 100.0 * n, lake.index.n0 - 1000.0, 0.0) for n in range(16)])
    found = flown(start(lake), lake, legs, 2)
    over = [fix for (fix, _), (_, pose) in zip(found, legs, strict=True) if 930 < pose[0] - lake.index.e0 < 1270]
    assert len(over) >= 3
    for fix in over:
        assert fix.is_believed and fix.source == "propagated"
        assert fix.evidence == pytest.approx(0, abs=0.5)
    assert falses(found) == 0
    assert found[-1][1] < 15


def test_what_does_not_fit_is_refused(country: Any) -> None:
    engine = copy.copy(country.engine)
    engine.bundle = copy.copy(engine.bundle)
    engine.bundle.sha256 = "0" * 64
    with pytest.raises(MapError, match="was made by the model noise") as caught:
        Localizer(country.index, engine)
    assert "map build" in caught.value.hint
    with pytest.raises(BundleError, match="no likelihood 'guess'"):
        start(country, likelihood="guess")


@pytest.mark.parametrize("field", ["forward_m", "left_m", "turn_rad", "sigma_m", "sigma_turn_rad"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_odometry_that_is_not_finite_is_refused_and_does_nothing(country: Any, field: str, value: float) -> None:
    localizer = start(country)
    before = localizer.filter.belief.mass.copy()
    step = replace(OdometryStep(100.0, 0.0, 0.0, 2.0, 0.02), **{field: value})
    with pytest.raises(FrameError, match="not finite"):
        localizer.update(step, None, time_s=1.0)
    np.testing.assert_array_equal(localizer.filter.belief.mass, before)


def test_time_that_stands_still_or_goes_back_is_refused(country: Any) -> None:
    localizer = start(country)
    localizer.update(None, None, time_s=10.0)
    for time_s in (10.0, 9.0, math.nan):
        with pytest.raises(FrameError, match="does not come after"):
            localizer.update(None, None, time_s=time_s)
    localizer.reset()
    assert localizer.update(None, None, time_s=1.0).state == "searching"


@pytest.mark.slow
@pytest.mark.parametrize("height_is_known", [True, False])
def test_from_images_over_the_procedural_world(tmp_path: Path, height_is_known: bool) -> None:
    """As shipped: a map of one summer's day, a flight on another."""
    world, bounds = World(4), (0.0, 0.0, 2500.0, 2500.0)
    write_geotiff(world, tmp_path / "map.tif", bounds, 5.0, "summer", progress=False)
    bundle = find_bundle()
    index = build_index(
        [tmp_path / "map.tif"], tmp_path / "map.kwmap", footprint_m=160.0, bundle=bundle, georef_sigma_m=1.0,
        progress=False,
    )  # fmt: skip
    frames = simulate_flight(world, bounds=bounds, season="summer", date_seed=1, updates=16, seed=2)
    observations = (
        Observation(
            time_s=frame.time_s,
            image=frame.image,
            attitude_rad=frame.attitude_rad,
            height_m=frame.height_agl_m * (1.0 if height_is_known else 1.2),  # 20 % of it is the ground's
            height_is_agl=height_is_known,
            step=frame.step,
            truth=(frame.easting_m, frame.northing_m),
        )
        for frame in frames
    )
    with index, open_engine(bundle, device="cpu") as engine:
        localizer = Localizer(index, engine)
        updates = list(fly(localizer, DEFAULT_CAMERA, observations))
    assert updates[-1].fix.is_believed
    believed = [update for update in updates if update.fix.is_believed]
    assert median(update.error_m for update in believed) < 15
    assert max(update.error_m for update in believed) < FALSE_M
    if not height_is_known:
        assert likely_scale(localizer) == pytest.approx(1 / 1.2, rel=0.08)


def test_the_age_of_the_imagery_comes_from_the_first_frames_time(country: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MapIndex, "age_years", lambda self, time_s: time_s / 1e8)
    localizer = start(country)
    dense = localizer.filter.matcher.dense
    unknown = dense.null
    for time_s, years in ((1e8, 1), (9e8, 1)):  # one flight, one age
        localizer.update(None, None, time_s=time_s)
        assert dense.null == pytest.approx(0.02 + 0.012 * years)
    localizer.reset()
    localizer.update(None, None, time_s=4e8)
    assert 0.04 < dense.null < unknown
