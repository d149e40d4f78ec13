"""Parameters from a dataclass: what is accepted, what is refused and how, and the table for the page."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from kittiwake_ros.parameters import ParameterError, checked, parameter, table
from kittiwake_ros.settings import Settings


@dataclasses.dataclass(frozen=True)
class Example:
    """Parameters of every type."""

    speed_m_s: float = parameter(3.0, "how fast", unit="m/s", least=0.0, most=10.0)
    count: int = parameter(2, "how many", least=1)
    kind: str = parameter("a", "which", choices=("a", "b"))
    on: bool = parameter(True, "whether")
    place: tuple[float, ...] = parameter((0.0, 1.0), "where")


@pytest.mark.parametrize(
    ("name", "given", "taken"),
    [
        ("speed_m_s", 4, 4.0),
        ("speed_m_s", 4.5, 4.5),
        ("count", 3, 3),
        ("count", 3.0, 3),
        ("kind", "b", "b"),
        ("on", False, False),
        ("place", [1, 2.5], (1.0, 2.5)),
    ],
)
def test_values_take_their_fields_type(name: str, given: Any, taken: Any) -> None:
    found = checked(Example, name, given)
    assert found == taken
    assert type(found) is type(taken)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("speed_m_s", 11.0, "0 to 10"),
        ("speed_m_s", "fast", "a number"),
        ("speed_m_s", float("nan"), "a number"),
        ("speed_m_s", True, "a number"),
        ("count", 0, "≥ 1"),
        ("count", 1.5, "a whole number"),
        ("kind", "c", "a, b"),
        ("kind", 1, "text"),
        ("on", 1, "true or false"),
        ("on", "yes", "true or false"),
        ("place", [1.0], "2 numbers"),
        ("place", None, "2 numbers"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(name: str, given: Any, expected: str) -> None:
    with pytest.raises(ParameterError) as refused:
        checked(Example, name, given)
    assert name in refused.value.message
    assert repr(given) in refused.value.message
    assert expected in refused.value.hint


def test_the_table_has_every_parameter() -> None:
    text = table(Settings)
    rows = [line.split("|")[1].strip() for line in text.splitlines()[2:]]
    assert rows == [f"`{field.name}`" for field in dataclasses.fields(Settings)]
    assert "| `pose_rate_hz` | 10.0 Hz | 5 to 50 |" in text


def test_every_parameter_of_the_node_accepts_its_default_but_the_map() -> None:
    values = {field.name: checked(Settings, field.name, field.default) for field in dataclasses.fields(Settings)}
    with pytest.raises(ParameterError, match="map is empty"):
        Settings(**values).check()
    Settings(**values | {"map": "area.kwmap"}).check()


@pytest.mark.parametrize(
    "sources",
    [
        {"height_source": "autopilot"},
        {"gimbal_source": "autopilot"},
        {"autopilot": "px4", "height_source": "odometry"},
        {"autopilot": "px4", "gimbal_source": "topic"},
    ],
)
def test_sources_that_do_not_go_together(sources: dict[str, Any]) -> None:
    with pytest.raises(ParameterError) as refused:
        Settings(map="area.kwmap", **sources).check()
    assert refused.value.hint
