"""What the demo keeps of a flight: the node's outputs beside the truth, as the runtime's own report shows them."""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.outputs import Fix, State
from kittiwake_runtime.localization.pictures import Canvas
from kittiwake_runtime.localization.report import Update, write_report

from .geometry import MapFrame
from .messages import seconds

Floats = npt.NDArray[np.float64]

TRUTH_KEPT = 4000
_DECADES = 5.0


class FlightRecord:
    """Collects messages; every belief that is published closes an update.

    Args:
        index: the map that is flown over.

    Attributes:
        updates: so far, with their errors.
        state: text of the last ``~/state``, and its reason.
        error_m: distance of the newest pose from the truth; NaN while there is none.
    """

    def __init__(self, index: MapIndex) -> None:
        self.updates: list[Update] = []
        self.state, self.reason = "waiting", ""
        self.error_m = math.nan
        self._grid, self._frame, self._canvas = index.grid, MapFrame.of(index), Canvas.of(index, 600)
        self._georef_m2 = index.georef_sigma_m**2
        self._truth: deque[tuple[float, float, float]] = deque(maxlen=TRUTH_KEPT)
        self._values: dict[str, str] = {}
        self._navsat: Any = None

    @property
    def radius95_m(self) -> float:
        """The node's own radius for 95 %; NaN while it believes nothing."""
        return float(self._values.get("radius95_m", "nan"))

    def on_truth(self, message: Any) -> None:
        """`truth_navsat` of the simulator."""
        easting, northing = self._grid.from_wgs84(message.latitude, message.longitude)
        self._truth.append((seconds(message.header.stamp), float(easting), float(northing)))

    def on_state(self, message: Any) -> None:
        """``~/state``."""
        self._values = {entry.key: entry.value for entry in message.values}
        self.state, self.reason = self._values.get("state", "?"), self._values.get("reason", "")
        if self.state != "converged":
            self.error_m = math.nan

    def on_navsat(self, message: Any) -> None:
        """``~/navsat``."""
        self._navsat = message

    def on_pose(self, message: Any) -> None:
        """``~/pose``: how far is it from where the vehicle is now?"""
        truth = self._truth_at(seconds(message.header.stamp))
        if truth is not None:
            position = message.pose.pose.position
            x, y = self._frame.from_grid(*truth)
            self.error_m = math.hypot(position.x - x, position.y - y)

    def on_belief(self, message: Any) -> None:
        """``~/belief``: the end of an update."""
        time_s = seconds(message.header.stamp)
        east_m, north_m, mass = self._cells(message)
        number = lambda key: float(self._values.get(key, "nan"))  # noqa: E731
        mean, covariance = self._moments(time_s, east_m, north_m, mass)
        fix = Fix(
            time_s=time_s,
            easting_m=float(mean[0]),
            northing_m=float(mean[1]),
            heading_rad=0.0,
            covariance=covariance,
            position_std_m=math.sqrt(float(np.trace(covariance))),
            heading_std_rad=math.nan,
            state=_state(self.state),
            source="map_matched" if self._values.get("source") == "map_matched" else "propagated",
            age_s=number("age_s"),
            distance_since_match_m=number("distance_m"),
            elsewhere=number("elsewhere"),
            evidence=math.nan,
            reason=self.reason,
            grid=self._grid,
        )
        stages = {"localizer": number("task_ms"), "node": number("node_ms")}
        self.updates.append(Update(fix, self._on_canvas(east_m, north_m, mass), self._truth_at(time_s), stages))

    def summary(self) -> dict[str, str]:
        """What there is to say about the flight, as key and value."""
        believed = [update for update in self.updates if update.fix.is_believed and update.truth is not None]
        found = next((i for i, update in enumerate(self.updates) if update.fix.is_believed), None)
        facts = {"updates seen": str(len(self.updates))}
        if found is None:
            return facts | {"found": "not yet"}
        facts["found"] = f"after {self.updates[found].fix.time_s - self.updates[0].fix.time_s:.0f} s"
        errors = sorted(update.error_m for update in believed)
        if errors:
            facts["error from then on"] = f"{errors[len(errors) // 2]:.1f} m median, {errors[-1]:.1f} m at most"
            inside = sum(update.error_m <= update.fix.radius95_m for update in believed)
            facts["inside the 95 % radius"] = f"{inside} of {len(believed)} updates"
        return facts

    def write(self, folder: Path, facts: dict[str, str]) -> Path | None:
        """Write the report, if there is anything to show; its path."""
        if not self.updates:
            return None
        title = "Kittiwake over ROS 2: where am I?"
        return write_report(folder, self._canvas, self.updates, title=title, facts={**facts, **self.summary()})

    def _truth_at(self, time_s: float) -> tuple[float, float] | None:
        """Easting and northing, between the samples about a time."""
        for (a, ax, ay), (b, bx, by) in zip(reversed([*self._truth][:-1]), reversed(self._truth), strict=False):
            if a <= time_s <= b:
                share = (time_s - a) / (b - a) if b > a else 0.0
                return ax + share * (bx - ax), ay + share * (by - ay)
        return None

    def _cells(self, message: Any) -> tuple[Floats, Floats, Floats]:
        """``(cols,)`` eastings, ``(rows,)`` northings and ``(rows, cols)`` probabilities of a belief's cells."""
        info = message.info
        corner = self._frame.to_wgs84(info.origin.position.x, info.origin.position.y)
        west, south = (float(value) for value in self._grid.from_wgs84(*corner))
        levels = np.frombuffer(message.data, np.int8).reshape(info.height, info.width)
        mass = np.where(levels > 0, 10.0 ** (_DECADES * (levels / 100.0 - 1.0)), 0.0)
        east = west + (np.arange(info.width) + 0.5) * info.resolution
        north = south + (np.arange(info.height) + 0.5) * info.resolution
        return east, north, mass / max(float(mass.sum()), 1e-30)

    def _moments(self, time_s: float, east_m: Floats, north_m: Floats, mass: Floats) -> tuple[Floats, Floats]:
        """Mean and covariance as the node published them, or, where it believes nothing, those of its belief."""
        fix = self._navsat
        if fix is not None and fix.status.status >= 0 and abs(seconds(fix.header.stamp) - time_s) < 1e-3:
            covariance = np.array(fix.position_covariance, np.float64).reshape(3, 3)[:2, :2]
            return np.array(self._grid.from_wgs84(fix.latitude, fix.longitude)), covariance
        columns, rows = mass.sum(axis=0), mass.sum(axis=1)
        mean = np.array([columns @ east_m, rows @ north_m])
        de, dn = east_m - mean[0], north_m - mean[1]
        across = float(dn @ mass @ de)
        covariance = np.array([[columns @ de**2, across], [across, rows @ dn**2]])
        return mean, covariance + np.eye(2) * self._georef_m2

    def _on_canvas(self, east_m: Floats, north_m: Floats, mass: Floats) -> npt.NDArray[np.float32]:
        """``(H, W) float32``: the belief on the pixels of the report's map."""
        canvas, (height, width) = self._canvas, self._canvas.image.shape[:2]
        columns = np.clip(((east_m - canvas.west_m) / canvas.m_per_px).astype(int), 0, width - 1)
        rows = np.clip(((canvas.north_m - north_m) / canvas.m_per_px).astype(int), 0, height - 1)
        result = np.zeros((height, width), np.float32)
        np.add.at(result, (rows[:, None], columns[None, :]), mass.astype(np.float32))
        return result


def _state(text: str) -> State:
    return "converged" if text == "converged" else "lost" if text == "lost" else "searching"
