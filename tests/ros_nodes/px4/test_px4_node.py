"""The node where PX4 is asked for and px4_msgs is not installed: a failed transition that says what to do."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")


@pytest.mark.slow
def test_without_px4_msgs_the_node_says_so_and_stays_inactive(scene: Any, start_node: Any, peer: Any) -> None:
    if importlib.util.find_spec("px4_msgs") is not None:
        pytest.skip("px4_msgs is installed here")
    node = start_node({**scene.parameters, "autopilot": "px4", "height_source": "autopilot"})
    assert peer.transition("configure")
    assert not peer.transition("activate")
    assert peer.lifecycle() == "inactive"
    peer.until(lambda: "px4_msgs can't be imported" in node.output(), "the reason in the log")
    assert "source its workspace" in node.output()
