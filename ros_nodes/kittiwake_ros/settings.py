"""The parameters of the node `uav_localization`."""

from __future__ import annotations

from dataclasses import dataclass

from .parameters import ParameterError, parameter


@dataclass(frozen=True)
class Settings:
    """Every parameter with its description, unit and range; `parameters.declare` makes ROS parameters of them."""

    map: str = parameter("", "map index (.kwmap), made by `kittiwake map build`")
    bundle: str = parameter("", "model, by path or name; empty: the one that made the map")
    camera: str = parameter("", "camera.yaml; empty: CameraInfo and the parameter mount")
    mount: tuple[float, ...] = parameter(
        (0.0, -90.0, 0.0, 0.0, 0.0, 0.0),
        "without camera.yaml: roll, pitch, yaw of the camera on the body (FRD) or on its gimbal, degrees, straight "
        "down is pitch -90; then metres ahead, right, below",
    )
    mode: str = parameter(
        "active",
        "shadow computes and records, and sends nothing to an autopilot",
        choices=("active", "shadow"),
    )
    autopilot: str = parameter(
        "none", "with px4, attitude and odometry come from PX4 and positions go to it", choices=("none", "px4")
    )
    autostart: bool = parameter(False, "configure and activate without being asked, also after a respawn")
    compressed: bool = parameter(False, "take camera/image/compressed instead of camera/image")
    image_reliable: bool = parameter(False, "ask for reliable images; a best effort publisher is then not heard")
    camera_frame: str = parameter("", "frame_id that images must have; empty: the one of CameraInfo, when that comes")
    camera_offset_s: float = parameter(
        0.0, "added to the images' stamps, as the diagnostics advise", unit="s", least=-1.0, most=1.0
    )
    attitude_source: str = parameter("imu", "topic that attitude is taken from", choices=("imu", "odometry"))
    use_heading: bool = parameter(False, "the first attitude's yaw, from true north, is a soft prior")
    gimbal_source: str = parameter(
        "none", "source of the gimbal's orientation", choices=("none", "topic", "tf", "autopilot")
    )
    gimbal_tf_frame: str = parameter(
        "", "with gimbal_source tf: the frame that the gimbal turns, x ahead where it doesn't; base_frame is the other"
    )
    gimbal_frame: str = parameter(
        "body",
        "what the topic gimbal turns into: the vehicle's body, east-north-up, or the horizon ahead of the vehicle",
        choices=("body", "earth", "horizon"),
    )
    height_source: str = parameter(
        "range",
        "height of the body: above ground from the topic range (along the body's down axis), from the odometry's z, or "
        "from the autopilot; above_takeoff is the odometry's z with the ground unknown, constant is height_m: the "
        "scale is then searched within 30 %",
        choices=("range", "odometry", "autopilot", "above_takeoff", "constant"),
    )
    height_m: float = parameter(120.0, "rough height, for height_source constant", unit="m", least=1.0, most=10000.0)
    max_sample_gap_s: float = parameter(
        0.1, "samples farther apart than this are not interpolated", unit="s", least=0.001, most=1.0
    )
    max_wait_s: float = parameter(0.2, "wait of an image for the samples about it", unit="s", least=0.0, most=2.0)
    odometry_sigma_share: float = parameter(
        0.02, "standard deviation of the odometry per axis, as a share of the way", least=0.001, most=1.0
    )
    odometry_sigma_turn_deg: float = parameter(
        1.5, "standard deviation of the odometry's turn between two updates", unit="°", least=0.01, most=45.0
    )
    update_distance_m: float = parameter(
        0.0, "way between two updates; 0: half of the map's footprint", unit="m", least=0.0, most=10000.0
    )
    update_period_s: float = parameter(0.2, "least time between two updates", unit="s", least=0.0, most=60.0)
    max_radius_m: float = parameter(
        400.0,
        "95 % radius above which a carried position is lost",
        unit="m",
        least=10.0,
        most=10000.0,
    )
    pose_rate_hz: float = parameter(10.0, "of ~/pose, and of samples to an autopilot", unit="Hz", least=5.0, most=50.0)
    map_frame: str = parameter("map", "frame_id of fixes, poses and the belief (REP-105)")
    base_frame: str = parameter("base_link", "frame_id of the vehicle's body")
    publish_tf: bool = parameter(True, "publish map → odom where tf2_ros is installed")
    state_file: str = parameter("", "where the last belief is kept, to start from after a crash; empty: nowhere")
    state_max_age_s: float = parameter(600.0, "an older belief is not used", unit="s", least=0.0, most=86400.0)
    max_speed_m_s: float = parameter(
        30.0, "of the vehicle: widens a belief that was read from the file", unit="m/s", least=0.1, most=300.0
    )
    track_folder: str = parameter("kittiwake_track", "where ~/save_track writes track.csv and track.geojson")
    correlation_s: float = parameter(
        5.0,
        "errors of poses are alike for so long: an autopilot gets them inflated",
        unit="s",
        least=0.0,
        most=120.0,
    )

    px4_namespace: str = parameter("", "before /fmu, as /px4_1 with several vehicles")
    px4_source_id: int = parameter(1, "the vehicle's EKF2_AGP0_ID", least=1, most=255)
    px4_odometry: str = parameter(
        "local_position",
        "PX4's message that odometry is taken from: vehicle_local_position says how far a reset moved the heading, "
        "vehicle_odometry comes at twice the rate",
        choices=("local_position", "odometry"),
    )

    def check(self) -> None:
        """Refuse what no combination of sources can give.

        Raises:
            ParameterError: naming the parameters.
        """
        if not self.map:
            raise ParameterError("parameter map is empty", "give the path of a .kwmap: `kittiwake map build` makes one")
        from_px4 = self.autopilot == "px4"
        if not from_px4 and "autopilot" in (self.height_source, self.gimbal_source):
            raise ParameterError(
                "height_source or gimbal_source is autopilot, and autopilot is none", "set autopilot: px4"
            )
        if from_px4 and self.height_source in ("odometry", "above_takeoff"):
            raise ParameterError(
                f"height_source is {self.height_source}, and PX4's odometry is taken without its height",
                "use range, constant, or autopilot where the vehicle has a rangefinder",
            )
        if self.gimbal_source == "tf" and not self.gimbal_tf_frame:
            raise ParameterError("gimbal_source is tf, and gimbal_tf_frame is empty", "name the frame that it turns")
        if from_px4 and self.gimbal_source == "topic":
            raise ParameterError("gimbal_source is topic, and autopilot is px4", "use autopilot, tf or none")

    @property
    def gimbal_turns_into(self) -> str:
        """What the gimbal's orientation is against: ``body``, ``earth`` or ``horizon``."""
        return {"autopilot": "earth", "tf": "body"}.get(self.gimbal_source, self.gimbal_frame)

    @property
    def height_is_agl(self) -> bool:
        """Whether heights are above the ground below."""
        return self.height_source in ("range", "odometry", "autopilot")
