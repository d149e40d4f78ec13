"""Typed reading of JSON that somebody else wrote: what is wrong is said with the field's name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kittiwake_runtime.errors import BundleError


class Fields:
    """A JSON object whose fields are asked for by name and type.

    Every method raises :class:`BundleError` naming the file, the field (as in ``inputs[0].dtype``), what is
    there and what was expected.

    Args:
        value: the parsed object.
        file: the file it stands in, for messages.
        path: where in the file it stands; empty at the top.
    """

    def __init__(self, value: object, file: Path, path: str = "") -> None:
        self.file = file
        self._path = path
        if not isinstance(value, dict):
            raise self.error("", "an object", value)
        self._value: dict[str, Any] = value

    @classmethod
    def read(cls, file: Path) -> Fields:
        """Parse a JSON file.

        Raises:
            BundleError: it can't be read, or is no JSON object.
        """
        try:
            return cls(json.loads(file.read_bytes()), file)
        except OSError as error:
            raise BundleError(f"{file}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file}: not JSON: {error}") from error

    def text(self, key: str, *, empty: bool = False) -> str:
        """A string, of at least one character unless ``empty``."""
        value = self._get(key)
        if not isinstance(value, str) or not (value or empty):
            raise self.error(key, "text", value)
        return value

    def integer(self, key: str, *, least: int | None = None) -> int:
        """A whole number, which true and 1.0 are not."""
        value = self._get(key)
        if type(value) is not int or (least is not None and value < least):
            raise self.error(key, "a whole number" + ("" if least is None else f" ≥ {least}"), value)
        return value

    def number(self, key: str, *, least: float | None = None) -> float:
        """A finite number (JSON as Python reads it also knows NaN and Infinity)."""
        value = self._get(key)
        finite = type(value) in (int, float) and abs(value) < float("inf")
        if not finite or (least is not None and value < least):
            raise self.error(key, "a finite number" + ("" if least is None else f" ≥ {least}"), value)
        return float(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An object taken as it is."""
        value = self._get(key)
        if not isinstance(value, dict):
            raise self.error(key, "an object", value)
        return value

    def section(self, key: str) -> Fields:
        """An object whose own fields will be asked for."""
        return Fields(self._get(key), self.file, self._name(key))

    def sections(self, key: str) -> list[Fields]:
        """A list of objects."""
        values = self.items(key)
        return [Fields(value, self.file, f"{self._name(key)}[{i}]") for i, value in enumerate(values)]

    def section_map(self, key: str) -> dict[str, Fields]:
        """An object of objects."""
        path = self._name(key)
        return {k: Fields(v, self.file, f"{path}.{k}") for k, v in self.mapping(key).items()}

    def items(self, key: str) -> list[Any]:
        """A list taken as it is."""
        value = self._get(key)
        if not isinstance(value, list):
            raise self.error(key, "a list", value)
        return value

    def __contains__(self, key: str) -> bool:
        return key in self._value

    @property
    def value(self) -> Mapping[str, Any]:
        """The whole object."""
        return self._value

    def error(self, key: str, expected: str, found: object) -> BundleError:
        """What to raise for a field whose value isn't what was expected."""
        shown = repr(found)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return BundleError(f"{self.file}: field `{self._name(key)}` is {shown}; expected {expected}")

    def _get(self, key: str) -> Any:
        if key not in self._value:
            raise BundleError(f"{self.file}: field `{self._name(key)}` is missing")
        return self._value[key]

    def _name(self, key: str) -> str:
        return ".".join(part for part in (self._path, key) if part) or "(the whole file)"
