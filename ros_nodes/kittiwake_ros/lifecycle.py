"""What every node is: a lifecycle node whose errors become diagnostics, and that ends cleanly.

Models load in `configure`, subscriptions open in `activate`. An error that a person can mend (`KittiwakeError`) makes
the transition fail: the node stays where it was, says what is wrong on ``/diagnostics`` and in its log, and can be
asked again. Diagnostics flow in every state, also when nothing else does.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.lifecycle import State as LifecycleState

from kittiwake_runtime.errors import KittiwakeError

from . import qos
from .diagnostics import Health, Level, status

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

DIAGNOSTICS_PERIOD_S = 1.0
SWITCH_S = 5e-4
"""After so long a thread that computes hands on Python's lock, in place of 5 ms: who has a message to take, or a fix to
send, waits for it."""


class ManagedNode(LifecycleNode):
    """A lifecycle node. Subclasses fill `load`, `start`, `stop`, `unload` and `values`.

    Attributes:
        health: what `/diagnostics` says.
        stage: ``unconfigured``, ``inactive`` or ``active``.
    """

    def __init__(self, name: str, **options: Any) -> None:
        super().__init__(name, **options)
        self.health = Health()
        self.stage = "unconfigured"
        self.steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._subscriptions_open: list[Any] = []
        self._timers_open: list[Any] = []
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.output())
        # Not on the ROS clock: where simulated time stands still, diagnostics go on.
        self.create_timer(DIAGNOSTICS_PERIOD_S, self.publish_diagnostics, clock=self.steady)

    def load(self) -> None:
        """Read the parameters and load the models; may raise `KittiwakeError`."""

    def start(self) -> None:
        """Open subscriptions and timers; may raise `KittiwakeError`."""

    def stop(self) -> None:
        """The opposite of `start`; subscriptions and timers made by `listen` and `every` are closed already."""

    def unload(self) -> None:
        """The opposite of `load`."""

    def values(self) -> dict[str, Any]:
        """Further keys and values for the diagnostics."""
        return {}

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load, or say why not."""
        return self._attempt("configure", self.load, self.unload, "inactive")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start, or say why not."""
        return self._attempt("activate", self.start, self._close, "active")

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop."""
        return self._attempt("deactivate", self._close, None, "inactive")

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of the models."""
        return self._attempt("cleanup", self.unload, None, "unconfigured")

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and let go, from any state."""
        return self._attempt("shutdown", self.close, None, "finalized")

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an error of the program: back to the start, if letting go works."""
        return self._attempt("recover", self.close, None, "unconfigured")

    def start_alone(self) -> None:
        """Configure and activate; what fails is told of, and can be asked for again."""
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def close(self) -> None:
        """Stop and unload whatever is running; safe to call again."""
        if self.stage == "active":
            self._close()
        if self.stage in ("active", "inactive"):
            self.unload()
        self.stage = "unconfigured"

    def listen(self, kind: Any, topic: str, callback: Callable[[Any], None], profile: Any) -> Any:
        """Subscribe until `stop`; a publisher whose QoS can't match becomes a diagnostic."""

        def incompatible(event: Any) -> None:
            self.health.set(f"qos {topic}", "warn", qos.mismatch(topic, event, "publisher"))

        events = SubscriptionEventCallbacks(incompatible_qos=incompatible)
        subscription = self.create_subscription(kind, topic, callback, profile, event_callbacks=events)
        self._subscriptions_open.append(subscription)
        return subscription

    def offer(self, kind: Any, topic: str, profile: Any) -> Any:
        """A publisher; a subscriber whose QoS can't match becomes a diagnostic."""

        def incompatible(event: Any) -> None:
            self.health.set(f"qos {topic}", "warn", qos.mismatch(topic, event, "subscriber"))

        events = PublisherEventCallbacks(incompatible_qos=incompatible)
        return self.create_publisher(kind, topic, profile, event_callbacks=events)

    def every(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call something in steady time until `stop`."""
        self._timers_open.append(self.create_timer(period_s, callback, clock=self.steady))

    def now_s(self) -> float:
        """The clock that stamps are in: ROS time, seconds."""
        return 1e-9 * self.get_clock().now().nanoseconds

    def publish_diagnostics(self) -> None:
        """State, problems and counters on ``/diagnostics``."""
        message = DiagnosticArray()
        message.header.stamp = self.get_clock().now().to_msg()
        level, text = self.health.summary(time.monotonic())
        message.status = [self.status(level, text or self.stage)]
        self._diagnostics.publish(message)

    def status(self, level: Level, text: str, more: dict[str, Any] | None = None) -> Any:
        """A `DiagnosticStatus` of this node with all its values."""
        values = {"lifecycle": self.stage, **(more or {}), **self.values(), **self.health.values()}
        return status(self.get_fully_qualified_name().lstrip("/"), level, text, values)

    def refuse(self, source: str, reason: str) -> None:
        """Count a message that can't be used, and log the reason now and then."""
        self.health.refuse(source, reason, time.monotonic())
        self.get_logger().warning(f"{source}: {reason}", throttle_duration_sec=5.0)

    def _attempt(
        self, name: str, do: Callable[[], None], undo: Callable[[], None] | None, stage: str
    ) -> TransitionCallbackReturn:
        """Run a transition: a `KittiwakeError` is a failure, any other exception an error of the program."""
        try:
            do()
        except Exception as error:
            mendable = isinstance(error, KittiwakeError)
            text = f"{error.message} ({error.hint})" if mendable and error.hint else f"{error}"
            if not mendable:
                text = f"{type(error).__name__}: {text}"
                self.get_logger().error(traceback.format_exc())
            self.health.set("transition", "error", f"{name} failed: {text}")
            self.get_logger().error(f"{name} failed: {text}")
            if undo is not None:
                undo()
            self.publish_diagnostics()
            return TransitionCallbackReturn.FAILURE if mendable else TransitionCallbackReturn.ERROR
        self.health.set("transition", "ok", "")
        self.stage = stage
        self.publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS

    def _close(self) -> None:
        for subscription in self._subscriptions_open:
            self.destroy_subscription(subscription)
        for timer in self._timers_open:
            self.destroy_timer(timer)
        self._subscriptions_open.clear()
        self._timers_open.clear()
        self.stop()


def run(make: Callable[[], ManagedNode], arguments: Sequence[str] | None = None) -> int:
    """Spin a node until it is interrupted (SIGINT) or terminated (SIGTERM); 0 then, 2 for a mistake of the user.

    Args:
        make: makes the node.
        arguments: of the command line, ``--ros-args`` among them.
    """
    rclpy.init(args=arguments)
    sys.setswitchinterval(SWITCH_S)
    node, executor = None, SingleThreadedExecutor()
    try:
        node = make()
        executor.add_node(node)
        if node.has_parameter("autostart") and node.get_parameter("autostart").value:
            node.start_alone()
        executor.spin()
    except KittiwakeError as error:
        print(f"{error.message}" + (f"\nhint: {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:  # a signal closes rclpy's context beside us: what a callback stumbles over then is no error
        if not _is_closing():
            raise
    finally:
        executor.shutdown()
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


def _is_closing(patience_s: float = 0.5) -> bool:
    """Whether a signal closes rclpy's context: its thread may need a moment for that."""
    deadline_s = time.monotonic() + patience_s
    while rclpy.ok() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return not rclpy.ok()
