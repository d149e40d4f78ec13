"""A vehicle with PX4: ros2 launch kittiwake_ros px4.launch.py map:=area.kwmap camera:=camera.yaml mode:=active."""

from launch import LaunchDescription
from launch.actions import ExecuteProcess
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PythonExpression

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
    """The localization node with PX4 on both sides, and, when asked for, the agent that PX4's DDS client speaks to."""
    agent = LaunchConfiguration("agent")
    return LaunchDescription(
        [
            argument("map", "map index, made by `kittiwake map build`"),
            argument("camera", "camera.yaml: intrinsics, lens and mount of the camera"),
            argument("mode", "shadow computes and records; active also sends to PX4", "shadow", ("shadow", "active")),
            argument("px4_namespace", "before /fmu, as /px4_1 with several vehicles", ""),
            argument("px4_source_id", "the vehicle's EKF2_AGP0_ID", "1"),
            argument(
                "agent",
                "arguments of MicroXRCEAgent, as 'udp4 -p 8888' or 'serial --dev /dev/ttyTHS1 -b 921600'; "
                "empty: it runs already",
                "",
            ),
            *common_arguments("px4.yaml"),
            *input_arguments(),
            transport(),
            ExecuteProcess(
                cmd=[["MicroXRCEAgent ", agent]],
                shell=True,
                output="screen",
                respawn=True,
                respawn_delay=1.0,
                condition=IfCondition(PythonExpression(["'", agent, "' != ''"])),
            ),
            lifecycle_node(
                "uav_localization",
                {
                    **{name: value(name) for name in ("map", "camera", "mode", "px4_namespace")},
                    "px4_source_id": value("px4_source_id", int),
                    "autopilot": "px4",
                },
                input_remappings(),
            ),
        ]
    )
