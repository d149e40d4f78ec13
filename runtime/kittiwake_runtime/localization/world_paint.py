"""Paints a window of the procedural world: first the fields, then what lies, flows and stands on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kittiwake_runtime.localization.world_buildings import ROOFS, Settlement, draw_block, settlements
from kittiwake_runtime.localization.world_noise import (
    F32,
    Window,
    beyond,
    dots,
    fbm,
    resolved,
    slopes,
    spline_noise,
    stripe,
    uniform,
)
from kittiwake_runtime.localization.world_parcels import LINES, Parcels, parcels
from kittiwake_runtime.localization.world_season import Day, Rgb, Season, growth, pick

RELIEF_M = 14.0  # standard deviation of the elevation
_TREE_HEIGHT_M = 11.0
_CLOUD_HEIGHT_M = 900.0
_WOOD_LEVEL = 1.5  # standard deviations of the field that woods are the peaks of

_GRASS: dict[Season, Rgb] = {"summer": (104, 116, 76), "autumn": (124, 120, 88), "winter": (166, 160, 148)}
_LEAVES: dict[Season, Rgb] = {"summer": (60, 82, 48), "autumn": (112, 96, 58), "winter": (138, 132, 128)}
_NEEDLES: dict[Season, Rgb] = {"summer": (46, 64, 45), "autumn": (44, 60, 44), "winter": (86, 94, 92)}
_TRACK: dict[Season, Rgb] = {"summer": (164, 150, 126), "autumn": (148, 134, 112), "winter": (168, 166, 164)}
_ROAD: dict[Season, Rgb] = {"summer": (146, 144, 140), "autumn": (136, 134, 131), "winter": (112, 112, 114)}
_SHORE: dict[Season, Rgb] = {"summer": (158, 148, 134), "autumn": (150, 140, 126), "winter": (172, 164, 150)}
_SNOW: Rgb = (218, 222, 229)


class Canvas:
    """(3, H, W) float32 RGB, 0 to 255."""

    def __init__(self, rgb: F32) -> None:
        self.rgb = rgb

    def cover(self, colour: Rgb | F32, share: F32, part: tuple[slice, slice] | None = None) -> None:
        """Lay a colour (a triple, or (3, H, W)) over the share (H, W) of each pixel."""
        for channel in range(3):
            layer = self.rgb[channel] if part is None else self.rgb[channel][part]
            ink = np.float32(colour[channel]) if isinstance(colour, tuple) else colour[channel]
            layer += (ink - layer) * share

    def scale(self, factor: F32 | float, part: tuple[slice, slice] | None = None) -> None:
        """Multiply all channels."""
        for channel in range(3):
            layer = self.rgb[channel] if part is None else self.rgb[channel][part]
            layer *= np.float32(factor) if isinstance(factor, float) else factor


@dataclass(frozen=True)
class Ground:
    """What persists from date to date, (H, W) each.

    ``shade`` is the relief's brightness under this day's sun; ``soil`` has about unit variance; ``lake`` is
    the field whose level sets are the shores; ``river_m`` is the distance beyond the bank of a river,
    ``road_m`` that to the centre line of a long road; ``wood`` and its shadow are cover, but for what was
    felled this year; ``evergreen`` is a share.
    """

    parcels: Parcels
    shade: F32
    soil: F32
    lake: F32
    river_m: F32
    road_m: F32
    wood: F32
    wood_shadow: F32
    evergreen: F32


def relief(window: Window, seed: int) -> F32:
    """(H, W) elevation in metres about the mean."""
    return fbm(window, (5200.0, 2300.0, 900.0, 380.0, 170.0), (seed, 1), 0.42) * np.float32(RELIEF_M)


def paint(window: Window, seed: int, day: Day) -> F32:
    """(3, H, W) float32 RGB, 0 to 255, of a window on a day; its outermost ring of pixels is no good."""
    ground = survey(window, seed, day)
    canvas = Canvas(_fields(window, ground, day))
    towns = tuple(settlements(window, seed))
    _lines(canvas, window, ground, day)
    _water(canvas, window, ground, day)
    _yards(canvas, window, towns, ground, day)
    _trees(canvas, window, ground, day, seed)
    _roads(canvas, window, ground, day)
    _houses(canvas, window, towns, day)
    canvas.scale(ground.shade)
    _sky(canvas, window, day)
    return canvas.rgb


def survey(window: Window, seed: int, day: Day) -> Ground:
    """The lie of the land."""
    height = relief(window, seed)
    down, right = slopes(height)
    # A slope that faces the sun is brighter by its steepness times the length of a unit's shadow.
    facing = down * np.float32(day.to_sun[1]) - right * np.float32(day.to_sun[0])
    steepness = np.float32(0.6 * day.shadow_per_height / window.gsd_m)
    shade: F32 = np.clip(1 + facing * steepness, 0.5, 1.6)

    veins = np.abs(fbm(window, (330.0, 120.0, 45.0), (seed, 2), 0.7))
    soil: F32 = np.float32(0.85) * fbm(window, (170.0, 70.0, 28.0, 11.0, 4.5, 2.0), (seed, 3), 0.85) + np.float32(
        0.9
    ) * (np.float32(0.8) - veins)
    lake = fbm(window, (1900.0, 800.0, 340.0, 130.0, 50.0), (seed, 4), 0.55)
    wood = fbm(window, (1500.0, 620.0, 240.0, 90.0, 34.0, 13.0), (seed, 7), 0.62)
    change = 0.15 * fbm(window, (320.0, 90.0, 30.0), (*day.key, 27))  # felling and regrowth along the edges
    cast = _TREE_HEIGHT_M * day.shadow_per_height
    lit_from = window.moved(day.to_sun[0] * cast, day.to_sun[1] * cast)
    upwind = fbm(lit_from, (1500.0, 620.0, 240.0, 90.0, 34.0, 13.0), (seed, 7), 0.62)
    return Ground(
        parcels(window, seed), shade, soil, lake,
        river_m=_river(window, seed),
        road_m=np.abs(beyond(fbm(window, (6500.0, 2600.0, 1000.0), (seed, 6), 0.3), 0.35, window.gsd_m)[0]),
        wood=beyond(wood + change, _WOOD_LEVEL, window.gsd_m)[1],
        wood_shadow=beyond(upwind + change, _WOOD_LEVEL, window.gsd_m)[1],
        evergreen=np.clip(0.4 + 1.5 * fbm(window, (900.0, 250.0, 60.0), (seed, 8)), 0, 1),
    )  # fmt: skip


def _river(window: Window, seed: int) -> F32:
    """Distance beyond the bank of the nearest river, metres, negative on the water."""
    course = fbm(window, (4600.0, 1500.0, 600.0, 250.0), (seed, 5, 0), 0.3)
    half_width = np.clip(9 * spline_noise(window, 9000.0, (seed, 5, 1)) + 3, -4, 16)
    return np.asarray(np.abs(beyond(course, 0.0, window.gsd_m)[0]) - half_width)


def _fields(window: Window, ground: Ground, day: Day) -> F32:
    """Colour of the parcels with their rows and patches, under snow where there is some."""
    where, gsd = ground.parcels, window.gsd_m
    stand = growth(where.districts, day, gsd)
    uneven = fbm(window, (230.0, 85.0, 32.0, 12.0, 5.0, 2.0), (*day.key, 20), 0.85)
    soil, patches = pick(stand.soil, where.parcel), pick(stand.patches, where.parcel)
    pitch = pick(stand.stripe_pitch_m, where.parcel)
    rows = _rows(where, pick(stand.along, where.parcel), pitch) * resolved(pitch, gsd)
    stripes = pick(stand.stripes, where.parcel) * rows
    tone = 1 + soil * ground.soil + patches * uneven + stripes
    if gsd < 1.5:
        tone -= 0.3 * _wheel_tracks(where, pick(stand.along, where.parcel), pick(stand.tram_pitch_m, where.parcel), gsd)
    tone = np.clip(tone, 0.3, 1.8)
    rgb = np.stack([pick(colour, where.parcel) * tone for colour in stand.colour])
    if day.season == "winter":
        rough = pick(stand.rough, where.parcel) * (1 + 0.5 * rows)
        _snow(Canvas(rgb), window, day, ground.soil * np.float32(0.35) - rough)
    return rgb


def _snow(canvas: Canvas, window: Window, day: Day, depth: F32) -> None:
    """Snow with drifts, worn thin where ``depth`` (relative, standard deviations) is low."""
    stretch_x, stretch_y = (0.3, 1.0) if day.wind_east else (1.0, 0.3)
    stretched = Window(window.x * stretch_x, window.y * stretch_y, window.gsd_m)
    drift = fbm(stretched, (90.0, 34.0, 13.0, 5.0), (*day.key, 21), 0.75)
    broad = fbm(window, (1400.0, 500.0, 180.0, 60.0), (*day.key, 22), 0.65)
    lying = np.clip(0.5 + 0.7 * (depth + 0.3 * drift + 0.45 * broad + np.float32(day.snow_depth + 0.3)), 0, 1)
    bright = 1 + 0.045 * drift
    canvas.cover(np.stack([np.float32(c) * bright for c in _SNOW]), lying)


def _rows(where: Parcels, along: F32, pitch_m: F32) -> F32:
    """[-1, 1] triangle wave across the rows; on the headlands, 16 m wide, the machines went the other way."""
    headland = np.minimum(where.across_m[0], where.across_m[1]) < 16
    lengthwise = (along > 0.5) ^ headland
    phase = np.where(lengthwise, where.v_m, where.u_m) / pitch_m
    return np.asarray(np.abs(phase - np.floor(phase) - np.float32(0.5)) * 4 - 1, np.float32)


def _wheel_tracks(where: Parcels, along: F32, pitch_m: F32, gsd_m: float) -> F32:
    """Cover of the pairs of wheel tracks that sprayers leave, 1.8 m apart."""
    phase = np.where(along > 0.5, where.v_m, where.u_m) / pitch_m
    off_centre = np.abs(phase - np.floor(phase) - np.float32(0.5)) * pitch_m
    return stripe(off_centre - np.float32(0.9), 0.25, gsd_m)


def _lines(canvas: Canvas, window: Window, ground: Ground, day: Day) -> None:
    """Margins and tracks along the property lines."""
    where, gsd = ground.parcels, window.gsd_m
    winter = day.season == "winter"
    for axis in (0, 1):
        distance, line = where.across_m[axis], where.line[axis]
        margin = pick(np.concatenate([d.margin_m for d in where.districts]), line)
        track = pick(np.concatenate([d.track_m for d in where.districts]), line)
        kept = np.concatenate([uniform(*day.key, *d.key[1:], 40, np.arange(LINES)) for d in where.districts])
        canvas.cover(_GRASS[day.season], stripe(distance, margin, gsd) * np.float32(0.5 if winter else 0.7))
        used = pick(np.clip(1.2 * kept, 0, 0.95), line)
        canvas.cover(_TRACK[day.season], stripe(distance, track, gsd) * used)


def _water(canvas: Canvas, window: Window, ground: Ground, day: Day) -> None:
    """Rivers, lakes and potholes with their shores; frozen in winter."""
    gsd = window.gsd_m
    wetness = np.array([d.potholes for d in ground.parcels.districts], np.float32)[ground.parcels.slot]
    hollow = fbm(window, (260.0, 110.0, 45.0, 18.0), (*day.key[:1], 9), 0.5)
    surface = np.maximum(ground.lake - 1.5, 0.5 * (hollow - wetness))
    shallow = 0.1 * fbm(window, (160.0, 60.0), (*day.key, 23))
    high, water = beyond(surface, 0.0, gsd)[0], beyond(surface + shallow, 0.1 - day.water_level, gsd)[1]
    reeds = np.clip(1 - np.abs(high) * np.float32(1 / 14), 0, 1) * np.clip(0.5 + ground.soil, 0, 1)
    meadow = np.clip(1.2 - ground.river_m * np.float32(1 / 45), 0, 1) * np.clip(0.6 + 0.5 * ground.soil, 0, 1)
    canvas.cover(_GRASS[day.season], meadow * np.float32(0.5))
    canvas.cover(_SHORE[day.season], np.clip(high * np.float32(1 / gsd) + 0.5, 0, 1) * np.float32(0.8))
    canvas.cover((98.0, 106.0, 66.0) if day.season != "winter" else (140.0, 128.0, 106.0), reeds * np.float32(0.6))
    water = np.maximum(water, np.clip(0.5 - ground.river_m * np.float32(1 / gsd), 0, 1))
    mood = np.clip(0.5 + 0.5 * spline_noise(window, 2600.0, (*day.key, 24)), 0, 1)
    if day.season == "winter":
        swept = np.clip(0.1 + 0.9 * fbm(window, (420.0, 140.0, 50.0, 18.0), (*day.key, 25), 0.7), 0, 1) * mood
        colour = np.stack([c - (c - dark) * swept for c, dark in zip(_SNOW, (108.0, 120.0, 132.0), strict=True)])
    else:
        colour = np.stack([a + (b - a) * mood for a, b in ((34, 84), (44, 98), (48, 76))]).astype(np.float32)
    canvas.cover(colour.astype(np.float32), water)


def _yards(canvas: Canvas, window: Window, towns: tuple[Settlement, ...], ground: Ground, day: Day) -> None:
    """Gardens and gravel around the houses."""
    for town in towns:
        dx, dy = window.offsets(town.east_m, town.north_m)
        inside = np.sqrt(dx * dx + dy * dy) + 18 * ground.soil
        share = np.clip((town.radius_m - inside) * np.float32(1 / 12), 0, 1) * np.float32(0.75)
        garden = np.clip(0.5 + 0.6 * fbm(window, (46.0, 18.0, 7.0), (*day.key[:1], 26), 0.8) + 0.3, 0, 1)
        gravel, grass = _TRACK[day.season], _GRASS[day.season]
        colour = np.stack([a + (b - a) * garden for a, b in zip(gravel, grass, strict=True)])
        canvas.cover(colour.astype(np.float32), share)


def _trees(canvas: Canvas, window: Window, ground: Ground, day: Day, seed: int) -> None:
    """Woods, hedges and single trees, and the shadows of all three."""
    where, gsd = ground.parcels, window.gsd_m
    gaps = fbm(window, (60.0, 22.0), (seed, 30))
    hedge, hedge_shadow = _hedges(where, day, gaps, gsd)
    stand = growth(where.districts, day, gsd)
    riverside = np.float32(0.5) * np.clip(1 - np.abs(ground.river_m) * np.float32(1 / 60), 0, 1)
    scrub: F32 = pick(stand.scrub, where.parcel) + riverside
    single = _single_trees(window, seed, scrub, 0.0, 0.0)
    uncut = 1 - pick(stand.felled, where.parcel)
    shadow = np.maximum(ground.wood_shadow * uncut, hedge_shadow)
    for height_m in (2.5, 5.0):
        cast = height_m * day.shadow_per_height
        tip = day.to_sun[0] * cast, day.to_sun[1] * cast
        shadow = np.maximum(shadow, _single_trees(window, seed, scrub, *tip))
    canvas.scale(1 - shadow * np.float32(0.42))

    crowns = fbm(window, (42.0, 16.0, 8.0, 4.0, 2.0, 1.0), (seed, 31), 0.95)
    leaf = 1 + 0.14 * crowns
    variety = np.float32(0.22 if day.season == "autumn" else 0.13)
    turning = fbm(window, (110.0, 30.0, 11.0, 4.0), (*day.key, 32), 0.9) * variety
    broadleaf = np.stack([c * (leaf + turning * g) for c, g in zip(_LEAVES[day.season], (1.2, 0.7, 0.5), strict=True)])
    needle = np.stack([c * leaf for c in _NEEDLES[day.season]])
    colour = broadleaf + (needle - broadleaf) * ground.evergreen
    canvas.cover(colour.astype(np.float32), np.maximum(np.maximum(ground.wood * uncut, hedge), single))


def _hedges(where: Parcels, day: Day, gaps: F32, gsd_m: float) -> tuple[F32, F32]:
    """Cover of the hedges along property lines, and of a band around them for their shadow."""
    closed = np.clip(0.9 + 1.2 * gaps, 0, 1)
    cover = shadow = np.zeros_like(gaps)
    for axis in (0, 1):
        half = pick(np.concatenate([d.hedge_m for d in where.districts]), where.line[axis])
        cover = np.maximum(cover, stripe(where.across_m[axis], half, gsd_m))
        cast = np.where(half > 0, half + np.float32(2.5 * day.shadow_per_height), 0)
        shadow = np.maximum(shadow, stripe(where.across_m[axis], cast, gsd_m))
    return cover * closed, shadow * closed * np.float32(0.5)


def _single_trees(window: Window, seed: int, scrub: F32, east_m: float, north_m: float) -> F32:
    """Cover of the single trees that stand (east_m, north_m) away from each pixel."""
    tree = dots(window.moved(east_m, north_m), 26.0, 5.0, (seed, 33))
    radius = 2 + 3 * tree.size
    # A tree smaller than the pixel fades with its area.
    share = np.clip((radius - tree.distance_m) * np.float32(1 / window.gsd_m) + 0.5, 0, 1)
    area = np.minimum(1, 2 * radius / np.float32(window.gsd_m))
    return np.asarray(share * area * (tree.chance < scrub))


def _roads(canvas: Canvas, window: Window, ground: Ground, day: Day) -> None:
    """Paved roads along the districts' borders and the long ones through the country, with their verges."""
    gsd = window.gsd_m
    border = ground.parcels.border_m
    chance = ground.parcels.border_chance
    half = np.where(chance < 0.75, 2.5 + 2 * chance, 0)
    verge = np.maximum(stripe(border, half + 4 * (half > 0), gsd), stripe(ground.road_m, 10.0, gsd))
    road = np.maximum(stripe(border, half, gsd), stripe(ground.road_m, 4.5, gsd))
    verge_share, road_share = (0.3, 0.85) if day.season == "winter" else (0.8, 0.95)
    canvas.cover(_GRASS[day.season], verge * np.float32(verge_share))
    canvas.cover(_ROAD[day.season], road * np.float32(road_share))


