"""A run of `kittiwake bench` as a file: JSON for machines, a table for people."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kittiwake_runtime import __version__
from kittiwake_runtime.bench.cold_start import ColdStart
from kittiwake_runtime.bench.measure import Ratio, Samples
from kittiwake_runtime.bench.statistics import summarize
from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.base import EngineReport
from kittiwake_runtime.errors import BundleError
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.machine import Machine

FORMAT, FORMAT_VERSION = "kittiwake.bench", 1
_PACKAGES = (
    "numpy",
    "opencv-python-headless",
    "onnxruntime",
    "onnxruntime-gpu",
    "cuda-bindings",
    "tensorrt",
    "tensorrt_rtx_cu13_bindings",
)


@dataclass(frozen=True)
class Subject:
    """What ran under a label."""

    bundle: Bundle
    report: EngineReport
    threads: int
    workload: str
    cold: ColdStart


def make_result(
    machine: Machine,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    subjects: Mapping[str, Subject],
    samples: Mapping[str, Samples],
    ratios: Sequence[tuple[str, str, str, Ratio]],
    command: str,
) -> dict[str, Any]:
    """All of a run, ready for JSON; times are in milliseconds.

    Args:
        machine: that it ran on.
        before: the machine's state before, see ``machine.read_state``.
        after: and after.
        subjects: by label.
        samples: by label.
        ratios: label, the other's label, stage, ratio.
        command: the command line.
    """
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": command,
        "machine": asdict(machine),
        "state_before": dict(before),
        "state_after": dict(after),
        "versions": _versions(),
        "contenders": [_contender(label, subjects[label], samples[label]) for label in subjects],
        "windows": [
            {"name": label, **asdict(taken.stream)} for label, taken in samples.items() if taken.stream is not None
        ],
        "ratios": [
            {"label": label, "vs": other, "stage": stage, **_rounded(asdict(found))}
            for label, other, stage, found in ratios
        ],
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Write the JSON, whole or not at all, and the table beside it as ``.md``."""
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, content in ((path, text), (path.with_suffix(".md"), markdown(result))):
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(content, encoding="utf-8")
        partial.replace(file)


def read_result(path: Path) -> dict[str, Any]:
    """A file that :func:`write_result` wrote.

    Raises:
        BundleError: it can't be read, is no such file, or is of another version; the field is named.
    """
    fields = Fields.read(path)
    if "format" not in fields or fields.text("format") != FORMAT:
        raise BundleError(f"{path}: not a result of `kittiwake bench`", "make one: kittiwake bench BUNDLE -o FILE.json")
    if fields.integer("format_version") != FORMAT_VERSION:
        raise fields.error("format_version", str(FORMAT_VERSION), fields.integer("format_version"))
    for key in ("machine", "state_before", "state_after", "versions"):
        fields.mapping(key)
    for contender in fields.sections("contenders"):
        contender.text("label")
        for stage in contender.section_map("stages").values():
            stage.number("median", least=0.0)
            stage.items("interval")
    return dict(fields.value)


def markdown(result: Mapping[str, Any]) -> str:
    """A page: the machine, a table of stages, what a cold start takes, and what could not be claimed."""
    machine = result["machine"]
    facts = [machine["board"], machine["cpu"], f"{machine['cores']} cores", machine["gpu"], machine["system"]]
    facts += [f"governor {machine['governor']}" if machine["governor"] else "", machine["power_mode"]]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"`{result['command']}`, {result['date']}. {', '.join(fact for fact in facts if fact)}. {versions}.",
        "",
        "| contender | stage | median ms | 95 % interval | p90 (99 % bound) | p99 (99 % bound) | jitter ms | n |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for contender in result["contenders"]:
        for name, stage in contender["stages"].items():
            low, high = stage["interval"]
            cells = [contender["label"], name, f"{stage['median']:.4g}", f"{low:.4g} – {high:.4g}"]
            cells += [_percentile(stage["p90"]), _percentile(stage["p99"]), f"{stage['jitter']:.3g}", str(stage["n"])]
            lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "| contender | inferences a second | import s | load s | first inference s | peak memory MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for contender in result["contenders"]:
        cold = contender["cold_start"]
        memory = "" if cold["peak_rss_mb"] is None else f"{cold['peak_rss_mb']:.0f}"
        cells = [contender["label"], f"{contender['per_s']:.4g}"]
        cells += [f"{cold[name]:.3f}" for name in ("import_s", "load_s", "first_inference_s")]
        lines.append("| " + " | ".join([*cells, memory]) + " |")
    if result["ratios"]:
        lines += ["", "| contender | against | stage | time ratio | 95 % interval |", "| --- | --- | --- | --- | --- |"]
    for found in result["ratios"]:
        low, high = found["interval"]
        cells = [found["label"], found["vs"], found["stage"], f"{found['value']:.3f}", f"{low:.3f} – {high:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *_remarks(result), ""])


def _remarks(result: Mapping[str, Any]) -> list[str]:
    remarks = [f"- {c['label']}: {c['workload']}" for c in result["contenders"]]
    remarks += [f"- {c['label']}: {reason}" for c in result["contenders"] for reason in c["reasons"]]
    for when in ("before", "after"):
        state = result[f"state_{when}"]
        degrees = ", ".join(f"{name} {value:g} °C" for name, value in state["temperatures_c"].items())
        told = [f"load {state['load_1min']}" if state["load_1min"] is not None else "", degrees, state["gpu"]]
        remarks.append(f"- {when}: {'; '.join(part for part in told if part) or 'the machine tells nothing'}")
    return remarks


def _percentile(found: Mapping[str, Any]) -> str:
    return "too few samples" if found["value"] is None else f"{found['value']:.4g} ({found['bound']:.4g})"


def _contender(label: str, subject: Subject, samples: Samples) -> dict[str, Any]:
    report, bundle = subject.report, subject.bundle
    in_ms = {name: [1e3 * value for value in seconds] for name, seconds in samples.stages.items()}
    return {
        "label": label,
        "bundle": bundle.name,
        "bundle_sha256": bundle.sha256,
        "file": report.file,
        "file_sha256": bundle.files[report.file],
        "backend": report.backend,
        "device": report.device,
        "precision": report.precision,
        "providers": list(report.providers),
        "reasons": list(report.reasons),
        "threads": subject.threads,
        "workload": subject.workload,
        "stages": {name: _rounded(asdict(summarize(values))) for name, values in in_ms.items()},
        "per_s": _rounded(samples.stream.per_s) if samples.stream else None,
        "cold_start": _rounded(asdict(subject.cold)),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "kittiwake-runtime": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _rounded(value: Any) -> Any:
    """Numbers at five digits, in whatever they stand."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list | tuple) else value
