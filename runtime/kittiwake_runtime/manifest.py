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
      "variants": {"fp32": {"file": "model.onnx", "parity": {"descriptor": 3e-7}},
                   "int8": {"file": "model.int8.onnx", "parity": {"descriptor": 0.02},
                            "float_nodes": ["conv2d_2"], "calibration": {"data": [{"name": "…"}], "samples": 512},
                            "accuracy": {"name": "recall", "unit": "%", "split": "validation", "n": 10000,
                                         "reference": 31.2, "value": 31.1, "loss": 0.1, "interval": [0.0, 0.2],
                                         "allowed": 0.5},
                            "tensorrt": {"file": "model.int8.tensorrt.onnx", …}}},
      "tolerance": 1e-4,
      "provider_options": {"cuda": {"fuse_conv_bias": true}},
      "training": {"data": [{"name": "…", "sha256": "…"}], "config": {…}, "commit": "…", "seed": 0},
      "metrics": [{"name": "recall@1", "value": 93.1, "unit": "%", "split": "test", "n": 10000}],
      "files": {"model.onnx": "<sha256>", "golden.npz": "<sha256>", "card.md": "<sha256>"}
    }
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from kittiwake_runtime.fields import Fields

FORMAT_VERSION = 1
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]*")
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64",
          "uint8", "uint16", "uint32", "uint64", "bool")  # fmt: skip
PRECISIONS = ("fp32", "fp16", "int8", "fp8")


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
class Accuracy:
    """What a precision costs the task, measured in pairs: every sample with it and with the reference.

    Args:
        name: of the metric; more is better.
        unit: of all values here.
        split: what it was measured on.
        n: samples.
        reference: the mean of the network in float32.
        value: the mean of this one.
        loss: ``reference - value``.
        interval: of the loss, 95 %.
        allowed: a loss above this is refused at export.
    """

    name: str
    unit: str
    split: str
    n: int
    reference: float
    value: float
    loss: float
    interval: tuple[float, float]
    allowed: float


@dataclass(frozen=True)
class Variant:
    """The network in one precision.

    Args:
        precision: one of ``PRECISIONS``.
        file: its file.
        parity: per output the largest absolute difference from the reference over the golden inputs, in the
            output's unit; empty when it wasn't measured.
        float_nodes: names of the nodes that stay in float32, because the loss would be too large.
        calibration: what the ranges of int8 and fp8 were measured on: ``data``, as in ``training``, and ``samples``.
        accuracy: what it costs the task, where that was measured.
        tensorrt: the same for TensorRT, where that needs another file: its int8 knows no zero points.
    """

    precision: str
    file: str
    parity: Mapping[str, float]
    float_nodes: tuple[str, ...] = ()
    calibration: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    tensorrt: Variant | None = None

    def for_device(self, device: str) -> Variant:
        """What runs there: on "tensorrt" and "tensorrt-ep" the network that was made for TensorRT, if there is one."""
        return self.tensorrt if device.startswith("tensorrt") and self.tensorrt else self

    def allowed_error(self, output: str, tolerance: float) -> float:
        """How far an output may be off its golden value, in its unit: twice what was measured at export, since
        machines round differently, and at least the bundle's tolerance."""
        return max(tolerance, 2 * self.parity.get(output, 0.0))


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
    provider_options: Mapping[str, Mapping[str, Any]]


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
        provider_options=_provider_options(fields),
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
        variants[precision] = _variant(precision, entry, files)
    if not variants:
        raise fields.error("variants", "at least one precision", {})
    return variants


def _provider_options(fields: Fields) -> dict[str, dict[str, Any]]:
    """Options of ONNX Runtime's providers by device; a manifest need not have any. Which ones, the engine checks."""
    if "provider_options" not in fields:
        return {}
    options = {device: dict(entry.value) for device, entry in fields.section_map("provider_options").items()}
    for device, given in options.items():
        for name, value in given.items():
            if not isinstance(value, str | int | float | bool):
                raise fields.error(f"provider_options.{device}.{name}", "text, a number, true or false", value)
    return options


def _variant(precision: str, entry: Fields, files: Mapping[str, str]) -> Variant:
    parity = entry.section("parity")
    return Variant(
        precision=precision,
        file=_one_of(entry, "file", files),
        parity={output: parity.number(output, least=0.0) for output in parity.value},
        float_nodes=tuple(entry.items("float_nodes")) if "float_nodes" in entry else (),
        calibration=entry.mapping("calibration") if "calibration" in entry else {},
        accuracy=_accuracy(entry.section("accuracy")) if "accuracy" in entry else None,
        tensorrt=_variant(precision, entry.section("tensorrt"), files) if "tensorrt" in entry else None,
    )


def _accuracy(fields: Fields) -> Accuracy:
    interval = fields.items("interval")
    if len(interval) != 2 or not all(type(bound) in (int, float) for bound in interval):
        raise fields.error("interval", "[lowest, highest]", interval)
    return Accuracy(
        name=fields.text("name"),
        unit=fields.text("unit"),
        split=fields.text("split"),
        n=fields.integer("n", least=1),
        reference=fields.number("reference"),
        value=fields.number("value"),
        loss=fields.number("loss"),
        interval=(float(interval[0]), float(interval[1])),
        allowed=fields.number("allowed"),
    )


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
