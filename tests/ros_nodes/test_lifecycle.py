"""Life cycle over DDS: transitions and their failures, parameters from YAML, signals, and a new start after a kill."""

# ruff: noqa: E402 (the imports of ROS come after the question whether it is there)
from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import qos_profile_system_default
from ros_peers import NODE, NodeProcess, Peer, publish_sample
from rosgraph_msgs.msg import Clock

from kittiwake_ros import messages
from kittiwake_ros.state_file import load

pytestmark = pytest.mark.slow

StartNode = Callable[..., NodeProcess]
Scene = Any


def set_parameter(peer: Peer, name: str, value: Any) -> Any:
    kinds = {
        str: (ParameterType.PARAMETER_STRING, "string_value"),
        float: (ParameterType.PARAMETER_DOUBLE, "double_value"),
    }
    kind, field = kinds[type(value)]
    found = ParameterValue(type=kind, **{field: value})
    request = SetParameters.Request(parameters=[Parameter(name=name, value=found)])
    return peer.call(SetParameters, f"{NODE}/set_parameters", request).results[0]


def test_every_transition_and_back(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    node = start_node(scene.parameters)
    assert peer.lifecycle() == "unconfigured"
    for round_ in range(2):
        peer.activate()
        assert peer.lifecycle() == "active"
        scene.fly(peer, 0, 2, shift_s=1000.0 * round_)
        assert peer.transition("deactivate")
        peer.until(lambda: peer.diagnostics().get("lifecycle") == "inactive", "diagnostics of an inactive node")
        assert peer.transition("cleanup")
    assert peer.transition("configure")
    assert peer.transition("inactive_shutdown")
    assert peer.lifecycle() == "finalized"
    assert node.end() == 0


def test_a_failed_configure_says_why_and_can_be_asked_again(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node({})
    wrong: list[tuple[dict[str, Any], str]] = [
        ({}, "parameter map is empty"),
        ({"map": str(scene.camera)}, "is no map index"),
        ({"map": str(scene.folder / "none.kwmap")}, "No such file"),
        ({"map": str(scene.map), "camera": str(scene.map)}, "area.kwmap"),
        ({"camera": str(scene.camera), "bundle": "nothing-of-that-name"}, "nothing-of-that-name"),
        ({"bundle": "", "mode": "fast"}, "parameter mode is 'fast'"),
        ({"mode": "active", "height_source": "autopilot"}, "autopilot is none"),
    ]
    for values, reason in wrong:
        for name, value in values.items():
            assert set_parameter(peer, name, value).successful
        assert not peer.transition("configure"), reason
        assert peer.lifecycle() == "unconfigured"
        peer.until(lambda r=reason: r in peer.diagnostics().get("message", ""), f"the reason: {reason}")
        assert peer.diagnostics()["level"] == "2"
    assert not set_parameter(peer, "pose_rate_hz", 1000.0).successful, "the range is in the descriptor"
    assert set_parameter(peer, "height_source", "range").successful
    peer.activate()
    peer.until(lambda: peer.diagnostics()["lifecycle"] == "active", "an active node")
    assert "failed" not in peer.diagnostics()["message"]


def test_parameters_are_described(start_node: StartNode, peer: Peer) -> None:
    start_node({})
    request = DescribeParameters.Request(names=["pose_rate_hz", "height_source"])
    rate, height = peer.call(DescribeParameters, f"{NODE}/describe_parameters", request).descriptors
    assert rate.description.endswith("[Hz]")
    assert (rate.floating_point_range[0].from_value, rate.floating_point_range[0].to_value) == (5.0, 50.0)
    assert "above_takeoff" in height.additional_constraints


def test_yaml_autostart_and_sigterm(scene: Scene, start_node: StartNode, peer: Peer, tmp_path: Path) -> None:
    values = {"map": str(scene.map), "camera": str(scene.camera), "autostart": True, "max_radius_m": 300}
    values |= {"update_distance_m": 30}
    values["state_file"] = str(tmp_path / "belief.json")
    file = tmp_path / "node.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": values}}))  # JSON is YAML; 300 stands for 300.0
    node = start_node({}, arguments=["--params-file", str(file)])
    peer.matched()
    assert peer.lifecycle() == "active"
    scene.fly(peer)
    peer.until(lambda: peer.state().get("state") == "converged", "convergence")
    assert node.end(signal.SIGTERM) == 0
    assert "Traceback" not in node.output()
    kept = load(tmp_path / "belief.json")
    assert kept is not None
    assert kept.time_s == pytest.approx(scene.frames[-1].time_s), "the last belief is kept at the end"


