"""The baseline as a method that flies (see pilots.py)."""

from __future__ import annotations

import cmath
import math
from dataclasses import replace
from typing import Any

from flights import FlightPlan, Observation, Odometry
from pilots import Pilot, Said
from places import Place, Raster

from baselines.ncc import NccFix, NccLocalizer, NccMap, ScoreLikelihood


class Ncc:
    """The baseline of `baselines/ncc.py`.

    Args:
        place: rasters of the maps.
        likelihoods: by the two dates of a pair, in either order.
        fold: which orientation feature.
    """

    def __init__(self, place: Place, likelihoods: dict[frozenset[str], ScoreLikelihood], fold: int = 1) -> None:
        self._place, self._likelihoods, self._fold = place, likelihoods, fold

    def start(self, plan: FlightPlan) -> Pilot:
        """A uniform belief."""
        ncc_map = _ncc_map(self._place.rasters[plan.map_date], plan.footprint_m, self._fold)
        likelihood = self._likelihoods[frozenset((plan.map_date, plan.query_date))]
        return _Correlated(NccLocalizer(ncc_map, likelihood))


class _Correlated:
    """A flight of the baseline. It knows no lever: it follows the view's centre, and the vehicle is found from that."""

    def __init__(self, localizer: NccLocalizer) -> None:
        self._localizer, self._lever = localizer, 0j

    def __call__(self, seen: Observation) -> Said:
        lever = complex(*seen.view.lever)
        fix = self._localizer.update(_step_of_centre(seen.step, self._lever, lever), seen.view.patch)
        self._lever = lever
        vehicle = _vehicle(fix, lever)
        return Said(vehicle.real, vehicle.imag, fix.converged, math.nan, fix.position_std_m)


def _step_of_centre(step: Odometry | None, before: complex, after: complex) -> Odometry | None:
    """How the view's centre moved, in the body of the earlier frame; levers are forward + i left."""
    if step is None:
        return None
    moved = complex(step.forward_m, step.left_m) + after * cmath.exp(1j * step.turn_rad) - before
    return replace(step, forward_m=moved.real, left_m=moved.imag)


def _vehicle(fix: NccFix, lever: complex) -> complex:
    """Easting + i northing of the vehicle whose view is centred on the fix."""
    return complex(fix.easting_m, fix.northing_m) - lever * cmath.exp(1j * fix.heading_rad)


_ncc_maps: dict[tuple[Any, ...], NccMap] = {}


def _ncc_map(raster: Raster, footprint_m: float, fold: int) -> NccMap:
    """One spectrum for each raster, footprint and fold of this process."""
    key = (raster.sha256, raster.west_m, raster.north_m, raster.gsd_m, footprint_m, fold)
    if key not in _ncc_maps:
        _ncc_maps[key] = NccMap(raster, footprint_m, fold)
    return _ncc_maps[key]
