"""What the launch files share: arguments, lifecycle nodes, remappings, the transport profile.

Only actions that Humble, Jazzy and Kilted all have are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from .resources import config, profile_variable

PACKAGE = "kittiwake_ros"

INPUTS = {
    "image": ("camera/image", "sensor_msgs/Image of the camera; .../compressed is heard beside it"),
    "camera_info": ("camera/camera_info", "sensor_msgs/CameraInfo of the camera"),
    "imu": ("imu", "sensor_msgs/Imu: attitude in ENU, and the gyro"),
    "odometry": ("odometry", "nav_msgs/Odometry in a local frame"),
    "range": ("range", "sensor_msgs/Range of a rangefinder that looks down"),
    "gimbal": ("gimbal", "geometry_msgs/QuaternionStamped of a gimbal"),
    "prior_navsat": ("prior_navsat", "sensor_msgs/NavSatFix: where it may be; a wrong one only delays"),
}
"""Inputs of the localization node: launch argument, its topic, what comes on it."""


def argument(name: str, text: str, default: str | None = None, choices: Sequence[str] | None = None) -> Any:
    """A launch argument; without a default it has to be given."""
    return DeclareLaunchArgument(name, default_value=default, description=text, choices=choices)


def value(name: str, kind: type = str) -> Any:
    """A launch argument as a parameter of a type; without one, a text that looks like a number becomes one."""
    return ParameterValue(LaunchConfiguration(name), value_type=kind)


def common_arguments(params_file: str) -> list[Any]:
    """The arguments that every launch file has."""
    switch = ("true", "false")
    return [
        argument("namespace", "before all names that are not absolute", ""),
        argument("params_file", "YAML with the nodes' parameters", str(config(params_file))),
        argument("use_sim_time", "take the time from /clock", "false", switch),
        argument("autostart", "configure and activate the nodes once they run", "true", switch),
        argument("respawn", "start a node again that ended by itself", "true", switch),
        argument("log_level", "of the nodes", "info", ("debug", "info", "warn", "error")),
        argument(
            "transport_profile",
            "Fast DDS profile for all nodes started here; large images need one at both ends",
            str(config("fastdds_shm.xml")),
        ),
    ]


def input_arguments() -> list[Any]:
    """An argument for each input of the localization node: the topic that it comes on."""
    return [argument(name, f"topic: {what}", topic) for name, (topic, what) in INPUTS.items()]


def input_remappings() -> list[tuple[Any, Any]]:
    """The remappings that those arguments ask for; the compressed image follows the raw one."""
    pairs: list[tuple[Any, Any]] = [(topic, LaunchConfiguration(name)) for name, (topic, _) in INPUTS.items()]
    return [*pairs, ("camera/image/compressed", [LaunchConfiguration("image"), "/compressed"])]


def transport() -> Any:
    """The transport profile in the environment of all that is started afterwards."""
    return SetEnvironmentVariable(profile_variable(), LaunchConfiguration("transport_profile"))


def lifecycle_node(executable: str, parameters: Mapping[str, Any], remappings: Sequence[tuple[Any, Any]] = ()) -> Any:
    """A lifecycle node that brings itself to *active*, at its first start and after every respawn.

    Args:
        executable: of this package; the node has the same name.
        parameters: beside those of `params_file`, and stronger.
        remappings: pairs of names.
    """
    switches = {name: value(name, bool) for name in ("autostart", "use_sim_time")}
    return LifecycleNode(
        package=PACKAGE,
        executable=executable,
        name=executable,
        namespace=LaunchConfiguration("namespace"),
        parameters=[LaunchConfiguration("params_file"), {**switches, **parameters}],
        remappings=list(remappings),
        ros_arguments=["--log-level", LaunchConfiguration("log_level")],
        output="screen",
        emulate_tty=True,
        respawn=LaunchConfiguration("respawn"),
        respawn_delay=1.0,
    )
