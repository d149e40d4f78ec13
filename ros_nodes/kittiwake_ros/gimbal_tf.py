"""The gimbal's orientation out of tf2: the newest transform from the frame that it turns to the vehicle's body.

tf2 itself is asked, so that chains of frames, static parts and namespaces work as everywhere in ROS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rclpy.time import Time

from kittiwake_runtime.errors import KittiwakeError

from .geometry import Quaternion
from .messages import quaternion_of, seconds

if TYPE_CHECKING:
    from .lifecycle import ManagedNode


class GimbalTransforms:
    """Listens to tf2 for one pair of frames.

    Args:
        node: whose subscriptions they are.
        body: frame_id of the vehicle's body.
        gimbal: frame_id of what the gimbal turns: FLU, x ahead where the gimbal doesn't turn it.

    Raises:
        KittiwakeError: tf2_ros is not installed.
    """

    def __init__(self, node: ManagedNode, body: str, gimbal: str) -> None:
        try:
            from tf2_ros import Buffer, TransformException, TransformListener
        except ImportError as error:
            raise KittiwakeError(
                "gimbal_source is tf, and tf2_ros is not installed",
                "install ros-DISTRO-tf2-ros-py, or set gimbal_source to topic",
            ) from error
        self._buffer: Any = Buffer()
        self._listener: Any = TransformListener(self._buffer, node)
        self._missing: Any = TransformException
        self._body, self._gimbal = body, gimbal
        self._stamp_s = 0.0
        self.problem = f"no transform from {gimbal!r} to {body!r} yet"

    def newer(self, now_s: float) -> tuple[float, Quaternion] | None:
        """Time and ``(w, x, y, z)`` from the gimbal's FLU to the body's, once each; a static one holds now.

        What is wrong stands in ``problem`` afterwards.
        """
        try:
            found = self._buffer.lookup_transform(self._body, self._gimbal, Time())
        except self._missing as error:
            self.problem = f"no transform from {self._gimbal!r} to {self._body!r}: {error}"
            return None
        self.problem = ""
        stamp_s = seconds(found.header.stamp) or now_s
        if stamp_s <= self._stamp_s:
            return None
        self._stamp_s = stamp_s
        return stamp_s, quaternion_of(found.transform.rotation)

    def close(self) -> None:
        """Stop listening."""
        self._listener.unregister()
