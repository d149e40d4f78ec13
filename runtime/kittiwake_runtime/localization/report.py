"""The report of a flight: one HTML page that holds everything it shows, and the pictures beside it."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .belief import Float32
from .outputs import Fix
from .pictures import Canvas, GridPoint, Rgb, belief_picture, track_picture


@dataclass(frozen=True)
class Update:
    """One update of a flight, as the report shows it.

    Attributes:
        fix: what the localizer said.
        belief: ``(H, W) float32`` on the canvas (`pictures.belief_map`); may be None.
        truth: easting and northing where known.
        stages_ms: milliseconds of all stages, the view's included.
    """

    fix: Fix
    belief: Float32 | None
    truth: GridPoint | None
    stages_ms: dict[str, float]

    @property
    def error_m(self) -> float:
        """Distance from the truth to the mean of the belief; NaN without truth."""
        if self.truth is None:
            return math.nan
        return math.hypot(self.fix.easting_m - self.truth[0], self.fix.northing_m - self.truth[1])


def five_moments(updates: Sequence[Update]) -> list[int]:
    """Which updates to show: the first ones, where most happens, the first believed one, and the last."""
    last = len(updates) - 1
    believed = next((i for i, update in enumerate(updates) if update.fix.is_believed), 3 * last // 4)
    free = set(range(len(updates)))
    for i in (0, last, believed, believed // 3, 2 * believed // 3)[: len(updates)]:
        free.discard(min(free, key=lambda j: (abs(j - i), j)))
    return [i for i in range(len(updates)) if i not in free]


def write_report(folder: Path, canvas: Canvas, updates: Sequence[Update], *, title: str, facts: dict[str, str]) -> Path:
    """Write ``report.html``, ``track.png`` and ``belief.png`` into a folder.

    Args:
        folder: made when it is missing.
        canvas: the map.
        updates: in order of time; at least one.
        title: the page's heading.
        facts: what to state beside the pictures, in order.

    Returns:
        The page's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = [update.truth for update in updates if update.truth is not None]
    track = track_picture(canvas, [update.fix for update in updates], truth or None)
    shown = [(i, updates[i].belief, updates[i].truth) for i in five_moments(updates)]
    beliefs = [(i, belief_picture(canvas, belief, truth)) for i, belief, truth in shown if belief is not None]
    write_png(folder / "track.png", track)
    if beliefs:
        write_png(folder / "belief.png", np.concatenate([picture for _, picture in beliefs], axis=1))
    page = _page(title, facts, track, beliefs, updates)
    temporary = folder / "report.html.part"
    temporary.write_text(page, encoding="utf-8")
    os.replace(temporary, folder / "report.html")
    return folder / "report.html"


def write_png(path: Path, image: Rgb) -> None:
    """Write an RGB picture, atomically."""
    temporary = path.with_name(path.name + ".part")
    temporary.write_bytes(_encoded(".png", image))
    os.replace(temporary, path)


def _encoded(kind: str, image: Rgb, options: Sequence[int] = ()) -> bytes:
    _, data = cv2.imencode(kind, np.ascontiguousarray(image[..., ::-1]), list(options))
    return bytes(data)


