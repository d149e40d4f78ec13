"""Latency predicted from a table of layer times, against measured, over networks that the table never saw."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime as ort
import torch
from results import Figure, usable_cores
from tqdm import tqdm

from kittiwake_export.layer_times import (
    PRECISIONS,
    build,
    measure_layer_times,
    random_widths,
    read_specs,
    run_seconds,
    typical_input,
)
from kittiwake_training.localization.model import DescriptorCNN
from kittiwake_training.localization.train import CnnConfig, LocalizationConfig, describe_run
from kittiwake_training.pruning.cost import layers_of

NETWORKS = 24
SEED = 77
"""Of the widths; the table's own networks have another."""


def measure_latency_model(quick: bool) -> list[Figure]:
    """The median error, over both precisions and of each."""
    width, count = (32, 3) if quick else (192, NETWORKS)
    torch.manual_seed(0)
    model = DescriptorCNN(width, 64, (5.0, 12.0)).eval()  # times don't depend on the weights
    meta = {**describe_run(LocalizationConfig(cnn=CnnConfig(width, 64)), []), "metrics": [], "calibration": {}}
    inputs, outputs, dims = read_specs(meta, Path("descriptor"))
    tables = measure_layer_times(model, inputs, outputs, dims, untouched=model.untouched)
    example = typical_input(inputs, dims)
    view = example[inputs[0].name]
    networks = list(random_widths(model, view, model.untouched, count, SEED))
    errors: dict[str, list[float]] = {}
    named = tqdm(networks, desc="networks to predict", disable=None)
    graphs = [build(network, inputs, outputs, dims, PRECISIONS) for network in named]
    for i, (table, precision) in enumerate(zip(tables, PRECISIONS, strict=True)):
        seconds = run_seconds([found[i] for found in graphs], example, 1)
        for network, measured in zip(networks, seconds, strict=True):
            predicted = table(layers_of(network, torch.from_numpy(view)))
            errors.setdefault(precision, []).append(100 * abs(predicted / measured - 1))
    every = [error for found in errors.values() for error in found]
    data = f"descriptor of width {width}, {count} random prunings, 36 views, ONNX Runtime {ort.__version__}, 1 thread"
    note = f"median of |predicted / measured - 1|; both are the least of many runs, on {usable_cores()} cores"
    bar = "<= 10"
    figures = [Figure("latency_model.error", median(every), "%", len(every), _quartiles(every), bar, data=data,
                      note=note + "; the interval holds the middle half")]  # fmt: skip
    for precision, found in errors.items():
        figures.append(Figure(f"latency_model.error_{precision}", median(found), "%", len(found), _quartiles(found),
                              bar, data=data, note=f"of these, {precision}"))  # fmt: skip
    return figures


def _quartiles(values: list[float]) -> tuple[float, float]:
    low, high = np.percentile(values, [25, 75])
    return float(low), float(high)
