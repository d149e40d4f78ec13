"""Predicts how long a network takes on a backend from a table of the times of single layers.

``kittiwake layer-times`` (kittiwake_export/layer_times.py) measures the table where the network is to run: each kind
of layer that the network has (kernel, stride, size of its output) at a grid of channel counts, and a few whole
networks. A prediction is the sum of the layers', each interpolated between the counts around its own, times a factor,
plus a constant and a time for each value that the layers give out. The last three are fitted to the whole networks:
what stands between layers, what never changes, and caches that a layer alone finds warm.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kittiwake_training.errors import TrainingError
from kittiwake_training.pruning.cost import Cost, Layer
from kittiwake_training.trainer import replace_file

FORMAT = "kittiwake.layer-times"
FORMAT_VERSION = 1

Geometry = tuple[str, tuple[int, int], tuple[int, int], int, int, int, int]


@dataclass(frozen=True)
class Times:
    """Seconds of one kind of layer.

    Args:
        taken, made: channel counts, ascending.
        seconds: (taken, made) float64; a depthwise layer takes as many as it makes, and has one row.
    """

    taken: tuple[int, ...]
    made: tuple[int, ...]
    seconds: NDArray[np.float64]

    def at(self, taken: int, made: int) -> float:
        """Interpolated; beyond the measured counts by the outermost slope, never below zero."""
        rows = np.array([_line(self.made, row, made) for row in self.seconds])
        return max(_line(self.taken, rows, taken), 0.0)


@dataclass(frozen=True)
class LatencyModel:
    """The table of one backend.

    Args:
        backend: such as ``onnxruntime-cpu int8, 1 thread``.
        layers: by geometry.
        scale: of the sum over layers.
        fixed_s: what every network takes besides.
        element_s: for each value that a layer gives out.
    """

    backend: str
    layers: Mapping[Geometry, Times]
    scale: float = 1.0
    fixed_s: float = 0.0
    element_s: float = 0.0

    def __call__(self, layers: Sequence[Layer]) -> float:
        """Seconds that a network of these layers takes.

        Raises:
            TrainingError: the table has no such layer.
        """
        elements = sum(layer.elements for layer in layers)
        return self.scale * self.layers_s(layers) + self.fixed_s + self.element_s * elements

    def layers_s(self, layers: Iterable[Layer]) -> float:
        """The sum of the layers' own times, seconds."""
        return sum(self._time_of(layer) for layer in layers)

    def _time_of(self, layer: Layer) -> float:
        times = self.layers.get(geometry(layer))
        if times is None:
            raise TrainingError(
                f"the table of {self.backend} has no layer like '{layer.name}': {layer.kind} {layer.kernel} of "
                f"{layer.batch} x {layer.height} x {layer.width}",
                "measure one for this network: kittiwake layer-times CHECKPOINT -o TABLE",
            )
        return times.at(1 if layer.kind == "depthwise" else layer.taken, layer.made)


def geometry(layer: Layer) -> Geometry:
    """What two layers of one row of the table have in common; only channels differ."""
    groups = 0 if layer.kind == "depthwise" else layer.groups
    return layer.kind, tuple(layer.kernel), tuple(layer.stride), groups, layer.batch, layer.height, layer.width


def fit_latency(
    backend: str, layers: Mapping[Geometry, Times], networks: Sequence[tuple[Sequence[Layer], float]]
) -> LatencyModel:
    """Fit what lies between the layers to whole networks.

    Args:
        backend: its name.
        layers: the table.
        networks: layers and measured seconds of each.

    Raises:
        TrainingError: fewer than three networks.
    """
    if len(networks) < 3:
        raise TrainingError(f"{len(networks)} networks for three numbers", "measure three at least")
    bare = LatencyModel(backend, layers)
    sums = [bare.layers_s(network) for network, _ in networks]
    elements = [sum(layer.elements for layer in network) for network, _ in networks]
    measured = np.array([seconds for _, seconds in networks])
    # Relative errors count; negative times are not of this world.
    columns = np.stack([sums, np.ones(len(networks)), elements], axis=1) / measured[:, None]
    scale, fixed_s, element_s = _non_negative(columns)
    return LatencyModel(backend, layers, scale, fixed_s, element_s)


