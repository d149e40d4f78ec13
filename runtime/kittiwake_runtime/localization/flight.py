"""A flight through the localizer: from images, attitude, height and odometry to fixes, with each stage timed."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from .camera import Camera
from .filter import SCALES_UNKNOWN
from .flight_log import OdometryStep
from .footprint import DISC_PX
from .localizer import Localizer
from .orthorectify import Patch, orthorectify
from .pictures import Canvas, GridPoint, belief_map
from .report import Update


@dataclass(frozen=True)
class Observation:
    """What a vehicle hands over at one frame.

    Attributes:
        time_s: of the image, UTC seconds.
        image: ``(H, W, 3) uint8`` RGB; None when there is none.
        attitude_rad: roll, pitch, yaw of the body FRD in NED, radians; yaw may be NaN.
        height_m: of the body above the ground; above the take-off when `height_is_agl` is False.
        height_is_agl: whether the ground's own height is known to be in it.
        step: odometry since the last observation; None for the first.
        truth: easting and northing on the index's grid, for the report alone.
        note: why there is no image or the odometry is not as measured.
    """

    time_s: float
    image: npt.NDArray[Any] | None
    attitude_rad: tuple[float, float, float]
    height_m: float
    height_is_agl: bool
    step: OdometryStep | None
    truth: GridPoint | None = None
    note: str = ""


def fly(
    localizer: Localizer, camera: Camera, observations: Iterable[Observation], canvas: Canvas | None = None
) -> Iterator[Update]:
    """Update the localizer with each observation.

    Args:
        localizer: fresh, or with a prior.
        camera: that took the images.
        observations: in order of time.
        canvas: if given, every update carries the belief on it.

    Yields:
        An update for each observation; a view that can't be used carries the belief forward and says why.
    """
    for observation in observations:
        started = time.perf_counter()
        patches, why = _views(localizer.index.gsd_m, camera, observation)
        view_ms = 1e3 * (time.perf_counter() - started)
        fix = localizer.update(
            observation.step,
            [patch.image for patch in patches] or None,
            time_s=observation.time_s,
            lever=_lever(patches, likely_scale(localizer)),
            reason=why,
        )
        belief = None if canvas is None else belief_map(localizer.filter, canvas)
        yield Update(fix, belief, observation.truth, {"orthorectify": view_ms, **fix.stages_ms})


def _views(gsd_m: float, camera: Camera, observation: Observation) -> tuple[list[Patch], str]:
    """The ground at the map's scale, once for each height that it may have; none, and why."""
    if observation.image is None:
        return [], observation.note or "no image"
    scales = [1.0] if observation.height_is_agl else SCALES_UNKNOWN.tolist()
    found: dict[int, Patch] = {}
    why = ""
    for i, scale in enumerate(scales):
        height_m = observation.height_m * scale
        try:
            found[i] = orthorectify(observation.image, camera, observation.attitude_rad, height_m, gsd_m, DISC_PX)
        except FrameError as error:
            why = error.message
    if not found:
        return [], why
    # A height from which the disc is not in view is neither favoured nor ruled out: it takes its neighbour's view.
    return [found[min(found, key=lambda j: abs(j - i))] for i in range(len(scales))], ""


def _lever(patches: Sequence[Patch], scale: float) -> tuple[float, float]:
    """Forward and left metres to the middle of the view, at the height that is likely now."""
    if not patches:
        return 0.0, 0.0
    likely = patches[int(np.argmin(np.abs(np.log(SCALES_UNKNOWN / scale))))] if len(patches) > 1 else patches[0]
    return likely.centre_forward_m, likely.centre_left_m


def likely_scale(localizer: Localizer) -> float:
    """True height over the one that is assumed for it, by the filter's belief."""
    return float(_scale_shares(localizer) @ SCALES_UNKNOWN)


def scale_std(localizer: Localizer) -> float:
    """Standard deviation of `likely_scale`."""
    return math.sqrt(float(_scale_shares(localizer) @ (SCALES_UNKNOWN - likely_scale(localizer)) ** 2))


def _scale_shares(localizer: Localizer) -> npt.NDArray[np.float64]:
    shares = localizer.filter.scale_shares
    if len(shares) != len(SCALES_UNKNOWN):  # nothing was weighed yet
        return np.full(len(SCALES_UNKNOWN), 1 / len(SCALES_UNKNOWN))
    return shares


def live_line(number: int, update: Update) -> str:
    """One line for the terminal: state, spread, error, milliseconds, and why it is not converged."""
    fix = update.fix
    parts = [f"update {number:3d}", f"{fix.state:9s}", f"spread {fix.position_std_m:6.0f} m"]
    parts.append(f"95 % {fix.radius95_m:5.0f} m" if fix.is_believed else " " * 12)
    if not math.isnan(update.error_m):
        parts.append(f"error {update.error_m:6.1f} m")
    parts.append(f"{sum(update.stages_ms.values()):4.0f} ms")
    return "  ".join(parts) + (f"  {fix.reason}" if fix.reason else "")
