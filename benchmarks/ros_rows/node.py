"""A node that runs for a row, and the peer that it talks to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from domain_coordinator import domain_id
from ros_peers import NodeProcess, Peer
from runs import CACHE


@contextmanager
def flown(parameters: dict[str, object], *, module: str = "kittiwake_ros.uav_localization") -> Iterator[tuple]:
    """A domain of its own, the node as a process, and a peer: ``(domain, node, peer)``."""
    with domain_id() as domain:
        log = CACHE / "ros-node.log"
        log.unlink(missing_ok=True)
        with NodeProcess(domain, parameters, log, module=module) as node, Peer(domain) as peer:
            yield domain, node, peer
