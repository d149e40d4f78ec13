"""Configs: frozen dataclasses, filled from TOML and from ``key=value``.

[sampler]
pairs = 2048                     # and on the command line: --set sampler.pairs=2048
"""

from __future__ import annotations

import dataclasses
import json
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kittiwake_training.errors import TrainingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")


def load_config(kind: type[T], path: Path | None = None, settings: Sequence[str] = ()) -> T:
    """A config of the given dataclass: its defaults, then the file's values, then the settings.

    Args:
        kind: a frozen dataclass whose fields have defaults and are numbers, text, booleans, tuples or such
            dataclasses.
        path: a TOML file.
        settings: ``key=value`` each, the key dotted, the value as in TOML; bare words are text.

    Raises:
        TrainingError: the file can't be read, or a key is unknown or has a value of another type.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise TrainingError(f"{path}: {error}") from error
    for setting in settings:
        _insert(values, setting)
    return from_mapping(kind, values)


def with_settings(config: T, settings: Sequence[str]) -> T:
    """A config with some values changed: ``key=value`` each, as for :func:`load_config`.

    Raises:
        TrainingError: a key is unknown or has a value of another type.
    """
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    for setting in settings:
        _insert(values, setting)
    return from_mapping(type(config), values)


def from_mapping(kind: type[T], values: Mapping[str, Any]) -> T:
    """A dataclass from nested mappings; what is not given keeps its default.

    Raises:
        TrainingError: a key is unknown or has a value of another type; it is named in full.
    """
    return _filled(kind(), values, "")


def changed_settings(config: Any, default: Any = None, prefix: str = "") -> list[str]:
    """What ``--set`` must say to get this config from the defaults: ``key=value`` each, in the fields' order."""
    default = default or type(config)()
    settings: list[str] = []
    for field in dataclasses.fields(config):
        value, given = getattr(config, field.name), getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            settings += changed_settings(value, given, f"{prefix}{field.name}.")
        elif value != given:
            settings.append(f"{prefix}{field.name}={json.dumps(value)}")
    return settings


def _filled(default: T, values: Mapping[str, Any], where: str) -> T:
    """The default, which need not be its class's own, with the values given."""
    hints = typing.get_type_hints(type(default))
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise TrainingError(f"config: no field {where}{unknown[0]}", f"fields there are {', '.join(hints)}")
    converted = {key: _convert(hints[key], getattr(default, key), value, where + key) for key, value in values.items()}
    return dataclasses.replace(default, **converted)  # type: ignore[type-var]


def _convert(hint: Any, default: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise TrainingError(f"config: {where} is {value!r}, expected a table")
        return _filled(default, value, f"{where}.")
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        length = None if arguments[-1] is Ellipsis else len(arguments)
        if not isinstance(value, (list, tuple)) or length not in (None, len(value)):
            raise TrainingError(f"config: {where} is {value!r}, expected {length or 'several'} values in brackets")
        return tuple(_convert(arguments[0], None, item, where) for item in value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise TrainingError(f"config: {where} is {value!r}, expected {hint.__name__}")
    return value


def _insert(values: dict[str, Any], setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise TrainingError(f"--set {setting}: expected key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *tables, last = key.strip().split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise TrainingError(f"--set {setting}: {table} is a value, not a table")
    values[last] = value