@pytest.mark.parametrize("parameters", [{"pose_rate_hz": 1000.0}, {"update_period_s": -1.0}])
def test_a_value_out_of_range_ends_the_start_with_one_line(
    scene: Scene, start_node: StartNode, parameters: dict[str, Any]
) -> None:
    node = start_node(scene.parameters | parameters)
    assert node.process.wait(20) == 2
    assert f"parameter {next(iter(parameters))}" in node.output()
    assert "Traceback" not in node.output()


def test_sigint_in_the_middle_of_an_update(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    node = start_node(scene.parameters | {"autostart": True})
    peer.matched()
    for i in range(3):
        publish_sample(peer, scene.sample(i))
        from ros_peers import image_message

        peer.publishers["/camera/image"].publish(image_message(scene.frames[i].image, scene.frames[i].time_s))
    assert node.end(signal.SIGINT) == 0
    assert "Traceback" not in node.output()


def test_a_new_start_after_sigkill_keeps_the_belief(
    scene: Scene, start_node: StartNode, peer: Peer, tmp_path: Path
) -> None:
    """The stamps are those of now, so that the belief on disk has an age of seconds."""
    parameters = scene.parameters | {"autostart": True, "state_file": tmp_path / "belief.json", "max_speed_m_s": 20.0}
    node = start_node(parameters)
    peer.matched()
    shift_s = time.time() - scene.frames[-1].time_s
    scene.fly(peer, shift_s=shift_s)
    peer.until(lambda: peer.state().get("state") == "converged", "convergence")
    peer.until((tmp_path / "belief.json").exists, "the belief on disk")
    node.end(signal.SIGKILL)

    peer.heard[f"{NODE}/state"].clear()
    start_node(parameters)
    peer.until(lambda: peer.state().get("state") == "searching", "the new node")
    start = peer.state()["start"]
    assert start.startswith("starts from its last belief, "), start
    age_s = float(start.split(", ")[1].split(" ")[0])
    assert 0 < age_s < 20
    peer.matched()
    scene.fly(peer, shift_s=shift_s + 100.0, first=len(scene.frames) - 6, back=True)  # it goes on from where it is
    peer.until(lambda: peer.state().get("state") == "converged", "six images, where it took ten")


def test_simulated_time(scene: Scene, start_node: StartNode, peer: Peer) -> None:
    start_node(scene.parameters | {"autostart": True, "use_sim_time": True})
    clock = peer.node.create_publisher(Clock, "/clock", qos_profile_system_default)
    peer.matched()
    peer.until(clock.get_subscription_count, "a subscriber of /clock")
    peer.until(lambda: len(peer.heard["/diagnostics"]) > 1, "diagnostics while simulated time stands still")
    clock.publish(Clock(clock=messages.stamp_of(scene.frames[0].time_s)))
    heard = peer.heard[f"{NODE}/navsat"]
    in_time = lambda: any(messages.seconds(m.header.stamp) == scene.frames[0].time_s for m in heard)  # noqa: E731
    peer.until(in_time, "a message in simulated time")
    scene.fly(peer, 0, 2)
    assert "ROS time" not in peer.diagnostics()["message"]
