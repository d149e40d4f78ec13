"""A thread beside the executor: what computes for long runs there, so that every message is taken meanwhile."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from rclpy.node import Node

Then = Callable[[Future[Any]], None]


class Worker:
    """Runs tasks one after another on one thread; what is to be done with a result is done on the executor's.

    Args:
        node: whose executor that is.
        name: of the thread.
    """

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._threads = ThreadPoolExecutor(1, name)
        self._running: deque[tuple[Future[Any], Then]] = deque()
        self._done = node.create_guard_condition(self._take)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._running

    def submit(self, task: Callable[[], Any], then: Then) -> None:
        """Run a task; `then` gets its future, which is done."""
        future = self._threads.submit(task)
        self._running.append((future, then))
        future.add_done_callback(lambda _: self._done.trigger())

    def settle(self) -> None:
        """Wait for what runs, drop what waits, and let go of all results."""
        while self._running:
            future, _ = self._running.popleft()
            if not future.cancel():
                future.exception()

    def close(self) -> None:
        """End the thread."""
        self.settle()
        self._threads.shutdown(wait=True)
        self._node.destroy_guard_condition(self._done)

    def _take(self) -> None:
        while self._running and self._running[0][0].done():
            future, then = self._running.popleft()
            then(future)
