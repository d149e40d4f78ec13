"""The gimbal out of tf2, whose place a stand-in takes: a buffer of one transform, with the methods that are used."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: pip install ros-rclpy")

from geometry_msgs.msg import TransformStamped

from kittiwake_ros.gimbal_tf import GimbalTransforms
from kittiwake_ros.messages import stamp_of
from kittiwake_ros.parameters import ParameterError
from kittiwake_ros.settings import Settings
from kittiwake_runtime.errors import KittiwakeError

NODE: Any = object()


class Missing(Exception):
    """tf2's own error."""


@pytest.fixture
def tf2(monkeypatch: pytest.MonkeyPatch) -> Any:
    tf2 = ModuleType("tf2_ros")
    state = SimpleNamespace(transform=None, asked=[], listening=0)

    class Buffer:
        def lookup_transform(self, target: str, source: str, time: Any) -> TransformStamped:
            state.asked.append((target, source, time.nanoseconds))
            if state.transform is None:
                raise Missing(f'"{source}" passed to lookupTransform argument source_frame does not exist')
            return state.transform

    class TransformListener:
        def __init__(self, buffer: Buffer, node: Any) -> None:
            assert node is NODE
            state.listening += 1

        def unregister(self) -> None:
            state.listening -= 1

    vars(tf2).update(Buffer=Buffer, TransformListener=TransformListener, TransformException=Missing)
    monkeypatch.setitem(sys.modules, "tf2_ros", tf2)
    return state


def transform(time_s: float, w: float, z: float) -> TransformStamped:
    message = TransformStamped()
    message.header.stamp = stamp_of(time_s)
    message.transform.rotation.w, message.transform.rotation.z = w, z
    return message


def test_each_transform_is_given_once_and_a_static_one_holds_now(tf2: Any) -> None:
    gimbal = GimbalTransforms(NODE, "base_link", "gimbal")
    assert gimbal.newer(5.0) is None
    assert "no transform from 'gimbal' to 'base_link': " in gimbal.problem
    tf2.transform = transform(4.5, 0.8, 0.6)
    assert gimbal.newer(5.0) == (pytest.approx(4.5), (0.8, 0.0, 0.0, 0.6))
    assert gimbal.problem == ""
    assert gimbal.newer(5.02) is None, "the same again"
    tf2.transform = transform(0.0, 1.0, 0.0)
    assert gimbal.newer(6.0) == (6.0, (1.0, 0.0, 0.0, 0.0))
    assert set(tf2.asked) == {("base_link", "gimbal", 0)}, "the newest, into the body"
    assert tf2.listening == 1
    gimbal.close()
    assert tf2.listening == 0


def test_without_tf2_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with pytest.raises(KittiwakeError, match="tf2_ros is not installed"):
        GimbalTransforms(NODE, "base_link", "gimbal")


def test_the_frame_must_be_named() -> None:
    with pytest.raises(ParameterError, match="gimbal_tf_frame is empty"):
        Settings(map="area.kwmap", gimbal_source="tf").check()
    settings = Settings(map="area.kwmap", gimbal_source="tf", gimbal_tf_frame="gimbal", gimbal_frame="earth")
    settings.check()
    assert settings.gimbal_turns_into == "body"
