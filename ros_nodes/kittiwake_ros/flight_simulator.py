"""The node `flight_simulator`: a vehicle over the procedural world, with camera, attitude, odometry and rangefinder.

It needs no hardware and no other simulator. What a vehicle gets wrong can be switched on while it flies::

    ros2 param set /flight_simulator fault_camera_offset_s 0.15
"""

from __future__ import annotations

import math
import queue
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nav_msgs.msg import Odometry
from rcl_interfaces.msg import SetParametersResult
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, Range

from kittiwake_runtime.localization.camera import load_camera
from kittiwake_runtime.localization.frames import Enu
from kittiwake_runtime.localization.map_index import MapIndex
from kittiwake_runtime.localization.simulate import DEFAULT_CAMERA, Motion, Sensors, Truth, expose, photograph
from kittiwake_runtime.localization.world import ORIGIN_EASTING_M, ORIGIN_NORTHING_M

from . import flight_messages, qos
from .geometry import MapFrame
from .images import to_compressed, to_message
from .lifecycle import ManagedNode, run
from .messages import stamp_of
from .painted_ground import PaintedGround
from .parameters import ParameterError, checked, declare, read
from .simulated_flight import STEP_S, SimulatedFlight
from .simulator_settings import FlightSettings

START_TIME_S = 1_750_000_000.0
"""Of simulated time."""

_LATE_S = 1.0
_LANDING_S = 0.1
_PIXEL_NOISE = 0.02


@dataclass(frozen=True)
class _Exposure:
    """A photograph to be taken."""

    stamp_s: float
    truth: Truth


