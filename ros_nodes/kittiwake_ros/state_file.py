"""The last belief on disk: a node that is killed and started again knows where to look, and how far it may be off.

What is kept is a believed pose, in WGS84: it outlives another map. It is read as a soft prior, widened by what the
vehicle may have flown since it was written.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from kittiwake_runtime.errors import FrameError, KittiwakeError
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.outputs import Fix

FORMAT = "kittiwake-belief-1"


@dataclass(frozen=True)
class Remembered:
    """A believed pose.

    Attributes:
        time_s: of the pose, UTC.
        lat_deg, lon_deg: WGS84. radius95_m: that held 95 % then.
        yaw_deg, yaw_std_deg: clockwise from true north.
    """

    time_s: float
    lat_deg: float
    lon_deg: float
    radius95_m: float
    yaw_deg: float
    yaw_std_deg: float

    @classmethod
    def of(cls, fix: Fix) -> Remembered:
        """What is worth keeping of a fix."""
        return cls(fix.time_s, *fix.wgs84(), fix.radius95_m, fix.yaw_deg(), math.degrees(fix.heading_std_rad))

    def radius_after(self, age_s: float, max_speed_m_s: float) -> float:
        """Radius that holds 95 % after a time in which nothing was seen."""
        return self.radius95_m + max_speed_m_s * max(age_s, 0.0)


def save(path: Path, fix: Fix) -> None:
    """Write a believed fix; a reader sees the old file or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **asdict(Remembered.of(fix))}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load(path: Path) -> Remembered | None:
    """Read it; None when there is none.

    Raises:
        FrameError: the file is not one of these; it can be deleted.
    """
    if not path.exists():
        return None
    try:
        fields = Fields.read(path)
        if fields.text("format") != FORMAT:
            raise fields.error("format", FORMAT, fields.text("format"))
        kept = Remembered(**{name: fields.number(name) for name in Remembered.__dataclass_fields__})
    except KittiwakeError as error:
        raise FrameError(error.message, f"delete {path}") from error
    if not (abs(kept.lat_deg) <= 90 and abs(kept.lon_deg) <= 180 and kept.radius95_m > 0):
        raise FrameError(f"{path}: {kept} is no place", f"delete {path}")
    return kept


def restore(localizer: Localizer, kept: Remembered, now_s: float, *, max_age_s: float, max_speed_m_s: float) -> str:
    """Start a localizer from a remembered pose, as a soft prior; returns what was done, in a line.

    Args:
        now_s: UTC.
        max_age_s: an older one is not used.
        max_speed_m_s: of the vehicle; widens the radius.
    """
    age_s = now_s - kept.time_s
    if not 0 <= age_s <= max_age_s:
        old = f"{age_s:.0f} s old" if age_s > 0 else f"{-age_s:.0f} s in the future"
        return f"the last belief is {old} and is not used"
    radius_m = kept.radius_after(age_s, max_speed_m_s)
    localizer.set_prior(kept.lat_deg, kept.lon_deg, radius_m)
    if age_s < 5.0:  # a vehicle may turn about within seconds
        localizer.set_heading(kept.yaw_deg, min(90.0, kept.yaw_std_deg + 15.0 * age_s))
    return f"starts from its last belief, {age_s:.1f} s old, widened to {radius_m:.0f} m"
