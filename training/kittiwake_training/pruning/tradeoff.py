"""The trade-off as a picture: what a network is worth against what it costs, dense and pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Point:
    """One network on the way from dense to small.

    Args:
        label: ``dense`` or which round.
        flops: of a typical input.
        parameters: of its convolutions and linear layers.
        latency_s: predicted, by backend; empty without a table.
        metrics: as a checkpoint lists them.
        calibration: as a checkpoint holds it.
    """

    label: str
    flops: float
    parameters: float
    latency_s: Mapping[str, float]
    metrics: list[dict[str, Any]]
    calibration: dict[str, Any]

    def value(self, figure: str) -> float:
        """The first metric of a name, which is of real data where there is any; NaN without."""
        return next((float(m["value"]) for m in self.metrics if m["name"] == figure), float("nan"))


def draw_tradeoff(points: Sequence[Point], figure: str, path: Path) -> None:
    """The figure against latency, a line for each backend and precision, or against operations without a table.

    Args:
        points: the dense network first.
        figure: name of the metric.
        path: of the PNG.
    """
    curves = {name: [1e3 * point.latency_s[name] for point in points] for name in points[0].latency_s}
    curves = curves or {"operations of a typical input": [1e-9 * point.flops for point in points]}
    draw_curves(
        {name: list(zip(costs, [p.value(figure) for p in points], strict=True)) for name, costs in curves.items()},
        "predicted latency, ms" if points[0].latency_s else "GFLOP",
        figure,
        path,
        labels=[point.label for point in points],
    )


def draw_curves(
    curves: Mapping[str, Sequence[tuple[float, float]]], cost: str, figure: str, path: Path, *,
    labels: Sequence[str] = (),
) -> None:  # fmt: skip
    """Lines of (cost, figure), each from dense, a star, to the smallest."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4.5), layout="constrained")
    axes = picture.subplots()
    for name, points in curves.items():
        costs, values = zip(*points, strict=True)
        (line,) = axes.plot(costs, values, marker="o", label=name)
        axes.plot(costs[:1], values[:1], marker="*", markersize=14, color=line.get_color())
        for label, at in zip(labels, points, strict=False):
            axes.annotate(label, at, textcoords="offset points", xytext=(4, 5), fontsize=7)
    axes.set(xlabel=cost, ylabel=figure, xlim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=120)