def _embedded(image: Rgb) -> str:
    data = _encoded(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 88))
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1b2430}
h1{font-size:1.5rem;margin:0 0 .3rem} h2{font-size:1.1rem;margin:1.8rem 0 .5rem} img{max-width:100%;display:block}
.facts{display:grid;align-content:start;grid-template-columns:max-content 1fr;gap:.15rem 1rem} .facts dt{color:#5b6775}
.facts dd{margin:0} .top{display:grid;grid-template-columns:minmax(0,1.4fr) minmax(18rem,1fr);gap:1.5rem}
.row{display:grid;grid-template-columns:repeat(5,1fr);gap:.5rem} figure{margin:0} figcaption{color:#5b6775;
font-size:.85rem} table{border-collapse:collapse;font-size:.85rem} td,th{padding:.15rem .7rem;text-align:right}
th{border-bottom:1px solid #ccd} td.l,th.l{text-align:left} svg{width:100%;height:auto} .key b{padding:0 .3em}
@media(max-width:760px){.top{grid-template-columns:1fr}.row{grid-template-columns:repeat(2,1fr)}}
"""


def _page(
    title: str,
    facts: dict[str, str],
    track: Rgb,
    beliefs: Sequence[tuple[int, Rgb]],
    updates: Sequence[Update],
) -> str:
    facts_html = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    figures = "".join(
        f'<figure><img alt="belief" src="{_embedded(image)}">'
        f"<figcaption>{_caption(i, updates[i])}</figcaption></figure>"
        for i, image in beliefs
    )
    has_truth = any(update.truth is not None for update in updates)
    key = '<p class="key">' + ("<b>○ white</b> true track, " if has_truth else "")
    key += "<b style='color:#0a8fc0'>● blue</b> believed positions with their 95 % radius</p>"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style>'
        f"<h1>{html.escape(title)}</h1>"
        f'<div class="top"><div><img alt="track on the map" src="{_embedded(track)}">{key}</div>'
        f'<dl class="facts">{facts_html}</dl></div>'
        f'<h2>The belief at five moments</h2><div class="row">{figures}</div>'
        f"<p>Heat: probability of the position, five decades.{' Green ring: the truth.' if has_truth else ''}</p>"
        f"{error_chart(updates)}"
        f"<h2>Milliseconds an update</h2>{_timings(updates)}<h2>Every update</h2>{_table(updates)}</html>"
    )


def _caption(i: int, update: Update) -> str:
    fix = update.fix
    text = f"update {i + 1}: {fix.state}, spread {fix.position_std_m:.0f} m"
    if update.truth is not None:
        text += f", error {update.error_m:.0f} m"
    return html.escape(text)


def error_chart(updates: Sequence[Update]) -> str:
    """An SVG of the 95 % radius, and of the error where the truth is known, against updates; a logarithmic scale."""
    width, height, left, bottom = 1100, 300, 60, 34
    errors = [(i, update.error_m) for i, update in enumerate(updates) if update.truth is not None]
    radii = [(i, update.fix.radius95_m) for i, update in enumerate(updates)]
    decades = math.ceil(math.log10(max(value for _, value in [*errors, *radii, (0, 10.0)])))

    def x(i: int) -> float:
        return left + (width - left - 10) * (i + 0.5) / len(updates)

    def y(value: float) -> float:
        return 10 + (height - bottom - 10) * (1 - math.log10(max(value, 1)) / decades)

    grid = ""
    for k in range(decades + 1):
        level = y(10.0**k)
        grid += f'<line x1="{left}" x2="{width}" y1="{level:.1f}" y2="{level:.1f}" stroke="#dde"/>'
        grid += f'<text x="{left - 8}" y="{level + 4:.1f}" text-anchor="end">{10**k} m</text>'
    ticks = range(0, len(updates), max(1, round(len(updates) / 10)))
    grid += "".join(f'<text x="{x(i):.1f}" y="{height - 12}" text-anchor="middle">{i + 1}</text>' for i in ticks)
    shade = "".join(
        f'<rect x="{x(i) - (width - left - 10) / len(updates) / 2:.1f}" y="10" height="{height - bottom - 10}" '
        f'width="{(width - left - 10) / len(updates) + 0.5:.1f}" fill="#e8f6fd"/>'
        for i, update in enumerate(updates)
        if update.fix.is_believed
    )

    def line(values: list[tuple[int, float]], colour: str, dash: str = "") -> str:
        points = " ".join(f"{x(i):.1f},{y(value):.1f}" for i, value in values)
        return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5" {dash}/>'

    key = "<b style='color:#f39c34'>- -</b> radius that should hold the truth with 95 % &nbsp; shaded: converged"
    if errors:
        key = "<b style='color:#0a8fc0'>—</b> error of the mean &nbsp; " + key
    return (
        f"<h2>{'Error and 95 % radius' if errors else '95 % radius'} against updates</h2>"
        f'<svg viewBox="0 0 {width} {height}" font-size="12" font-family="system-ui" fill="#456">{shade}{grid}'
        + line(radii, "#f39c34", 'stroke-dasharray="6 4"')
        + (line(errors, "#0a8fc0") if errors else "")
        + f"</svg><p>{key}</p>"
    )


def _timings(updates: Sequence[Update]) -> str:
    names = list(dict.fromkeys(name for update in updates for name in update.stages_ms))
    rows = ""
    for name in names:
        values = [update.stages_ms[name] for update in updates if name in update.stages_ms]
        first = np.median(values[:5])
        rows += (
            f'<tr><td class="l">{html.escape(name)}</td><td>{first:.1f}</td><td>{np.median(values):.1f}</td>'
            f"<td>{max(values):.1f}</td></tr>"
        )
    head = '<tr><th class="l">stage</th><th>median of the first 5</th><th>median</th><th>largest</th></tr>'
    return f"<table>{head}{rows}</table>"


def _table(updates: Sequence[Update]) -> str:
    rows = ""
    for i, update in enumerate(updates):
        fix = update.fix
        error = f"{update.error_m:.1f}" if update.truth is not None else ""
        evidence = f"{fix.evidence:+.1f}" if math.isfinite(fix.evidence) else "–"
        rows += (
            f'<tr><td>{i + 1}</td><td class="l">{fix.state}</td><td>{fix.position_std_m:.1f}</td>'
            f"<td>{fix.radius95_m:.1f}</td><td>{error}</td><td>{evidence}</td><td>{fix.elsewhere:.1e}</td>"
            f'<td>{sum(update.stages_ms.values()):.0f}</td><td class="l">{html.escape(fix.reason)}</td></tr>'
        )
    head = (
        '<tr><th>update</th><th class="l">state</th><th>spread m</th><th>95 % radius m</th><th>error m</th>'
        '<th>evidence nats</th><th>elsewhere</th><th>ms</th><th class="l">why</th></tr>'
    )
    return f"<table>{head}{rows}</table>"