def _houses(canvas: Canvas, window: Window, towns: tuple[Settlement, ...], day: Day) -> None:
    """Streets, then shadows, then roofs, whose side towards the sun is the brighter."""
    for town in towns:
        for street in town.streets:
            if drawn := draw_block(window, street):
                canvas.cover(_ROAD[day.season], drawn.cover * np.float32(0.9), drawn.part)
        for house in town.buildings:
            reach = house.height_m * day.shadow_per_height
            for share in (0.33, 0.66, 1.0):
                away = -day.to_sun[0] * reach * share, -day.to_sun[1] * reach * share
                if drawn := draw_block(window, house, *away):
                    canvas.scale(1 - drawn.cover * np.float32(0.22), drawn.part)
        for house in town.buildings:
            if drawn := draw_block(window, house):
                sunny = day.to_sun[1] * house.cos - day.to_sun[0] * house.sin
                roof = _SNOW if day.season == "winter" else ROOFS[house.roof]
                canvas.cover(roof, drawn.cover, drawn.part)
                side = np.clip(drawn.across_m * np.float32(4 / house.half_width_m), -1, 1)
                canvas.scale(1 + drawn.cover * side * np.float32(0.18 * sunny), drawn.part)


def _sky(canvas: Canvas, window: Window, day: Day) -> None:
    """Clouds, their shadows, haze and exposure."""
    octaves = (2400.0, 1000.0, 420.0, 170.0, 70.0, 28.0)
    away = _CLOUD_HEIGHT_M * day.shadow_per_height
    below = fbm(window.moved(day.to_sun[0] * away, day.to_sun[1] * away), octaves, (*day.key, 40), 0.55)
    canvas.scale(1 - np.clip((below - np.float32(day.cloud_level)) * 3, 0, 1) * np.float32(0.45))
    cloud = np.clip((fbm(window, octaves, (*day.key, 40), 0.55) - np.float32(day.cloud_level)) * 3, 0, 1)
    canvas.cover((236.0, 238.0, 241.0), cloud)
    canvas.scale(day.gain)
    canvas.cover((176.0, 184.0, 196.0), np.full((1, 1), day.haze, np.float32))
