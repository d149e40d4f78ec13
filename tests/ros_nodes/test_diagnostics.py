"""What a node says about itself."""

from __future__ import annotations

from kittiwake_ros.diagnostics import Health, text_of


def test_the_worst_level_and_all_its_reasons() -> None:
    health = Health()
    assert health.summary(0.0) == ("ok", "")
    health.refuse("camera/image", "step is 17 bytes", 100.0)
    health.refuse("camera/image", "encoding '32FC1' is not supported", 101.0)
    assert health.summary(102.0) == ("warn", "camera/image: encoding '32FC1' is not supported")
    health.set("update", "error", "the last update failed")
    level, text = health.summary(102.0)
    assert level == "error"
    assert text.startswith("the last update failed; camera/image")
    health.set("update", "error", "")
    assert health.summary(120.0) == ("ok", ""), "a refusal is a present problem for ten seconds"
    assert health.values()["refused camera/image"] == "2, last: encoding '32FC1' is not supported"


def test_values_as_text() -> None:
    assert [text_of(value) for value in (1, 0.1, 12.345678901, float("inf"), "a", True)] == [
        "1", "0.1", "12.34568", "inf", "a", "True",
    ]  # fmt: skip
