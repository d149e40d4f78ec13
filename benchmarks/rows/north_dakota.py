"""North Dakota: seven years of one ground, every ordered pair at least five years apart."""

from __future__ import annotations

from dataclasses import replace

from by_rows import Skipped
from observation import HeightUnknown, Rough
from results import Figure
from scoring import inside95_pct

from kittiwake_runtime.localization.map_build import find_bundle
from rows.courses import Course, fly_ncc, fly_product, ncc_key
from rows.figures import (
    flight_figures,
    judged,
    measure_course,
    ncc_figures,
    noted,
    registration_figure,
    update_times,
)
from rows.run import Run, of_bundle, of_data

ND160 = judged(
    converged=">= 99.5", right=None, updates="<= 6", false="0", error_m="<= 4", inside95="90 - 98", sigma_ratio="<= 2"
)
ND320 = judged(converged=None, updates="<= 4", false="0", error_m=None, inside95=None)
ND100 = judged(converged=">= 95", updates="<= 15", false="0", error_m=None, inside95=None)
ROUGH = judged(converged=">= 97", updates=None, false="0", error_m="<= 6", inside95=None)
UNKNOWN = judged(converged=">= 95", updates="<= 12", false="0", error_m=None, inside95=None)
TUNED = judged(converged=None, updates="<= 4.5", false="0", error_m=None, inside95=None)

FLIGHTS = 400
SHIPPED_FLIGHTS = 100
"""Of the shipped model beside the fine-tuned one."""


def measure_nd160(run: Run) -> list[Figure]:
    """At 160 m: the product, the baseline with either feature, the time of an update and the registration."""
    place = run.north_dakota
    course = Course(place, 160.0)
    ours = fly_product(run, course, run.count(FLIGHTS), "nd160")
    rival = fly_ncc(run, course, run.ncc_count(quick=2), "nd160")
    data = of_data(place, of_bundle(run.bundle))
    figures = flight_figures("nd160", ND160, ours, data, rival)
    figures += ncc_figures("nd160", ND160, rival, of_data(place, f"key {ncc_key(course)}"))
    doubled = fly_ncc(run, course, run.ncc_count(), "nd160", fold=2)
    figures += ncc_figures("nd160", ND160, doubled, of_data(place, f"key {ncc_key(course, 2)}"), ".ncc_fold2")
    figures.append(Figure("nd160.inside95_all", inside95_pct(ours), "%", len(ours), data=data))
    return [*figures, update_times("nd160", ours, rival), registration_figure("nd160", place)]


def measure_nd320(run: Run) -> list[Figure]:
    """At 320 m."""
    return measure_course(run, "nd320", ND320, Course(run.north_dakota, 320.0), FLIGHTS)


def measure_nd100(run: Run) -> list[Figure]:
    """At 100 m."""
    return measure_course(run, "nd100", ND100, Course(run.north_dakota, 100.0), FLIGHTS)


def measure_rough(run: Run) -> list[Figure]:
    """Scale, tilt and height a little wrong."""
    note = "focal length up to 5 % wrong, height 3 m, tilt up to 20° known to 0.4°; through a pinhole"
    course = Course(run.north_dakota, 160.0, Rough())
    return measure_course(run, "nd160.rough", ROUGH, course, FLIGHTS, note=note)


def measure_unknown(run: Run) -> list[Figure]:
    """Height above take-off only; the baseline has no scales to try, and takes the ground to be level with it."""
    note = "true height above ground .7 to 1.3 of the assumed one, walking by .02 an update"
    course = Course(run.north_dakota, 160.0, HeightUnknown())
    return measure_course(run, "height.unknown", UNKNOWN, course, FLIGHTS, quick_flights=1, note=note)


def measure_tuned(run: Run) -> list[Figure]:
    """A model fine-tuned on the western half, flown in the eastern half over the whole map."""
    if run.tuned_path is None:
        raise Skipped("no model fine-tuned on the western half was given; --tuned-bundle PATH")
    place = run.north_dakota
    west, south, east, north = place.common_area
    course = Course(replace(place, flown=((west + east) / 2, south, east, north)), 160.0)
    bundle = find_bundle(run.tuned_path)
    ours = fly_product(run, course, run.count(FLIGHTS), "nd160.tuned", bundle)
    shipped = fly_product(run, course, run.count(SHIPPED_FLIGHTS), "nd160, eastern half")
    figures = flight_figures("nd160.tuned", TUNED, ours, of_data(place, of_bundle(bundle)), shipped)
    return noted(figures, f"the baseline is the shipped model on the first {len(shipped)} of these flights")
