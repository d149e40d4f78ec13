"""Everything without hardware: ros2 launch kittiwake_ros demo.launch.py, with rviz:=true to see it."""

from launch import LaunchDescription
from launch.actions import ExecuteProcess, RegisterEventHandler
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from kittiwake_ros.launching import argument, common_arguments, lifecycle_node, transport, value
from kittiwake_ros.resources import share

_NUMBERS = {
    "seed": ("1", int, "of the world and the flight"),
    "side_m": ("4000", float, "of the square area, metres"),
    "speed_m_s": ("20", float, "of the vehicle"),
}


def generate_launch_description() -> LaunchDescription:
    """A map of a made-up area, then a vehicle that flies over it in another season, and the node that finds it."""
    folder = LaunchConfiguration("folder")
    numbers = {name: LaunchConfiguration(name) for name in _NUMBERS}
    prepare = ExecuteProcess(
        cmd=[
            *("python3", "-m", "kittiwake_ros.demo", "--prepare", "--output", folder),
            *("--seed", numbers["seed"], "--side-m", numbers["side_m"]),
        ],
        output="screen",
        emulate_tty=True,
    )
    flight = {name: value(name, kind) for name, (_, kind, _) in _NUMBERS.items()}
    nodes = [
        lifecycle_node("flight_simulator", {**flight, "season": value("season")}),
        lifecycle_node("uav_localization", {"map": [folder, "/area.kwmap"], "camera": [folder, "/camera.yaml"]}),
    ]
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", str(share() / "rviz" / "kittiwake.rviz")],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    return LaunchDescription(
        [
            argument("folder", "for the map; one that fits is used again", "out/ros_demo"),
            argument("season", "of the flight; the map is of summer", "autumn", ("summer", "autumn", "winter")),
            *(argument(name, text, default) for name, (default, _, text) in _NUMBERS.items()),
            argument("rviz", "show it in RViz", "false", ("true", "false")),
            *common_arguments("demo.yaml"),
            transport(),
            prepare,
            RegisterEventHandler(OnProcessExit(target_action=prepare, on_exit=nodes)),
            rviz,
        ]
    )
