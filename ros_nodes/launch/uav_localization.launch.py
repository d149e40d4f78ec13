"""A vehicle with ROS topics: ros2 launch kittiwake_ros uav_localization.launch.py map:=area.kwmap camera:=cam.yaml."""

from launch import LaunchDescription

from kittiwake_ros.launching import (
    argument,
    common_arguments,
    input_arguments,
    input_remappings,
    lifecycle_node,
    transport,
    value,
)


def generate_launch_description() -> LaunchDescription:
    """The localization node, configured and active."""
    return LaunchDescription(
        [
            argument("map", "map index, made by `kittiwake map build`"),
            argument("camera", "camera.yaml: intrinsics, lens and mount of the camera"),
            *common_arguments("uav_localization.yaml"),
            *input_arguments(),
            transport(),
            lifecycle_node(
                "uav_localization",
                {"map": value("map"), "camera": value("camera")},
                input_remappings(),
            ),
        ]
    )
