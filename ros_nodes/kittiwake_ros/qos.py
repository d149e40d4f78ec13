"""Quality of service: what each kind of topic asks for and offers."""

from __future__ import annotations

from typing import Any

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy


def sensor(depth: int = 10, *, reliable: bool = False) -> QoSProfile:
    """Inputs: best effort hears every publisher, reliable ones too."""
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=DurabilityPolicy.VOLATILE
    )


def output(depth: int = 10) -> QoSProfile:
    """Outputs: reliable, for whoever listens now."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.VOLATILE,
    )


def latched(depth: int = 1) -> QoSProfile:
    """Outputs that a late subscriber gets too."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def mismatch(topic: str, event: Any, who: str) -> str:
    """What to tell about an incompatible peer: topic, policy and what to do.

    Args:
        event: of an `incompatible_qos` callback.
        who: the peer, ``publisher`` or ``subscriber``.
    """
    policy = QoSPolicyKind(int(event.last_policy_kind)).name
    count = int(event.total_count)
    return (
        f"{topic}: {count} {who}{'s' if count > 1 else ''} with an incompatible QoS policy ({policy}): "
        "no message can pass; compare with `ros2 topic info --verbose`"
    )
