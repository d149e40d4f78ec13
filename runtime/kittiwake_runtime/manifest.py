"""What a bundle's `manifest.json` says, as values that have been checked.

Version 1, by example:

    {
      "format_version": 1,
      "name": "localization-descriptor",
      "task": "localization.descriptor",
      "licence": "Apache-2.0",
      "description": "Describes a piece of ground so that seasons and headings can be compared.",
      "inputs": [{"name": "view", "dtype": "float32", "shape": ["N", 2, "H", "W"],
                  "units": "1", "meaning": "gray times mask; mask"}],
      "outputs": [{"name": "descriptor", "dtype": "float32", "shape": ["N", 48, "h", "w"],
                   "units": "1", "meaning": "unit vectors over axis 1"}],
      "dims": {"N": {"min": 1, "typical": 36}, "H": {"min": 33, "typical": 33, "max": 2048}, …},
      "preprocessing": {…}, "calibration": {…},
      "variants": {"fp32": {"file": "model.onnx", "parity": {"descriptor": 3e-7}}},
      "tolerance": 1e-4,
      "training": {"data": [{"name": "…", "sha256": "…"}], "config": {…}, "commit": "…", "seed": 0},
      "metrics": [{"name": "recall@1", "value": 93.1, "unit": "%", "split": "test", "n": 10000}],
      "files": {"model.onnx": "<sha256>", "golden.npz": "<sha256>", "card.md": "<sha256>"}
    }
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from kittiwake_runtime.fields import Fields

FORMAT_VERSION = 1
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64",
          "uint8", "uint16", "uint32", "uint64", "bool")  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    Args:
        name: its name in the graph.
        dtype: as numpy writes it.
        shape: sizes; a dynamic one is a name, and the same name is the same size in every tensor.
        units: of its values; "1" when they have none.
        meaning: what its values and axes are, for people.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    units: str
    meaning: str


@dataclass(frozen=True)
class DimRange:
    """The sizes that a dynamic dimension of the inputs may take; ``max`` None is without bound."""

    min: int
    typical: int
    max: int | None

    def __contains__(self, size: int) -> bool:
        return self.min <= size and (self.max is None or size <= self.max)

    def __str__(self) -> str:
        return f"{self.min} … {'∞' if self.max is None else self.max}"


@dataclass(frozen=True)
class Variant:
    """The network in one precision: its file, and per output the largest absolute difference from the
    reference over the golden inputs, in the output's unit (empty when it wasn't measured)."""

    precision: str
    file: str
    parity: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """Where the weights come from: data (objects with a name and what else is known of it), the
    configuration, the commit and the seed. A network made by hand names no data."""

    data: tuple[Mapping[str, Any], ...]
    config: Mapping[str, Any]
    commit: str
    seed: int


@dataclass(frozen=True)
class Metric:
    """What was measured on the model, on which split, on how many samples."""

    name: str
    value: float
    unit: str
    split: str
    n: int


@dataclass(frozen=True)
class Manifest:
    """A whole ``manifest.json``; see the head of this file."""

    name: str
    task: str
    licence: str
    description: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: Mapping[str, DimRange]
    preprocessing: Mapping[str, Any]
    calibration: Mapping[str, Any]
    variants: Mapping[str, Variant]
    tolerance: float
    training: Training
    metrics: tuple[Metric, ...]
    files: Mapping[str, str]


def parse_manifest(fields: Fields) -> Manifest:
    """Check a manifest and turn it into values.

    Raises:
        BundleError: another format version, or a field that is missing or wrong; it is named.
    """
    version = fields.integer("format_version")
    if version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        error = fields.error("format_version", str(FORMAT_VERSION), version)
        error.hint = "update kittiwake-runtime" if newer else "export the bundle again"
        raise error
    name = fields.text("name")
    if not NAME_PATTERN.fullmatch(name):
        raise fields.error("name", "lower-case letters, digits, `.`, `_` and `-`", name)

    inputs, outputs = parse_tensors(fields, "inputs"), parse_tensors(fields, "outputs")
    files = _files(fields)
    return Manifest(
        name=name,
        task=fields.text("task"),
        licence=fields.text("licence"),
        description=fields.text("description"),
        inputs=inputs,
        outputs=outputs,
        dims=parse_dims(fields, inputs),
        preprocessing=fields.mapping("preprocessing"),
        calibration=fields.mapping("calibration"),
        variants=_variants(fields, files),
        tolerance=fields.number("tolerance", least=0.0),
        training=parse_training(fields.section("training")),
        metrics=parse_metrics(fields),
        files=files,
    )


def parse_tensors(fields: Fields, key: str) -> tuple[TensorSpec, ...]:
    """The list of inputs or outputs under ``key``; neither may be empty or name a tensor twice."""
    specs = tuple(
        TensorSpec(
            name=entry.text("name"),
            dtype=_one_of(entry, "dtype", DTYPES),
            shape=_shape(entry),
            units=entry.text("units"),
            meaning=entry.text("meaning"),
        )
        for entry in fields.sections(key)
    )
    if not specs or len({spec.name for spec in specs}) < len(specs):
        raise fields.error(key, "at least one tensor, each with its own name", [s.name for s in specs])
    return specs


def parse_dims(fields: Fields, inputs: tuple[TensorSpec, ...]) -> dict[str, DimRange]:
    """The ranges under ``dims``, one for every dynamic dimension of the inputs."""
    dims = {}
    for name, entry in fields.section_map("dims").items():
        least = entry.integer("min", least=1)
        typical = entry.integer("typical", least=least)
        most = entry.integer("max", least=typical) if entry.value.get("max") is not None else None
        dims[name] = DimRange(least, typical, most)
    named = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
    if named != set(dims):
        raise fields.error("dims", f"a range for each of {sorted(named)}", sorted(dims))
    return dims


def parse_training(fields: Fields) -> Training:
    """The object under ``training``."""
    data = fields.sections("data")
    for entry in data:
        entry.text("name")
    return Training(
        data=tuple(entry.value for entry in data),
        config=fields.mapping("config"),
        commit=fields.text("commit", empty=True),
        seed=fields.integer("seed"),
    )


def parse_metrics(fields: Fields) -> tuple[Metric, ...]:
    """The list under ``metrics``."""
    return tuple(
        Metric(
            name=entry.text("name"),
            value=entry.number("value"),
            unit=entry.text("unit"),
            split=entry.text("split"),
            n=entry.integer("n", least=1),
        )
        for entry in fields.sections("metrics")
    )


def _shape(fields: Fields) -> tuple[int | str, ...]:
    shape = fields.items("shape")
    for size in shape:
        fixed = type(size) is int and size > 0
        if not fixed and not (isinstance(size, str) and size.isidentifier()):
            raise fields.error("shape", "positive sizes and names of dynamic dimensions", shape)
    return tuple(shape)


def _variants(fields: Fields, files: Mapping[str, str]) -> dict[str, Variant]:
    variants = {}
    for precision, entry in fields.section_map("variants").items():
        if precision not in PRECISIONS:
            raise fields.error("variants", f"precisions among {', '.join(PRECISIONS)}", precision)
        file = _one_of(entry, "file", files)
        parity = entry.section("parity")
        measured = {output: parity.number(output, least=0.0) for output in parity.value}
        variants[precision] = Variant(precision, file, measured)
    if not variants:
        raise fields.error("variants", "at least one precision", {})
    return variants


def _files(fields: Fields) -> dict[str, str]:
    files = fields.section("files")
    for name in files.value:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or path.as_posix() != name:
            raise fields.error("files", "paths inside the bundle", name)
        if not re.fullmatch("[0-9a-f]{64}", files.text(name)):
            raise files.error(name, "a sha256 in hexadecimal", files.text(name))
    return dict(files.value)


def _one_of(fields: Fields, key: str, allowed: tuple[str, ...] | Mapping[str, str]) -> str:
    value = fields.text(key)
    if value not in allowed:
        raise fields.error(key, f"one of {', '.join(allowed)}", value)
    return value
