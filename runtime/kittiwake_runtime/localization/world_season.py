"""What a date does to the procedural world: sun, water, snow, clouds, and what grows on each parcel."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kittiwake_runtime.localization.world_noise import F32, Key, draw, resolved, uniform
from kittiwake_runtime.localization.world_parcels import PARCELS, District

Season = Literal["summer", "autumn", "winter"]
SEASONS: tuple[Season, ...] = get_args(Season)
Rgb = tuple[float, float, float]

_MONTHS: dict[Season, tuple[int, ...]] = {"summer": (6, 7, 8), "autumn": (9, 10, 11), "winter": (1, 2)}
_SUN_ELEVATION_DEG: dict[Season, tuple[float, float]] = {
    "summer": (42.0, 60.0), "autumn": (20.0, 38.0), "winter": (12.0, 24.0),
}  # fmt: skip


@dataclass(frozen=True)
class Day:
    """One acquisition date, drawn from (seed, season, date_seed).

    Attributes:
        season: of the year.
        key: what this date's own noise and its crops start with.
        time_utc: ``YYYY:MM:DD HH:MM:SS``, as TIFF writes it.
        to_sun: (east, north) unit vector on the ground towards the sun.
        shadow_per_height: length of a shadow for a metre of height.
        gain: brightness of the exposure; haze: [0, 1) share of skylight mixed in.
        water_level: rise of lakes, in the standard deviations of the field that they are level sets of.
        snow_depth: in the same sense for snow: below 0 it has mostly gone; -9 outside winter.
        wind_east: whether drifts stretch from west to east or from south to north.
        cloud_level: standard deviations beyond which there is cloud.
    """

    season: Season
    key: Key
    time_utc: str
    to_sun: tuple[float, float]
    shadow_per_height: float
    gain: float
    haze: float
    water_level: float
    snow_depth: float
    wind_east: bool
    cloud_level: float

    @classmethod
    def of(cls, seed: int, season: Season, date_seed: int) -> Day:
        """The day of a date seed; the same for every window of the world.

        Raises:
            ValueError: another season.
        """
        if season not in SEASONS:
            raise ValueError(f"season {season!r} is not one of {', '.join(SEASONS)}")
        key = (seed, 100 + SEASONS.index(season), date_seed)
        low, high = _SUN_ELEVATION_DEG[season]
        elevation = math.radians(low + (high - low) * draw(*key, 1))
        azimuth = math.radians(125 + 110 * draw(*key, 2))
        months = _MONTHS[season]
        month, day, minute = months[int(draw(*key, 3) * len(months))], draw(*key, 4), draw(*key, 5)
        return cls(
            season=season,
            key=key,
            time_utc=f"{2012 + date_seed % 14}:{month:02}:{1 + int(day * 28):02} 10:{int(minute * 60):02}:00",
            to_sun=(math.sin(azimuth), math.cos(azimuth)),
            shadow_per_height=1 / math.tan(elevation),
            gain=(0.85 + 0.3 * draw(*key, 6)) * (0.84 if season == "winter" else 1.0),  # exposed for snow
            haze=0.12 * draw(*key, 7) ** 2,
            water_level=0.2 * (draw(*key, 8) - 0.5),
            snow_depth=0.6 + 0.9 * draw(*key, 9) if season == "winter" else -9.0,
            wind_east=draw(*key, 10) < 0.5,
            cloud_level=2.3 + 2.5 * draw(*key, 11),
        )


@dataclass(frozen=True)
class Crop:
    """How a parcel looks from above.

    Attributes:
        colour: RGB, 0 to 255.
        weight: how common it is.
        soil: how much the soil shows through, [0, 1]; patches: how unevenly it grows or lies, [0, 1].
        stripes: contrast of drill rows, mowing or ploughing, [0, 1].
        rough: how much it sticks out of the snow, standard deviations of the snow's depth.
    """

    colour: Rgb
    weight: float
    soil: float
    patches: float
    stripes: float
    rough: float = 0.0


_CROPS: dict[Season, tuple[Crop, ...]] = {
    "summer": (
        Crop((66, 95, 56), 3, -0.12, 0.12, 0.04),  # maize
        Crop((78, 110, 62), 3, 0.16, 0.16, 0.05),  # beans
        Crop((150, 140, 92), 3, 0.12, 0.14, 0.05),  # ripening cereal
        Crop((166, 151, 116), 2, 0.16, 0.08, 0.14),  # straw after harvest
        Crop((96, 119, 68), 2, -0.18, 0.14, 0.05),  # green cereal
        Crop((124, 134, 86), 1.5, 0.08, 0.1, 0.16),  # mown hay
        Crop((126, 107, 87), 1, 0.32, 0.08, 0.1),  # fallow
        Crop((60, 101, 52), 1, 0.12, 0.2, 0.05),  # beet
    ),
    "autumn": (
        Crop((98, 83, 68), 3, 0.3, 0.06, 0.12),  # ploughed
        Crop((130, 111, 90), 2, 0.32, 0.08, 0.1),  # harrowed
        Crop((168, 151, 117), 3, 0.16, 0.1, 0.14),  # stubble
        Crop((104, 115, 78), 2, 0.26, 0.14, 0.06),  # winter cereal coming up
        Crop((88, 110, 64), 1, 0.1, 0.18, 0.06),  # catch crop
        Crop((140, 121, 87), 1, -0.12, 0.14, 0.07),  # dry maize
    ),
    "winter": (
        Crop((84, 72, 62), 3, 0.25, 0.2, 0.5, 0.75),  # ploughed
        Crop((150, 134, 106), 3, 0.12, 0.2, 0.4, 0.6),  # stubble
        Crop((92, 99, 70), 3, 0.2, 0.2, 0.15, 0.15),  # winter cereal
    ),
}
_PASTURE: dict[Season, Crop] = {
    "summer": Crop((112, 123, 82), 1, 0.22, 0.12, 0.02),
    "autumn": Crop((130, 123, 90), 1, 0.22, 0.12, 0.02),
    "winter": Crop((126, 115, 90), 1, 0.15, 0.2, 0.04, 0.3),
}


@dataclass(frozen=True)
class Growth:
    """What stands on the parcels of some districts, stacked; every array is (parcels,).

    ``colour`` is (3, parcels); ``soil``, ``patches``, ``stripes`` and ``rough`` are those of :class:`Crop`
    with the parcel's own variation; ``stripe_pitch_m`` and ``tram_pitch_m`` are the spacings of its rows and
    of its wheel tracks; ``along`` is 1 where the rows run along u; ``scrub`` is the share of its trees and
    bushes; ``felled`` is 1 where its wood has just been cut.
    """

    colour: F32
    soil: F32
    patches: F32
    stripes: F32
    rough: F32
    stripe_pitch_m: F32
    tram_pitch_m: F32
    along: F32
    scrub: F32
    felled: F32


def growth(districts: tuple[District, ...], day: Day, gsd_m: float) -> Growth:
    """What stands on the parcels; rows that a pixel can't resolve have no contrast."""
    table = np.concatenate([_growth_of(d, day) for d in districts], axis=1)
    stripes = table[5] * resolved(table[7], gsd_m)
    return Growth(table[:3], table[3], table[4], stripes, *table[6:])


