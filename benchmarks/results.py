"""The results of a benchmark: figures with their interval, bar and baseline, as JSON and as a table.

A benchmark collects `Figure` values and calls `write_results`, which replaces the figures it was given,
keeps every other one of the same file with the run that measured it, and writes `<name>.json` and `<name>.md`
atomically, so that an interrupted run leaves the last whole file behind.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import operator
import os
import platform
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from unreached import UNREACHED

RESULTS_DIR = Path(__file__).resolve().parent / "results"
PACKAGES = ("numpy", "scipy", "opencv-python-headless", "onnxruntime", "rasterio", "pyproj", "torch", "torch-pruning")


@dataclass(frozen=True)
class Figure:
    """One measured figure.

    Attributes:
        id: a name that stays the same for ever, such as ``nd160.converged``.
        value: the figure; None when it could not be measured (`note` says why).
        unit: ``%`` for shares (0-100), ``x`` for ratios, else an SI unit; empty for a plain count.
        n: how many samples it stands on.
        interval: 95 % bounds, low and high.
        bar: what was asked for, such as ``>= 99.5``.
        baseline: the same figure of the method compared with.
        data: what it was measured on, with the hashes that tell one run from another.
        note: what a reader must know to read it rightly.
    """

    id: str
    value: float | None
    unit: str = ""
    n: int | None = None
    interval: tuple[float, float] | None = None
    bar: str | None = None
    baseline: float | None = None
    data: str = ""
    note: str = ""


def write_results(
    name: str,
    figures: Iterable[Figure],
    *,
    command: str,
    seed: int,
    directory: Path = RESULTS_DIR,
) -> Path:
    """Merge `figures` into ``<directory>/<name>.json`` and write the Markdown table beside it.

    Args:
        name: the benchmark's name and the files' stem.
        figures: new figures; one with an id that the file already has replaces it in its place.
        command: the command line that makes them again.
        seed: the seed of everything random in them.

    Returns:
        the path of the JSON file.
    """
    path = directory / f"{name}.json"
    run = {
        "command": command,
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(),
        "versions": versions(),
        "seed": seed,
    }
    directory.mkdir(parents=True, exist_ok=True)
    _add(path, name, [(_rounded(figure), run) for figure in figures])
    return path


def merge_results(source: Path, target: Path) -> list[Figure]:
    """Add another machine's results to those of the same benchmark.

    Args:
        source: JSON that `write_results` wrote there.
        target: JSON that gets its figures, each with its run.

    Returns:
        the figures.
    """
    report = json.loads(source.read_text(encoding="utf-8"))
    measured = _measured(report)
    _add(target, report["benchmark"], measured)
    return [figure_of(fields) for fields, _ in measured]


def is_reached(value: float, bar: str) -> bool | None:
    """Whether a figure reaches its bar: ``>= 2``, ``< 1``, ``90 - 98``, or the number itself; None for other words."""
    number = r"(\d+(?:\.\d+)?(?:e-?\d+)?)"
    if found := re.fullmatch(rf"(<=|>=|<|>) {number}(?: and .*)?", bar):
        return _COMPARISONS[found[1]](value, float(found[2]))
    if found := re.fullmatch(rf"{number}(?: ?- ?{number})?", bar):
        return float(found[1]) <= value <= float(found[2] or found[1])
    return None


_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def figure_of(fields: dict[str, Any]) -> Figure:
    """A figure from its JSON, which knows no tuples."""
    return Figure(**{**fields, "interval": fields["interval"] and tuple(fields["interval"])})


Measured = list[tuple[dict[str, Any], dict[str, Any]]]
"""Figures, each with the run that measured it, as JSON has them."""


def _add(path: Path, name: str, measured: Measured) -> None:
    """Put figures into a results file, in place of those of the same id, and write its page."""
    before = _measured(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else []
    known = {figure["id"]: (figure, run) for figure, run in (*before, *measured)}
    runs: list[dict[str, Any]] = []
    for _, run in known.values():
        if run not in runs:
            runs.append(run)
    runs.sort(key=lambda run: str(run["date"]))
    figures = [{**figure, "run": runs.index(run)} for figure, run in known.values()]
    report = {"benchmark": name, "runs": runs, "figures": figures}
    write_atomically(path, json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomically(path.with_suffix(".md"), markdown(report))


def _measured(report: dict[str, Any]) -> Measured:
    figures = [dict(figure) for figure in report["figures"]]
    return [(figure, report["runs"][figure.pop("run")]) for figure in figures]


def markdown(report: dict[str, Any]) -> str:
    """The report as a page: the figures as a table, the notes and the runs under it."""
    lines = [
        f"# {report['benchmark']}",
        "",
        "| id | value | 95 % interval | n | bar | baseline | run |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for figure in report["figures"]:
        low_high = figure["interval"]
        interval = "" if low_high is None else f"{_number(low_high[0])} – {_number(low_high[1])}"
        known = figure["value"] is not None
        value = f"{_number(figure['value'])} {figure['unit'] if known else ''}".strip()
        cells = [f"`{figure['id']}`", value, interval, _number(figure["n"], ""), figure["bar"] or ""]
        lines.append("| " + " | ".join([*cells, _number(figure["baseline"], ""), str(figure["run"] + 1)]) + " |")
    remarks = [
        f"- `{figure['id']}`: " + "; ".join(text for text in (figure["note"], figure["data"]) if text)
        for figure in report["figures"]
        if figure["note"] or figure["data"]
    ]
    missed = [_missed(figure) for figure in report["figures"] if _misses(figure)]
    missed = ["", "## Bars that are not reached", "", *missed] if missed else []
    return "\n".join([*lines, *missed, "", "## What they are", "", *remarks, "", "## Runs", "",
                      *map(_run, count(1), report["runs"]), ""])  # fmt: skip


def _misses(figure: dict[str, Any]) -> bool:
    return bool(figure["bar"]) and figure["value"] is not None and is_reached(figure["value"], figure["bar"]) is False


def _missed(figure: dict[str, Any]) -> str:
    """A bar that is not reached, and why, as far as it is known."""
    value = f"{_number(figure['value'])} {figure['unit']}".strip()
    return f"- `{figure['id']}`: {value}, bar {figure['bar']}. {UNREACHED.get(figure['id'], 'Not explained yet.')}"


def _run(number: int, run: dict[str, Any]) -> str:
    """When, how and on what figures were measured, in a line."""
    machine_line = ", ".join(f"{value}" for value in run["machine"].values())
    version_line = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    return f"{number}. {run['date']}, `{run['command']}`, seed {run['seed']}. {machine_line}. {version_line}."


def machine() -> dict[str, Any]:
    """What the figures were measured on: CPU, cores this process may use, memory, system."""
    return {
        "cpu": _proc_value("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": f"{usable_cores()} cores",
        "memory": _memory(),
        "system": platform.platform(terse=True),
    }


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Python and the packages that the figures depend on, as installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def command_line() -> str:
    """The command that started this process, as a person would type it in the project's root.

    Of paths elsewhere on this machine only the name is said.
    """
    return " ".join(["python", _shown(str(Path(sys.argv[0]).resolve())), *map(_shown, sys.argv[1:])])


def _shown(word: str) -> str:
    path, root = Path(word), RESULTS_DIR.parent.parent
    if not path.is_absolute():
        return word
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _rounded(figure: Figure) -> dict[str, Any]:
    """The figure as JSON, numbers at four significant digits: more would claim more than was measured."""
    fields = asdict(figure)
    for key in ("value", "baseline"):
        fields[key] = None if fields[key] is None else _significant(fields[key])
    if figure.interval is not None:
        fields["interval"] = [_significant(bound) for bound in figure.interval]
    return fields


def _significant(value: float) -> float:
    return float(f"{float(value):.4g}")


def _number(value: float | None, missing: str = "not measured") -> str:
    return missing if value is None else f"{value:g}"


def _memory() -> str:
    kib = _proc_value("/proc/meminfo", "MemTotal")
    return f"{int(kib.split()[0]) / 2**20:.0f} GiB" if kib else "memory unknown"


def _proc_value(path: str, key: str) -> str:
    """The first value of `key` in a Linux key-value file; empty elsewhere."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")
