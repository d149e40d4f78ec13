"""How time and memory grow with the map, and how many updates a footprint takes; as figures, a picture and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from results import Figure, write_atomically
from scoring import Track

from rows.courses import Course, fly_product
from rows.figures import flight_figures, judged, known
from rows.north_dakota import FLIGHTS
from rows.run import Run, of_bundle, of_data
from rows.speed import NOTE, costs_of, of_world, ranged

AREAS_KM2 = (10, 30, 100, 300, 1000)
FOOTPRINTS_M = (80, 100, 160, 240, 320)
OWN_ROWS_M = (100, 160, 320)
"""Footprints that other rows fly: their tracks are taken."""
OWN_FLIGHTS = 150
UPDATES = judged(updates=None, converged=None)


def measure_growth(run: Run) -> list[Figure]:
    """Update time and memory against map area; updates and convergence against footprint."""
    figures: list[Figure] = []
    for area_km2 in AREAS_KM2[:2] if run.quick else AREAS_KM2:
        costs, data = costs_of(run, area_km2), of_world(run, area_km2)
        figures.append(ranged(f"growth.update_s.{area_km2}km2", costs.first_s, "s", None, data, NOTE))
        figures.append(
            Figure(f"growth.rss_mb.{area_km2}km2", known(costs.peak_mb), "MB", 1, data=data, note="peak, whole process")
        )
    for footprint_m in (160, 320) if run.quick else FOOTPRINTS_M:
        tracks, data = _tracks(run, footprint_m), of_data(run.north_dakota, of_bundle(run.bundle))
        for figure in flight_figures("growth", UPDATES, tracks, f"{data}, maps of the first and the last date"):
            figures.append(Figure(**{**vars(figure), "id": f"{figure.id}.{footprint_m}m"}))
    return figures


def write_page(results: Path, page: Path, picture: Path) -> None:
    """The page and its picture, from the figures in a results file.

    Args:
        results: JSON of the benchmark; page: Markdown to write; picture: PNG to write.
    """
    report = json.loads(results.read_text(encoding="utf-8"))
    by_id = {figure["id"]: figure for figure in report["figures"] if figure["id"].startswith("growth.")}
    areas = _series(by_id, "growth.update_s.", "km2"), _series(by_id, "growth.rss_mb.", "km2")
    footprints = _series(by_id, "growth.updates.", "m"), _series(by_id, "growth.converged.", "m")
    page.parent.mkdir(parents=True, exist_ok=True)
    picture.parent.mkdir(parents=True, exist_ok=True)
    _draw(areas, footprints[0], picture)
    write_atomically(page, _page(report, areas, footprints, Path(*_relative(picture, page.parent))))


Series = list[tuple[int, dict[str, Any]]]


def _tracks(run: Run, footprint_m: int) -> list[Track]:
    """The flights over the maps of the first and of the last date: two indexes a footprint in place of seven."""
    course = Course(run.north_dakota, float(footprint_m))
    dates = {min(pair[0] for pair in course.place.pairs), max(pair[0] for pair in course.place.pairs)}
    title = f"growth, {footprint_m} m"
    if footprint_m in OWN_ROWS_M:
        tracks = fly_product(run, course, run.count(FLIGHTS), title)
        return [track for track in tracks if track.pair[0] in dates]
    numbers = [i for i in range(run.count(OWN_FLIGHTS)) if course.plan(i).map_date in dates]
    return fly_product(run, course, numbers, title)


def _series(by_id: dict[str, dict[str, Any]], start: str, end: str) -> Series:
    """The figures of one kind that were measured, by the number in their id."""
    found = {
        int(id_[len(start) : -len(end)]): figure
        for id_, figure in by_id.items()
        if id_.startswith(start) and id_.endswith(end) and figure["value"] is not None
    }
    return sorted(found.items())


def _draw(areas: Sequence[Series], updates: Series, picture: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    drawn, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    labels = ("seconds an update, uniform belief", "peak memory of the process, MB", "updates until converged")
    for axis, series, label in zip(axes, (*areas, updates), labels, strict=True):
        x, values = [number for number, _ in series], [figure["value"] for _, figure in series]
        spans = [figure["interval"] or (figure["value"],) * 2 for _, figure in series]
        low, high = (
            [max(sign * (value - span[i]), 0.0) for value, span in zip(values, spans, strict=True)]
            for i, sign in ((0, 1), (1, -1))
        )
        axis.errorbar(x, values, [low, high], marker="o", capsize=3, color="#1f6f8b")
        axis.set_title(label, fontsize=10)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.set_xlabel("footprint, m" if series is updates else "map area, km²")
    for axis in axes[:2]:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.autoscale(axis="y")
        # Numbers, where powers of ten would be read.
        axis.yaxis.set_minor_locator(LogLocator(subs=(3.0, 5.0)))
        axis.yaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_formatter(StrMethodFormatter("{x:g}"))
    drawn.savefig(picture, dpi=110)
    plt.close(drawn)


def _page(report: dict[str, Any], areas: Sequence[Series], footprints: Sequence[Series], picture: Path) -> str:
    seconds, memory = areas
    updates, converged = footprints
    megabytes, shares = dict(memory), dict(converged)
    run = report["runs"][seconds[0][1]["run"]] if seconds else {"machine": {}}
    machine = ", ".join(str(value) for value in run["machine"].values())
    lines = [
        "# How localization grows",
        "",
        'Written by `make bench-localization ARGS="--rows growth"`; the figures are those of',
        f"`benchmarks/results/{report['benchmark']}.json`. {machine}, two threads.",
        "",
        f"![Seconds and memory against map area, updates against footprint]({picture.as_posix()})",
        "",
        "A map of the procedural world at 5 m, indexed for a footprint of 160 m: the first updates of a flight that",
        "could be anywhere on it, in each of 36 headings. Once the belief is narrow, the area no longer matters.",
        "The memory is the process's peak, its imports and every touched page of the map included.",
        "",
        "| map | an update | least – most | memory |",
        "| --- | --- | --- | --- |",
        *(
            f"| {area} km² | {figure['value']:.3g} s | {_span(figure)} | {_value(megabytes.get(area))} MB |"
            for area, figure in seconds
        ),
        "",
        "North Dakota, 16.9 km², on the maps of the first and the last of seven years, seen five years or more apart.",
        "A larger footprint shows more, of which less is new after a step of 100 m.",
        "",
        "| footprint | updates until converged | 95 % interval | converged | flights |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {footprint} m | {figure['value']:.3g} | {_span(figure)} | {_value(shares.get(footprint))} % "
            f"| {figure['n']} |"
            for footprint, figure in updates
        ),
    ]
    return "\n".join(lines) + "\n"


def _span(figure: dict[str, Any]) -> str:
    return "" if figure["interval"] is None else " – ".join(f"{bound:.3g}" for bound in figure["interval"])


def _value(figure: dict[str, Any] | None) -> str:
    return "–" if figure is None else f"{figure['value']:.4g}"


def _relative(path: Path, folder: Path) -> tuple[str, ...]:
    return path.relative_to(folder).parts