@functools.lru_cache(maxsize=64)
def _growth_of(district: District, day: Day) -> F32:
    """(12, PARCELS): the colour's three rows, then the fields of :class:`Growth` in their order."""
    number = np.arange(PARCELS)

    def fixed(purpose: int) -> F32:
        return uniform(*district.key, 30, purpose, number)

    def dated(purpose: int) -> F32:
        return uniform(*day.key, *district.key[1:], purpose, number)

    crops = _CROPS[day.season]
    shares = np.cumsum([crop.weight for crop in crops]) / sum(crop.weight for crop in crops)
    pasture = fixed(0) < district.pasture
    # In half of the blocks one farmer works all parts as one field this year.
    lead = np.where(dated(7)[number & ~3] < 0.5, number & ~3, number)
    choice = np.where(pasture, len(crops), np.searchsorted(shares, dated(0)[lead], side="right"))
    table = np.array(
        [(*c.colour, c.soil, c.patches, c.stripes, c.rough) for c in (*crops, _PASTURE[day.season])],
        np.float32,
    )[choice].T
    table[:3] *= 0.86 + 0.28 * dated(1)[lead]
    table[3] *= 0.3 + 0.9 * dated(2)
    table[4] *= 0.3 + 0.8 * dated(3)
    table[5] *= dated(4) * 2
    rows = [
        6 + 16 * dated(5) ** 2,  # a drill, a mower or a combine is 3 to 12 m wide, and passes there and back
        np.where(pasture, 1e6, np.where(dated(6) < 0.5, 24.0, 36.0)),
        (fixed(1) < 0.6).astype(np.float32),
        np.where(pasture, 0.5 * fixed(2) ** 3, 0.012),
        (dated(8)[number & ~3] < 0.07).astype(np.float32),
    ]
    return np.concatenate([table, np.stack(rows).astype(np.float32)])


def pick(values: F32, index: NDArray[np.intp]) -> F32:
    """``values[index]``, without checking each index: several times faster."""
    return np.take(values, index, mode="clip")
