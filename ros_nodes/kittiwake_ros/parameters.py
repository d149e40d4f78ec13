"""Parameters declared from a frozen dataclass: type, description, unit and range stand in one place.

    @dataclass(frozen=True)
    class Settings:
        rate_hz: float = parameter(10.0, "rate of the pose", unit="Hz", least=1.0, most=50.0)

    settings = declare(node, Settings)

`docs/ros.md` is generated from the same declarations (:func:`table`), so it can't say anything else.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar, get_type_hints

from kittiwake_runtime.errors import KittiwakeError

T = TypeVar("T")


class ParameterError(KittiwakeError):
    """A parameter has a value that it can't have."""


@dataclasses.dataclass(frozen=True)
class About:
    """What a parameter is: its description, unit, range and choices."""

    text: str
    unit: str = ""
    least: float | None = None
    most: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def limits(self) -> str:
        """The range or the choices in words; empty when there is none."""
        if self.choices:
            return ", ".join(self.choices)
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        return f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}" if self.most is not None else ""


def parameter(
    default: Any, text: str, *, unit: str = "", least: float | None = None, most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:  # fmt: skip
    """A field of a parameter dataclass: bool, int, float, str, or a tuple of floats of fixed length."""
    return dataclasses.field(default=default, metadata={"about": About(text, unit, least, most, choices)})


def declare(node: Any, kind: type[T]) -> None:
    """Declare every field of a dataclass on a node, read-only ones of no kind: they are read at `configure`."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        about: About = field.metadata["about"]
        descriptor = ParameterDescriptor(
            description=about.text + (f" [{about.unit}]" if about.unit else ""),
            additional_constraints=about.limits,
            dynamic_typing=True,  # a YAML file may say 40 where 40.0 is meant; `read` checks the rest
        )
        if about.least is not None and about.most is not None:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(about.least), to_value=float(about.most), step=0.0)
            ]
            descriptor.integer_range = [
                IntegerRange(from_value=math.ceil(about.least), to_value=math.floor(about.most), step=0)
            ]
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        try:
            node.declare_parameter(field.name, default, descriptor)
        except Exception as error:  # rclpy has a class of its own for each of them
            raise ParameterError(f"parameter {field.name}: {error}", f"expected {_expected(field, kind)}") from error


def read(node: Any, kind: type[T]) -> T:
    """The values that the parameters have now.

    Raises:
        ParameterError: naming the parameter, its value and what was expected.
    """
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: checked(kind, field.name, node.get_parameter(field.name).value) for field in fields})


def checked(kind: type[Any], name: str, value: Any) -> Any:
    """A value brought to its field's type.

    Raises:
        ParameterError: it can't be, or is out of range.
    """
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    about: About = field.metadata["about"]
    try:
        found = _cast(field.default, value)
    except (TypeError, ValueError):
        raise ParameterError(f"parameter {name} is {value!r}", f"expected {_expected(field, kind)}") from None
    numbers = found if isinstance(found, tuple) else (found,) if isinstance(found, (int, float)) else ()
    low, high = about.least, about.most
    outside = any(
        not math.isfinite(x) or (low is not None and x < low) or (high is not None and x > high) for x in numbers
    )
    if outside or (about.choices and found not in about.choices):
        raise ParameterError(f"parameter {name} is {value!r}", f"expected {_expected(field, kind)}")
    return found


def _cast(default: Any, value: Any) -> Any:
    """The value in its default's type; numbers stand for each other only where nothing is lost."""
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(default, bool) and isinstance(value, bool)):
            raise TypeError
        return value
    if isinstance(default, tuple):
        values = tuple(float(item) for item in value)
        if len(values) != len(default):
            raise ValueError
        return values
    if isinstance(default, str):
        if not isinstance(value, str):
            raise TypeError
        return value
    if not isinstance(value, (int, float)) or (isinstance(default, int) and value != int(value)):
        raise TypeError
    return type(default)(value)


def _expected(field: Any, kind: type[Any]) -> str:
    about: About = field.metadata["about"]
    what = {"float": "a number", "int": "a whole number", "str": "text", "bool": "true or false"}
    name = str(get_type_hints(kind)[field.name].__name__)
    text = what.get(name) or f"{len(field.default)} numbers"
    if about.limits:
        text += f" ({about.limits})"
    return text + (f" in {about.unit}" if about.unit else "") + f": {about.text}"


def table(kind: type[Any]) -> str:
    """The parameters as a Markdown table: name, default, range, what it is."""
    lines = ["| parameter | default | range | what |", "| --- | --- | --- | --- |"]
    for field in dataclasses.fields(kind):
        about: About = field.metadata["about"]
        default = field.default
        shown = str(default)
        if isinstance(default, bool):  # before numbers: 0.0 equals False
            shown = str(default).lower()
        elif isinstance(default, tuple):
            shown = ", ".join(f"{value:g}" for value in default)
        elif isinstance(default, str):
            shown = f"`{default}`" if default else "empty"
        unit = f" {about.unit}" if about.unit else ""
        lines.append(f"| `{field.name}` | {shown}{unit} | {about.limits} | {about.text} |")
    return "\n".join(lines) + "\n"
