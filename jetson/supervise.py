"""The main process of kittiwake-localization.service: a launch, alive for as long as its node says that it is.

    python3 supervise.py NODE -- ros2 launch kittiwake_ros uav_localization.launch.py map:=… camera:=…

`ros2 launch` knows nothing of systemd, and a node that hangs is still a running process. So this listens to
`/diagnostics`, where a Kittiwake node speaks every second from its own executor, whatever state it is in: the first
status whose name is NODE's tells systemd that the service is ready, and every one after it resets the watchdog
(WatchdogSec in the unit). When the node goes silent systemd restarts the service. Without systemd it does the same and
tells nobody.

Needs ROS 2 (rclpy, diagnostic_msgs) in the environment.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence

LISTEN_S = 0.25
LAUNCH_ENDS_S = 15.0


def notify(state: str) -> None:
    """Tell systemd something, as sd_notify(3) does: one datagram to the socket that $NOTIFY_SOCKET names."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # of Linux's abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), address)


def is_of(node: str, name: str) -> bool:
    """Whether a diagnostic status is a node's, in whatever namespace: `node`, `uav1/node`, `uav1/node: camera`."""
    return name.partition(":")[0].strip("/ ").rpartition("/")[2] == node


class Heartbeat:
    """Turns a node's diagnostics into what systemd wants to hear.

    Args:
        node: the node's name, without a namespace.
        tell: where it goes.
    """

    def __init__(self, node: str, tell: Callable[[str], None] = notify) -> None:
        self._node, self._tell = node, tell
        self.is_ready = False

    def hear(self, statuses: Iterable[tuple[str, str]]) -> None:
        """Take the names and texts of the statuses in one message."""
        own = [text for name, text in statuses if is_of(self._node, name)]
        if own:
            ready = "" if self.is_ready else "READY=1\n"
            self.is_ready = True
            self._tell(f"{ready}WATCHDOG=1\nSTATUS={' '.join(own[0].split())}")


class Stop(Exception):
    """Somebody wants this process to end."""


def supervise(command: Sequence[str], listen: Callable[[], object]) -> int:
    """Run a command, and listen until it ends or this process is told to.

    Args:
        command: what to run; it is asked to end with SIGINT, as a launch expects it.
        listen: hears what there is to hear, and returns soon.

    Returns:
        The command's exit status, 0 when this process was told to end.
    """

    def stop(number: int, frame: object) -> None:
        raise Stop

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    environment = {name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"}
    # A group of its own: Ctrl-C at a terminal reaches this process alone, which passes it on once.
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        while process.poll() is None:
            listen()
        return process.returncode if process.returncode >= 0 else 128 - process.returncode
    except Stop:
        return 0
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # once begun, it is finished
        notify("STOPPING=1")
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command, and whatever it has started."""
    for number, patience_s in ((signal.SIGINT, LAUNCH_ENDS_S), (signal.SIGKILL, LAUNCH_ENDS_S)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and (process.poll() is None or _has_members(process.pid)):
            time.sleep(0.05)


def _has_members(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Listen with rclpy, and supervise."""
    parser = argparse.ArgumentParser(description="Runs a launch, and tells systemd that its node lives.")
    parser.add_argument("node", help="the node whose diagnostics are the sign of life")
    parser.add_argument("command", nargs="+", help="after --: what to run")
    given = parser.parse_args(arguments)

    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import qos_profile_sensor_data
    from rclpy.signals import SignalHandlerOptions

    heartbeat = Heartbeat(given.node)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)  # they are this process's own
    listener = rclpy.create_node(f"{given.node}_supervisor", enable_rosout=False, start_parameter_services=False)
    listener.create_subscription(
        DiagnosticArray,
        "/diagnostics",
        lambda message: heartbeat.hear((status.name, status.message) for status in message.status),
        qos_profile_sensor_data,  # best effort hears reliable publishers too
    )
    executor = SingleThreadedExecutor()
    executor.add_node(listener)
    try:
        return supervise(given.command, lambda: executor.spin_once(timeout_sec=LISTEN_S))
    finally:
        executor.shutdown()
        listener.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
