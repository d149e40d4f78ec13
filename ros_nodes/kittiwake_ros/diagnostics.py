"""What a node says about itself: counters, problems with their reason, and a level that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warn", "error", "stale"]
LEVELS: tuple[Level, ...] = ("ok", "warn", "error", "stale")
"""In the order of `diagnostic_msgs/DiagnosticStatus`: their places are its numbers."""

RECENT_S = 10.0
"""A refused message counts as a present problem for so long."""


@dataclass
class Problem:
    """Why messages of one source were refused: the last reason, how many, and when the last one came."""

    reason: str
    count: int
    last_s: float


@dataclass
class Health:
    """Counters and problems of one node.

    Attributes:
        counts: named counters, such as ``frames_received``.
        refused: for each source of messages (a topic), what was last wrong with it.
        lasting: problems that hold until they are taken back: a level and a text for each name.
    """

    counts: Counter[str] = field(default_factory=Counter)
    refused: dict[str, Problem] = field(default_factory=dict)
    lasting: dict[str, tuple[Level, str]] = field(default_factory=dict)

    def refuse(self, source: str, reason: str, now_s: float) -> None:
        """A message of a source can't be used."""
        known = self.refused.get(source)
        self.refused[source] = Problem(reason, 1 + (known.count if known else 0), now_s)

    def set(self, name: str, level: Level, text: str) -> None:
        """A lasting problem; an empty text takes it back."""
        if text:
            self.lasting[name] = (level, text)
        else:
            self.lasting.pop(name, None)

    def summary(self, now_s: float) -> tuple[Level, str]:
        """The worst level and all texts that belong to it or are recent."""
        found = list(self.lasting.values())
        found += [
            ("warn", f"{source}: {problem.reason}")
            for source, problem in self.refused.items()
            if 0 <= now_s - problem.last_s < RECENT_S
        ]
        if not found:
            return "ok", ""
        level = max((level for level, _ in found), key=LEVELS.index)
        ordered = sorted(found, key=lambda pair: -LEVELS.index(pair[0]))
        return level, "; ".join(text for _, text in ordered)

    def values(self) -> dict[str, str]:
        """Counters and refusals as key and value."""
        shown = {name: str(count) for name, count in sorted(self.counts.items())}
        return shown | {
            f"refused {source}": f"{problem.count}, last: {problem.reason}"
            for source, problem in sorted(self.refused.items())
        }


def status(name: str, level: Level, message: str, values: Mapping[str, Any], hardware_id: str = "") -> Any:
    """A `diagnostic_msgs/DiagnosticStatus`; numbers are written with as many digits as they deserve."""
    from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

    return DiagnosticStatus(
        level=bytes([LEVELS.index(level)]),
        name=name,
        message=message,
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=text_of(value)) for key, value in values.items()],
    )


def text_of(value: Any) -> str:
    """A value as a diagnostic shows it."""
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else str(value)
    return str(value)