def save_table(path: Path, models: Sequence[LatencyModel], machine: Mapping[str, Any]) -> None:
    """Write tables of several backends, measured on one machine, as JSON."""
    table = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "machine": dict(machine),
        "backends": [_to_json(model) for model in models],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, (json.dumps(table, indent=1, allow_nan=False) + "\n").encode())


def load_table(path: Path) -> dict[str, LatencyModel]:
    """The tables of a file by their backend's name.

    Raises:
        TrainingError: it is none, or of another version.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if (table["format"], table["format_version"]) != (FORMAT, FORMAT_VERSION):
            raise TrainingError(f"{path}: format {table['format']} {table['format_version']}; expected "
                                f"{FORMAT} {FORMAT_VERSION}", "measure it again: kittiwake layer-times")  # fmt: skip
        return {entry["backend"]: _from_json(entry) for entry in table["backends"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path} is not a table of layer times: {error}", "measure one: kittiwake layer-times CHECKPOINT -o TABLE"
        ) from error


def latency_cost(tables: Mapping[str, LatencyModel], backend: str) -> Cost:
    """The table of a backend, found by a part of its name, such as ``int8``.

    Raises:
        TrainingError: none or several have it.
    """
    found = [model for name, model in tables.items() if backend in name]
    if len(found) != 1:
        raise TrainingError(f"backend '{backend}' means {len(found)} tables of {', '.join(tables)}", "name one of them")
    return found[0]


def _line(counts: Sequence[int], seconds: NDArray[np.float64], count: int) -> float:
    if len(counts) == 1:
        return float(seconds[0])
    i = int(np.clip(np.searchsorted(counts, count) - 1, 0, len(counts) - 2))
    share = (count - counts[i]) / (counts[i + 1] - counts[i])
    return float(seconds[i] + share * (seconds[i + 1] - seconds[i]))


def _non_negative(columns: NDArray[np.float64]) -> tuple[float, float, float]:
    """Least squares of columns @ x = 1 with x >= 0: of the sets of entries with the first the best that is so."""
    best, least = (1.0, 0.0, 0.0), np.inf
    for chosen in ([0], [0, 1], [0, 2], [0, 1, 2]):
        part, *_ = np.linalg.lstsq(columns[:, chosen], np.ones(len(columns)), rcond=None)
        error = float(np.square(columns[:, chosen] @ part - 1).sum())
        if (part >= 0).all() and error < least:
            whole = np.zeros(3)
            whole[chosen] = part
            best, least = (float(whole[0]), float(whole[1]), float(whole[2])), error
    return best


def _to_json(model: LatencyModel) -> dict[str, Any]:
    layers = [
        {
            **dict(zip(("kind", "kernel", "stride", "groups", "batch", "height", "width"), key, strict=True)),
            "taken": list(times.taken),
            "made": list(times.made),
            "seconds": [[float(f"{value:.4g}") for value in row] for row in times.seconds],
        }
        for key, times in model.layers.items()
    ]
    fitted = {"scale": model.scale, "fixed_s": model.fixed_s, "element_s": model.element_s}
    return {"backend": model.backend, **fitted, "layers": layers}


def _from_json(entry: Mapping[str, Any]) -> LatencyModel:
    layers: dict[Geometry, Times] = {}
    for row in entry["layers"]:
        key = (row["kind"], tuple(row["kernel"]), tuple(row["stride"]), row["groups"], row["batch"], row["height"],
               row["width"])  # fmt: skip
        layers[key] = Times(tuple(row["taken"]), tuple(row["made"]), np.array(row["seconds"], np.float64))
    fitted = (float(entry[name]) for name in ("scale", "fixed_s", "element_s"))
    return LatencyModel(entry["backend"], layers, *fitted)
