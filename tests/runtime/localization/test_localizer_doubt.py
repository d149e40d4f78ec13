"""What the localizer does not believe, or no longer: off the map, blind, deceived, turned, carried away."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from noise_flights import falses, first_converged, flown, noisy_legs, off_m, start

from kittiwake_runtime.localization.flight_log import OdometryStep
from kittiwake_runtime.localization.localizer import LocalizerConfig


@pytest.mark.parametrize("flights", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_over_another_place_it_never_converges(country: Any, country_maker: Callable[..., Any], flights: int) -> None:
    other = country_maker(seed=2)
    for seed in range(flights):
        found = flown(start(country), other, itertools.islice(other.walk(seed), 50), seed)
        assert first_converged(found) == 50
    assert found[-1][0].elsewhere > 0.5
    assert "not on this map" in found[-1][0].reason


@pytest.mark.parametrize(("doubt", "given_up"), [(0.02, None), (0.2, False), (0.6, True)])
def test_a_doubtful_place_is_no_fix_and_is_given_up_only_above_half(
    country: Any, doubt: float, given_up: bool | None
) -> None:
    localizer, legs = start(country), list(itertools.islice(country.walk(1), 16))
    before, _ = flown(localizer, country, legs[:12])[-1]
    assert before.is_believed
    localizer.filter.elsewhere = doubt
    fix = localizer.update(legs[12][0], None, time_s=60.0, reason="blind")
    if given_up is None:
        assert fix.is_believed
        return
    assert fix.state == "lost"
    assert fix.reason == "lost: blind"
    assert localizer.filter.covers_map == given_up
    after = [
        localizer.update(step, country.view(*pose, noise=n), time_s=65.0 + 5 * n)
        for n, (step, pose) in enumerate(legs[13:])
    ]
    if not given_up:  # the next frames that fit dispel it
        assert after[0].is_believed or "fits here badly" in after[0].reason or "frames to agree" in after[0].reason
        assert after[-1].is_believed and off_m(after[-1], legs[-1][1]) < 20


@pytest.mark.parametrize("seed", range(4))
def test_what_was_lost_is_declared_anew_by_more_than_at_first(country: Any, seed: int) -> None:
    config, legs = LocalizerConfig(frame_evidence=0.8), list(itertools.islice(country.walk(seed), 40))
    localizer = start(country, frame_evidence=config.frame_evidence)
    flown(localizer, country, legs[:20])
    localizer.filter.elsewhere = 0.2
    assert localizer.update(legs[20][0], None, time_s=100.0, reason="blind").state == "lost"
    spoken: list[float] = []
    for number, (step, pose) in enumerate(legs[21:]):
        fix = localizer.update(step, country.view(*pose, noise=number), time_s=105.0 + 5 * number)
        spoken.append(min(fix.evidence, config.frame_evidence))
        if fix.is_believed:
            break
    assert fix.is_believed
    assert sum(spoken) >= config.doubtful_evidence > config.converged_evidence


@pytest.mark.parametrize("seed", range(4))
def test_what_spoke_against_a_place_is_made_good_before_it_is_declared(country: Any, seed: int) -> None:
    legs = list(itertools.islice(country.walk(seed), 30))
    localizer = start(country, converged_evidence=4.0, frame_evidence=0.5, claim_jump_std=math.inf)
    config = localizer.config
    before, _ = flown(localizer, country, legs[:6])[-1]
    assert before.position_std_m < config.claim_std_m and not before.is_believed
    for number, (step, (x, y, heading)) in enumerate(legs[6:8], 6):
        away = country.index.e0 + 300 + (x - country.index.e0 + 400) % 1400
        fix = localizer.update(step, country.view(away, y, heading + 2, noise=number), time_s=5.0 * number)
        assert fix.evidence < -config.frame_evidence
    most, total = config.frame_evidence, -config.frame_evidence
    for number, (step, pose) in enumerate(legs[8:], 8):
        fix = localizer.update(step, country.view(*pose, noise=number), time_s=5.0 * number)
        total = max(total, -most) + min(fix.evidence, most)
        if fix.is_believed:
            break
        assert total < config.converged_evidence
    assert fix.is_believed and total >= config.converged_evidence and off_m(fix, pose) < 20


def test_a_heading_that_is_not_known_well_is_neither_declared_nor_kept(country: Any) -> None:
    legs = list(itertools.islice(country.walk(1), 16))
    never = [fix for fix, _ in flown(start(country, doubtful_heading_std_rad=math.radians(0.5)), country, legs)]
    assert not any(fix.is_believed for fix in never)
    assert re.fullmatch(r"the heading is known to \d\.\d degrees only", never[-1].reason)
    localizer = start(country)
    kept = flown(localizer, country, legs[:12])[-1][0]
    assert kept.is_believed
    turned = replace(legs[12][0], sigma_turn_rad=math.radians(8))
    carried = localizer.update(turned, None, time_s=60.0, reason="blind")
    assert carried.is_believed and carried.heading_std_rad > math.radians(3.75), "carried forward it may spread"
    blank = np.full((33, 33), 0.5, np.float32)
    fix = localizer.update(legs[13][0], blank, time_s=65.0)
    assert fix.state == "lost" and "degrees only" in fix.reason


def test_it_may_leave_the_map_and_come_back(country_maker: Callable[..., Any]) -> None:
    wide = country_maker(beyond=100)
    west, south, _, _ = wide.index.bounds_m
    poses = [(west + 500 - 100 * n, south + 1000, math.pi) for n in range(14)]
    poses += [(west - 800 + 100 * n, south + 1000, 0.0) for n in range(1, 21)]
    found = flown(start(wide), wide, noisy_legs(poses), 5)
    assert found[5][0].is_believed
    away = [fix for (fix, _), pose in zip(found, poses, strict=True) if pose[0] < west - 100]
    assert all(fix.source == "propagated" for fix in away)
    assert falses(found) == 0
    assert all(fix.is_believed and off < 20 for fix, off in found[-6:])


def test_blank_frames_are_survived_and_said(country: Any) -> None:
    localizer = start(country)
    pose = (country.index.e0 + 300.0, country.index.n0 - 1000.0, 0.0)
    legs = noisy_legs([(pose[0] + 100.0 * n, pose[1], 0.0) for n in range(14)])
    flown(localizer, country, legs[:6])
    radii = []
    for number, (step, _) in enumerate(legs[6:11], 6):
        view = np.full((33, 33), np.nan, np.float32) if number % 2 else None
        fix = localizer.update(step, view, time_s=5.0 * number, reason="blurred")
        assert (fix.state, fix.source, fix.reason) == ("converged", "propagated", "blurred")
        assert fix.age_s == pytest.approx(5.0 * (number - 5)) and math.isnan(fix.evidence)
        radii.append(fix.radius95_m)
    assert radii == sorted(radii)
    for number, (step, pose) in enumerate(legs[11:], 11):
        fix = localizer.update(step, country.view(*pose, noise=number), time_s=5.0 * number)
    assert fix.source == "map_matched" and off_m(fix, pose) < 15


def test_kidnapped_it_is_lost_then_found_again(country: Any) -> None:
    west, south, _, _ = country.index.bounds_m
    for seed in range(4):
        legs = list(itertools.islice(country.walk(seed), 12))
        x, y, heading = legs[-1][1]
        carried = (x - 900 if x > west + 1000 else x + 900, y - 500 if y > south + 1000 else y + 500, heading + 1.5)
        legs += itertools.islice(country.walk(100 + seed, carried), 1, 22)
        found = flown(start(country), country, legs, seed)
        states = [fix.state for fix, _ in found]
        lost = states.index("lost")
        assert 12 < lost <= 12 + 5
        assert found[lost][0].reason.startswith("lost: ")
        again = next(n for n in range(lost, len(states)) if states[n] == "converged")
        assert again <= 12 + 16
        assert falses(found[:12]) == falses(found[again:]) == 0


def test_it_is_lost_once_frames_since_the_declaration_speak_against_it(country: Any) -> None:
    localizer, rng = start(country, doubtful_elsewhere=1.0, doubtful_std_m=math.inf), np.random.default_rng(5)
    legs = list(itertools.islice(country.walk(1), 20))
    assert flown(localizer, country, legs[:12])[-1][0].is_believed
    west, south, _, _ = country.index.bounds_m
    against = 0.0
    for number, (step, _) in enumerate(legs[12:], 12):
        view = country.view(west + rng.uniform(300, 1700), south + rng.uniform(300, 1700), rng.uniform(0, 6), number)
        fix = localizer.update(step, view, time_s=5.0 * number)
        against = max(against, 0.0) - min(fix.evidence, localizer.config.frame_evidence)
        if against >= localizer.config.doubtful_evidence:
            break
        assert fix.is_believed
    assert fix.state == "lost"
    assert fix.reason == "lost: the last frames speak against this place"


def test_a_radius_beyond_the_largest_allowed_is_lost(country: Any) -> None:
    localizer = start(country, max_radius_m=40.0)
    legs = noisy_legs([(country.index.e0 + 300.0 + 100.0 * n, country.index.n0 - 1000.0, 0.0) for n in range(16)])
    flown(localizer, country, legs[:6])
    for number, (step, _) in enumerate(legs[6:], 6):
        fix = localizer.update(step, None, time_s=5.0 * number, reason="night")
        if fix.radius95_m <= 40 and fix.state == "lost":
            pytest.fail("lost within its radius")
        if fix.radius95_m > 40:
            break
    assert fix.state == "lost" and not fix.is_believed
    assert fix.reason == "lost: night"


def test_a_match_that_leaves_it_wide_is_not_believed_and_a_carried_fix_as_wide_is(country: Any) -> None:
    legs = list(itertools.islice(country.walk(3), 10))
    loose = OdometryStep(100.0, 0.0, 0.0, 60.0, math.radians(15))
    matched, carried = start(country, converged_std_m=30.0), start(country, converged_std_m=30.0)
    for localizer in (matched, carried):
        assert flown(localizer, country, legs)[-1][0].is_believed
    west, south, _, _ = country.index.bounds_m
    plain = np.full_like(country.view(west + 1000, south + 1000, 0.0), 0.5)  # fits many places a little
    wide = [localizer.update(loose, view, time_s=60.0) for localizer, view in ((matched, plain), (carried, None))]
    assert all(30 < fix.position_std_m < 163 for fix in wide)  # within the radius that a carried fix may have
    assert [fix.state for fix in wide] == ["lost", "converged"]
    assert "several places fit" in wide[0].reason
    assert wide[1].source == "propagated"
