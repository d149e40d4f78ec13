"""The parameters of the node `flight_simulator`."""

from __future__ import annotations

from dataclasses import dataclass

from kittiwake_runtime.localization.world import SEASONS

from .parameters import parameter


@dataclass(frozen=True)
class FlightSettings:
    """Every parameter with its description, unit and range; faults act at once, the others at `configure`."""

    seed: int = parameter(1, "of the world and the flight; equal seeds fly the same", least=0, most=1e9)
    season: str = parameter("autumn", "of the flight", choices=SEASONS)
    date_seed: int = parameter(1, "which date of that season", least=0, most=1e9)
    side_m: float = parameter(4000.0, "of the square area that it stays over", unit="m", least=1000.0, most=100000.0)
    speed_m_s: float = parameter(20.0, "over ground", unit="m/s", least=1.0, most=60.0)
    height_agl_m: float = parameter(120.0, "mean height above ground", unit="m", least=30.0, most=500.0)
    camera: str = parameter("", "camera.yaml; empty: 360x300 px that see 160 m of ground from 120 m")
    camera_rate_hz: float = parameter(5.0, "rate of the images", unit="Hz", least=0.1, most=60.0)
    sensor_rate_hz: float = parameter(50.0, "rate of attitude, odometry and range", unit="Hz", least=1.0, most=100.0)
    clock: str = parameter("wall", "sim publishes /clock, and waits for its own camera", choices=("wall", "sim"))
    time_factor: float = parameter(1.0, "how fast simulated time goes", least=0.1, most=50.0)
    map: str = parameter("", "map index in whose frame the truth is given; empty: one about the middle of the area")
    autostart: bool = parameter(False, "configure and activate without being asked, also after a respawn")
    fault_camera_stops: bool = parameter(False, "no more images")
    fault_camera_offset_s: float = parameter(0.0, "added to the images' stamps", unit="s", least=-1.0, most=1.0)
    fault_kidnap_m: float = parameter(0.0, "once set, the vehicle is so far away", unit="m", least=0.0, most=100000.0)
    fault_odometry_jump_m: float = parameter(0.0, "once set, odometry jumps so far", unit="m", least=0.0, most=10000.0)
