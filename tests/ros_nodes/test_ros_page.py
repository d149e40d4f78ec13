"""docs/ros.md and the files for RViz and Foxglove against the nodes themselves: topics, types, parameters."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter

from kittiwake_ros import demo
from kittiwake_ros.flight_simulator import FlightSimulator
from kittiwake_ros.uav_localization import UavLocalization

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "ros.md").read_text(encoding="utf-8")
# What every node of rclpy has.
OF_EVERY_NODE = re.compile(r"/(rosout|parameter_events|.*/transition_event)$")


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, str]]]:
    """Type by topic, of ``inputs`` and ``outputs`` of both nodes while they are active."""
    folder = tmp_path_factory.mktemp("page")
    demo.prepare(folder, 1, 1500.0)
    given = {"map": folder / "area.kwmap", "camera": folder / "camera.yaml", "gimbal_source": "topic"}
    context = rclpy.Context()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
        rclpy.init(context=context)  # what is asked below is this process's own: no domain is needed for it
    found: dict[str, dict[str, str]] = {"inputs": {}, "outputs": {}, "simulated": {}}

    def add(kind: str, ends: Iterable[Any]) -> None:
        """Of the node's own subscriptions or publishers; what DDS has discovered of them comes a moment later."""
        types = {end.topic_name: f"{end.msg_type.__module__.split('.')[0]}/{end.msg_type.__name__}" for end in ends}
        found[kind] |= {topic: name for topic, name in types.items() if not OF_EVERY_NODE.match(topic)}

    for compressed in (False, True):
        overrides = [Parameter(name, value=str(value)) for name, value in given.items()]
        overrides.append(Parameter("compressed", value=compressed))
        node = UavLocalization(context=context, parameter_overrides=overrides)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        add("inputs", node.subscriptions)
        add("outputs", node.publishers)
        node.close()
        node.destroy_node()
    simulator = FlightSimulator(context=context)
    add("simulated", simulator.publishers)
    simulator.destroy_node()
    rclpy.shutdown(context=context)
    yield found


def rows(heading: str) -> dict[str, str]:
    """Type by topic of the table with this heading."""
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[- |]+\n((?:\|.*\n)+)", PAGE, flags=re.MULTILINE)
    return dict(re.findall(r"^\| `([^`]+)` \| (\S+) \|", table, flags=re.MULTILINE))


def test_the_page_names_every_topic_with_its_type(graph: dict[str, dict[str, str]]) -> None:
    def full(topic: str) -> str:
        return topic.replace("~", "/uav_localization") if topic[0] in "~/" else f"/{topic}"

    assert {full(topic): kind for topic, kind in rows("input").items()} == graph["inputs"]
    assert {full(topic): kind for topic, kind in rows("output").items()} == graph["outputs"]
    for topic in graph["simulated"]:
        assert f"`{topic}`" in PAGE or f"`{topic.lstrip('/')}`" in PAGE, topic


def test_the_tables_of_parameters_are_not_stale() -> None:
    spec = importlib.util.spec_from_file_location("make_ros_tables", ROOT / "tools" / "make_ros_tables.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.written(PAGE) == PAGE, "run python tools/make_ros_tables.py"


def test_rviz_shows_topics_that_exist_with_a_qos_that_fits(graph: dict[str, dict[str, str]]) -> None:
    content = yaml.safe_load((ROOT / "ros_nodes" / "rviz" / "kittiwake.rviz").read_text(encoding="utf-8"))
    manager = content["Visualization Manager"]
    kinds = {"Map": "nav_msgs/OccupancyGrid", "Path": "nav_msgs/Path", "Odometry": "nav_msgs/Odometry",
             "PoseWithCovariance": "geometry_msgs/PoseWithCovarianceStamped", "Image": "sensor_msgs/Image",
             "SetInitialPose": "geometry_msgs/PoseWithCovarianceStamped"}  # fmt: skip
    known = graph["inputs"] | graph["outputs"] | graph["simulated"]
    shown = {}
    for entry in [*manager["Displays"], *manager["Tools"]]:
        if "Topic" in entry:
            topic, kind = entry["Topic"]["Value"], entry["Class"].partition("/")[2]
            shown[topic] = entry["Topic"]
            assert known[topic] == kinds[kind], entry["Name"]
    assert manager["Global Options"]["Fixed Frame"] == "map"
    latched = {topic for topic, wanted in shown.items() if wanted["Durability Policy"] == "Transient Local"}
    assert latched == {f"/uav_localization/{name}" for name in ("belief", "belief_image", "path")}
    assert shown["/camera/image"]["Reliability Policy"] == "Best Effort"


def test_foxglove_shows_topics_that_exist(graph: dict[str, dict[str, str]]) -> None:
    text = (ROOT / "ros_nodes" / "foxglove" / "kittiwake.json").read_text(encoding="utf-8")
    known = graph["inputs"] | graph["outputs"] | graph["simulated"]
    topics = {topic.partition(".")[0] for topic in re.findall(r'"(/[a-z_/]+(?:\.[a-z_.]+)?)"', text)}
    assert topics - set(known) == set()
    assert {"/uav_localization/belief", "/uav_localization/path", "/uav_localization/state", "/camera/image"} <= topics
    layout = json.loads(text)

    def panels(node: Any) -> set[str]:
        return {node} if isinstance(node, str) else panels(node["first"]) | panels(node["second"])

    assert panels(layout["layout"]) == set(layout["configById"])
