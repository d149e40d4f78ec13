"""Two results side by side, when they can be compared at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kittiwake_runtime.errors import EngineError

_HOT_C = 5.0
"""Sensors that began this much warmer make a different run: a chip's clocks follow its temperature."""


@dataclass(frozen=True)
class Difference:
    """One stage of one contender in both results.

    Args:
        label: the contender's.
        stage: "infer", say.
        first_ms: median in the first result.
        second_ms: median in the second.
        ratio: the second's over the first's.
        interval: of the ratio, from the ends of both medians' intervals: at least 90 %.
    """

    label: str
    stage: str
    first_ms: float
    second_ms: float
    ratio: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """Of the second: "slower", "faster", or "no difference" when the interval holds 1."""
        if self.interval[0] > 1:
            return "slower"
        return "faster" if self.interval[1] < 1 else "no difference"


def compare(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """The contenders of both results that have the same label.

    Raises:
        EngineError: the results were measured under other conditions (:func:`unlike`), or share no contender.
    """
    if reasons := unlike(first, second):
        raise EngineError(
            f"the runs can't be compared: {'; '.join(reasons)}",
            "measure again under the same conditions, or both in one run: kittiwake bench A --vs B",
        )
    known = {contender["label"]: contender for contender in first["contenders"]}
    shared = [(known[c["label"]], c) for c in second["contenders"] if c["label"] in known]
    if not shared:
        raise EngineError(f"the runs share no contender: {', '.join(known)} in the first", "name the same bundles")
    return [_difference(a, b, stage) for a, b in shared for stage in a["stages"] if stage in b["stages"]]


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """Why two results can't be compared, each reason with both values; empty when they can.

    The machine, its governor, clock limits and power mode must be the same, and of every shared contender the work,
    the threads and what it ran on. Versions and the bundles themselves may differ: that is what one compares.
    """
    reasons = [
        f"{key} is {_shown(value)} and {_shown(second['machine'].get(key))}"
        for key, value in first["machine"].items()
        if value != second["machine"].get(key)
    ]
    others = {contender["label"]: contender for contender in second["contenders"]}
    for contender in first["contenders"]:
        other = others.get(contender["label"], contender)
        for key in ("workload", "threads", "backend", "device", "precision"):
            if contender[key] != other[key]:
                reasons.append(f"{key} of {contender['label']} is {_shown(contender[key])} and {_shown(other[key])}")
    before, after = (result["state_before"]["temperatures_c"] for result in (first, second))
    for zone in before.keys() & after.keys():
        if abs(before[zone] - after[zone]) > _HOT_C:
            reasons.append(f"they began at {before[zone]:g} and {after[zone]:g} °C of {zone}")
    return reasons


def changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What else differs, and may explain a difference: versions and networks."""
    found = [
        f"{name} {first['versions'].get(name, 'absent')} and {second['versions'].get(name, 'absent')}"
        for name in sorted({*first["versions"], *second["versions"]})
        if first["versions"].get(name) != second["versions"].get(name)
    ]
    others = {contender["label"]: contender for contender in second["contenders"]}
    for contender in first["contenders"]:
        other = others.get(contender["label"], contender)
        if contender["file_sha256"] != other["file_sha256"]:
            found.append(f"{contender['label']}: another {contender['file']}")
    return found


def _difference(first: Mapping[str, Any], second: Mapping[str, Any], stage: str) -> Difference:
    a, b = first["stages"][stage], second["stages"][stage]
    interval = (b["interval"][0] / a["interval"][1], b["interval"][1] / a["interval"][0])
    return Difference(first["label"], stage, a["median"], b["median"], b["median"] / a["median"], interval)


def _shown(value: object) -> str:
    return repr(value) if value not in ("", None) else "not told"
