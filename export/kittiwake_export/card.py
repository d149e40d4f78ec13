"""The card: what a bundle is, for people, from what its manifest says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def write_card(manifest: Mapping[str, Any], text: str) -> str:
    """Markdown for a bundle.

    Args:
        manifest: the fields of ``manifest.json``.
        text: what the checkpoint's author says of intended use and limits; stands at the end.
    """
    training = manifest["training"]
    parts = [
        f"# {manifest['name']}",
        manifest["description"],
        f"Task `{manifest['task']}`, licence {manifest['licence']}.",
        _table("Inputs", ("name", "dtype", "shape", "units", "meaning"), map(_tensor, manifest["inputs"])),
        _table("Outputs", ("name", "dtype", "shape", "units", "meaning"), map(_tensor, manifest["outputs"])),
        _table("Metrics", ("name", "value", "unit", "split", "n"), map(_metric, manifest["metrics"])),
        "## Origin",
        "\n".join(
            [
                *_data(training["data"]),
                f"- commit `{training['commit'] or 'unknown'}`, seed {training['seed']}",
                *(
                    f"- {line}"
                    for name, entry in manifest["variants"].items()
                    for line in _variant(name, entry, manifest["tolerance"])
                ),
            ]
        ),
        text.strip(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(title: str, columns: tuple[str, ...], rows: Any) -> str:
    lines = ["| " + " | ".join(str(row[column]) for column in columns) + " |" for row in rows]
    if not lines:
        return ""
    head = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    return f"## {title}\n\n" + "\n".join(head + lines)


def _tensor(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "shape": "(" + ", ".join(map(str, entry["shape"])) + ")"}


def _metric(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "value": f"{entry['value']:g}"}


def _data(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each source and split: a card is read by people, and the manifest has every file with its sha256."""
    groups: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        groups.setdefault((entry.get("source", ""), entry.get("split", "")), []).append(entry["name"])
    lines = []
    for (source, split), names in groups.items():
        some = ", ".join(names) if len(names) <= 4 else f"{names[0]}, {names[1]} ... {names[-1]}"
        facts = ", ".join(fact for fact in (source, split, f"{len(names)} in all" if len(names) > 4 else "") if fact)
        lines.append(f"- data: {some}" + (f" ({facts})" if facts else ""))
    return [*lines, "- each of them with its sha256 in `manifest.json`, and the config of the training"]


def _variant(precision: str, entry: Mapping[str, Any], tolerance: float) -> list[str]:
    errors = ", ".join(f"{name} {error:.2g}" for name, error in entry["parity"].items())
    allowed = f"; allowed {tolerance:g}" if precision == "fp32" else ""
    lines = [f"`{entry['file']}` ({precision}) differs from torch by at most: {errors}{allowed}"]
    if entry.get("float_nodes"):
        lines.append(f"in float32 stay {', '.join(f'`{name}`' for name in entry['float_nodes'])}")
    if "calibration" in entry:
        names = ", ".join(data["name"] for data in entry["calibration"]["data"])
        lines.append(f"ranges from {entry['calibration']['samples']} samples of {names}")
    if "accuracy" in entry:
        found = entry["accuracy"]
        low, high = found["interval"]
        lines.append(
            f"{found['name']} {found['value']:.2f} {found['unit']} against {found['reference']:.2f} in float32 on the "
            f"same {found['n']} samples ({found['split']}): a loss of {found['loss']:.2f} ({low:.2f} to {high:.2f}); "
            f"allowed {found['allowed']:g}"
        )
    lines = ["; ".join(lines)]
    if "tensorrt" in entry:
        lines += _variant(f"{precision}, TensorRT", entry["tensorrt"], tolerance)
    return lines