class FlightSimulator(ManagedNode):
    """Flies while it is active. Every message carries the time that it is of; an image comes when it is painted."""

    def __init__(self, **options: Any) -> None:
        super().__init__("flight_simulator", **options)
        declare(self, FlightSettings)
        self.settings = read(self, FlightSettings)
        self._clock_out = self.offer(Clock, "/clock", qos.output())  # `_clock` is the node's own
        self._image = self.offer(Image, "camera/image", qos.sensor(5))
        self._compressed = self.offer(CompressedImage, "camera/image/compressed", qos.sensor(5))
        self._camera_info = self.offer(CameraInfo, "camera/camera_info", qos.output())
        self._imu = self.offer(Imu, "imu", qos.output(50))
        self._odometry = self.offer(Odometry, "odometry", qos.output(50))
        self._range = self.offer(Range, "range", qos.output(50))
        self._truth = self.offer(Odometry, "truth", qos.output())
        self._truth_navsat = self.offer(NavSatFix, "truth_navsat", qos.output())
        self._exposures: queue.Queue[_Exposure] = queue.Queue(maxsize=2)
        self._in_flight = threading.Event()
        self._photographer: threading.Thread | None = None
        self.add_on_set_parameters_callback(self._on_parameters)

    def load(self) -> None:
        """Read the parameters, and stand at the start."""
        self.settings = read(self, FlightSettings)
        settings = self.settings
        bounds = (0.0, 0.0, settings.side_m, settings.side_m)
        sensors = Sensors(height_agl_m=settings.height_agl_m)
        border_m = min(400.0, settings.side_m / 4)
        motion = Motion(speed_m_s=settings.speed_m_s)
        self._flight = SimulatedFlight(bounds, motion, sensors, settings.seed, border_m=border_m)
        self._camera = load_camera(Path(settings.camera)) if settings.camera else DEFAULT_CAMERA
        self._info = flight_messages.camera_info(self._camera)
        self._frame = self._map_frame()
        self._rng = np.random.default_rng(settings.seed)
        self._exposure = np.exp(self._rng.uniform(-1, 1, 2) * math.log(sensors.exposure))
        self._next_sensors_s = self._next_image_s = 0.0
        self.health.counts.clear()

    def start(self) -> None:
        """Take off."""
        simulated = self.settings.clock == "sim"
        self._began_s = (START_TIME_S if simulated else self.now_s()) - self._flight.time_s
        self._ground = PaintedGround(self.settings.seed)
        self._exposures = queue.Queue(maxsize=2)
        self._in_flight.set()
        self._photographer = threading.Thread(target=self._take_photographs, name="photographer", daemon=True)
        self._photographer.start()
        self.every(1 / self.settings.sensor_rate_hz / (self.settings.time_factor if simulated else 1.0), self._tick)

    def stop(self) -> None:
        """Stand still in the air."""
        if self._photographer is not None:
            self._in_flight.clear()
            self._photographer.join()
            self._photographer = None
            self._ground.close()

    def values(self) -> dict[str, Any]:
        """What flies, and which faults are on."""
        faults = ("fault_camera_stops", "fault_camera_offset_s", "fault_kidnap_m", "fault_odometry_jump_m")
        on = [f"{name}={getattr(self.settings, name)}" for name in faults if getattr(self.settings, name)]
        return {"season": self.settings.season, "seed": self.settings.seed, "faults": ", ".join(on) or "none"}

    def _map_frame(self) -> MapFrame:
        if self.settings.map:
            with MapIndex.open(Path(self.settings.map)) as index:
                return MapFrame.of(index)
        middle = self.settings.side_m / 2
        lat, lon = self._flight.grid.to_wgs84(ORIGIN_EASTING_M + middle, ORIGIN_NORTHING_M + middle)
        return MapFrame(Enu(float(lat), float(lon)), self._flight.grid)

    def _tick(self) -> None:
        """Fly up to now, and say what was measured on the way."""
        period_s = 1 / self.settings.sensor_rate_hz
        if self.settings.clock == "sim":
            if self._exposures.full():
                return  # simulated time waits for the camera
            until_s = self._next_sensors_s
        else:
            until_s = self.now_s() - self._began_s
            late_s = until_s - self._next_sensors_s
            if late_s > _LATE_S:
                self.refuse("flight", f"{late_s:.1f} s behind: this machine is too slow or was asleep")
                self._next_sensors_s = until_s
        while self._next_sensors_s <= until_s:
            self._flight.fly_to(self._next_sensors_s)
            self._next_sensors_s += period_s
            self._publish_sensors()
        if self._flight.time_s > self._next_image_s - STEP_S / 2:
            self._next_image_s = max(self._next_image_s + 1 / self.settings.camera_rate_hz, self._flight.time_s)
            self._expose()

    def _publish_sensors(self) -> None:
        stamp = stamp_of(self._began_s + self._flight.time_s)
        if self.settings.clock == "sim":
            self._clock_out.publish(Clock(clock=stamp))
        measured = self._flight.measure()
        self._imu.publish(flight_messages.imu(measured, stamp))
        self._odometry.publish(flight_messages.odometry(measured, stamp))
        self._range.publish(flight_messages.range_below(measured, stamp))
        place, heading = self._flight.place(), measured.truth.heading_rad
        self._truth.publish(flight_messages.truth(self._frame, place, heading, stamp))
        self._truth_navsat.publish(flight_messages.navsat(*self._flight.grid.to_wgs84(*place), stamp))

    def _expose(self) -> None:
        if self.settings.fault_camera_stops:
            return
        stamp_s = self._began_s + self._flight.time_s + self.settings.fault_camera_offset_s
        try:
            self._exposures.put_nowait(_Exposure(stamp_s, self._flight.truth))
        except queue.Full:
            self.health.counts["images_not_painted_in_time"] += 1

    def _take_photographs(self) -> None:
        """In a thread of its own: painting takes longer than the time between two samples of the gyro."""
        settings, (gain, gamma) = self.settings, self._exposure
        while self._in_flight.is_set():
            try:
                exposure = self._exposures.get(timeout=_LANDING_S)
            except queue.Empty:
                continue
            day = (settings.season, settings.date_seed)
            seen = photograph(self._ground, self._camera, exposure.truth, *day, threads=1)
            pixels = expose(seen, gain, gamma, _PIXEL_NOISE, self._rng)
            self._info.header.stamp = stamp_of(exposure.stamp_s)
            try:
                self._camera_info.publish(self._info)
                self._image.publish(to_message(pixels, "rgb8", self._info.header))
                if self._compressed.get_subscription_count():
                    self._compressed.publish(to_compressed(pixels, self._info.header))
            except Exception:  # interrupted while it painted: rclpy closes its context before any node is asked to stop
                if self.context.ok():
                    raise
                return
            self.health.counts["images"] += 1

    def _on_parameters(self, changed: list[Any]) -> SetParametersResult:
        """Faults act at once; everything else is read at `configure`."""
        try:
            values = {p.name: checked(FlightSettings, p.name, p.value) for p in changed if p.name.startswith("fault_")}
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=f"{error.message}: {error.hint}")
        if self.stage != "unconfigured":
            if values.get("fault_kidnap_m"):
                self._flight.kidnap(values["fault_kidnap_m"])
            if values.get("fault_odometry_jump_m"):
                self._flight.jump_odometry(values["fault_odometry_jump_m"])
        self.settings = FlightSettings(**{**vars(self.settings), **values})
        return SetParametersResult(successful=True)


def main() -> int:
    """The console script `flight_simulator`."""
    return run(FlightSimulator)


if __name__ == "__main__":
    sys.exit(main())
