"""`kittiwake power`: what a command costs on a Jetson, with tegrastats sampled beside it."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from kittiwake_runtime.command import Command
from kittiwake_runtime.tegrastats import Sample, Summary, TegrastatsError, Throttling, parse_line, read_log, summarize

FORMAT_VERSION = 1
FIRST_LINE_S = 10.0
STOP_S = 5.0

_EXAMPLES = """\
examples:
  kittiwake power run -- kittiwake demo --quick
  kittiwake power run -o power.json --bench bench.json --sudo --pinned -- kittiwake bench NAME -o bench.json
  kittiwake power read power.log            a log that was written by `run`, or by tegrastats itself
  kittiwake power table */*.power.json      several runs as a Markdown table

tegrastats tells only root the clocks of the GPU: without --sudo its throttling can't be told. --bench reads from what
the command wrote when it measured, and how many inferences: a JSON object with
"windows": [{"name": …, "began_s": …, "ended_s": …, "inferences": …}], in seconds since 1970 UTC.
"""


class Recorder:
    """tegrastats, running: as a context manager, its lines are stamped, written to a log and kept.

    Args:
        log: where the lines go, each with the time of its arrival in front.
        interval_ms: how often it prints.
        sudo: run it as root, without ever asking for a password.
    """

    def __init__(self, log: Path, interval_ms: int = 100, sudo: bool = False) -> None:
        self._log = log
        self._sudo = ["sudo", "-n"] if sudo else []
        self._words = [*self._sudo, "tegrastats", "--interval", str(interval_ms)]
        self._lines: list[str] = []
        self._first = threading.Event()

    def __enter__(self) -> Recorder:
        if not shutil.which("tegrastats"):
            raise TegrastatsError(
                "there is no tegrastats on this machine", "it comes with JetPack: run this on a Jetson"
            )
        self._process = subprocess.Popen(
            self._words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._first.wait(FIRST_LINE_S) or not self._lines:
            said = self._stop()
            text = f"`{' '.join(self._words)}` printed nothing: {said or 'without a word'}"
            raise TegrastatsError(text, "run it by hand; with --sudo, run `sudo true` first")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def samples(self) -> list[Sample]:
        """What was printed by now."""
        return [parse_line(line) for line in list(self._lines)]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._log.open("w", encoding="utf-8") as log:
            for line in self._process.stdout:
                stamped = f"{time.time():.3f} {line.strip()}"
                self._lines.append(stamped)
                log.write(stamped + "\n")
                self._first.set()
        self._first.set()

    def _stop(self) -> str:
        """Its last words on stderr."""
        try:
            self._process.terminate()
        except PermissionError:  # root's process can't be signalled by the user that started it
            subprocess.run([*self._sudo, "kill", "-TERM", str(self._process.pid)], capture_output=True)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._reader.join(STOP_S)
        said = self._process.stderr.read() if self._process.stderr and self._process.poll() is not None else ""
        return said.strip().rpartition("\n")[2]


def power_mode() -> str:
    """The name of the power mode, as `nvpmodel -q` says it; empty where there is none."""
    try:
        answer = subprocess.run(["nvpmodel", "-q"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r"NV Power Mode:\s*(\S+)", answer)
    return match[1] if match else ""


def overcurrent_events(root: Path = Path("/")) -> dict[str, int]:
    """How often the board has throttled itself since it started, by cause: under-voltage, average and instantaneous
    over-current (oc1, oc2, oc3 of NVIDIA's driver soctherm_oc).

    Args:
        root: where /sys stands; another folder serves tests.
    """
    counters = {}
    for path in sorted(root.glob("sys/class/hwmon/hwmon*/oc*_event_cnt")):
        with suppress(OSError, ValueError):
            counters[path.name.removesuffix("_event_cnt")] = int(path.read_text())
    return counters


def measured_windows(path: Path) -> list[dict[str, Any]]:
    """The windows in which a benchmark measured, from the JSON that it wrote; none when it says nothing of windows.

    Raises:
        TegrastatsError: the file can't be read, is no JSON object, or a window is malformed or empty.
    """
    try:
        windows = json.loads(path.read_text(encoding="utf-8")).get("windows", [])
        for window in windows:
            if not float(window["began_s"]) < float(window["ended_s"]) or int(window["inferences"]) < 1:
                raise ValueError(f"window {window['name']!r} is empty")
    except OSError as error:
        raise TegrastatsError(f"{path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = f"{path}: its measured windows can't be read ({type(error).__name__}: {error})"
        raise TegrastatsError(text, "see `kittiwake power --help` for what --bench reads") from error
    return list(windows)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    run = actions.add_parser("run", help="run a command, and say what it cost")
    run.add_argument("command", nargs="+", metavar="COMMAND", help="after --: the command and its arguments")
    run.add_argument("-o", "--output", type=Path, default=Path("power.json"), metavar="FILE",
                     help="what is written (default: power.json); the log stands beside it, as .log")  # fmt: skip
    run.add_argument("--bench", type=Path, metavar="FILE", help="JSON that the command writes, with measured windows")
    run.add_argument("--interval-ms", type=int, default=100, help="how often it is sampled (default: 100)")
    run.add_argument("--sudo", action="store_true", help="run tegrastats as root (sudo -n), for the GPU's clocks")
    run.add_argument(
        "--pinned", action="store_true", help="clocks are pinned (jetson_clocks): a lower one is throttling"
    )
    read = actions.add_parser("read", help="say what stands in a log")
    read.add_argument("log", type=Path)
    read.add_argument("--pinned", action="store_true", help="clocks were pinned: lower ones are throttling")
    read.add_argument("--json", action="store_true", help="print JSON for machines")
    table = actions.add_parser("table", help="a Markdown table of several runs")
    table.add_argument("files", nargs="+", type=Path, metavar="FILE", help="what `run` wrote")


def _run(arguments: argparse.Namespace) -> int:
    return {"run": _run_command, "read": _read, "table": _table}[arguments.action](arguments)


def _run_command(arguments: argparse.Namespace) -> int:
    output: Path = arguments.output
    output.parent.mkdir(parents=True, exist_ok=True)
    events = overcurrent_events()
    log = output.with_suffix(".log")
    with _Signals() as signals, Recorder(log, arguments.interval_ms, arguments.sudo) as recorder:
        began = time.time()
        status = signals.status_of(arguments.command)
        ended = time.time()
        time.sleep(1.5 * arguments.interval_ms / 1000)  # so that the window's end lies between two lines
        samples = recorder.samples()
    whole = summarize(samples, began, ended, arguments.pinned)
    windows = measured_windows(arguments.bench) if arguments.bench and status == 0 else []
    result = {
        "format_version": FORMAT_VERSION,
        "command": arguments.command,
        "status": status,
        "power_mode": power_mode(),
        "pinned": arguments.pinned,
        "overcurrent_events": {name: n - events.get(name, 0) for name, n in overcurrent_events().items()},
        "whole": asdict(whole),
        "windows": [_window(samples, window, arguments.pinned) for window in windows],
    }
    part = output.with_name(output.name + ".part")
    part.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    part.replace(output)
    print(_describe(whole))
    if arguments.bench and not windows:
        print(f"{arguments.bench} has no measured windows: joules an inference can't be told", file=sys.stderr)
    for window in result["windows"]:
        print(
            f"{window['name']}: {window['joules_an_inference']:.4g} J an inference, {window['inferences']} inferences"
        )
    return status


class _Signals:
    """While this context lasts, SIGINT and SIGTERM end the command, and then this process as they usually would.

    They are noted and passed on rather than raised: an exception inside ``Popen`` would leave behind, running and
    unknown, what it has just started.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Signals:
        self._usual = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        if self._process:
            self._process.send_signal(number)

    def status_of(self, command: Sequence[str]) -> int:
        """Run a command to its end; its exit status, as a shell says it."""
        self._end_if_received()
        try:
            self._process = subprocess.Popen(command)
        except OSError as error:
            raise TegrastatsError(f"{command[0]}: {error.strerror}") from error
        if self._received:  # between the two lines above
            self._process.send_signal(self._received)
        status = self._process.wait()
        self._end_if_received()
        return status if status >= 0 else 128 - status

    def _end_if_received(self) -> None:
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if self._received:
            sys.exit(128 + self._received)


def _window(samples: Sequence[Sample], window: Mapping[str, Any], pinned: bool) -> dict[str, Any]:
    summary = summarize(samples, float(window["began_s"]), float(window["ended_s"]), pinned)
    count = int(window["inferences"])
    each = {"joules_an_inference": summary.energy_j / count, "inferences_a_second": count / summary.duration_s}
    return {"name": str(window["name"]), "inferences": count, **each, "summary": asdict(summary)}


def _read(arguments: argparse.Namespace) -> int:
    samples = read_log(arguments.log)
    if not samples:
        raise TegrastatsError(f"{arguments.log}: no lines in it")
    summary = summarize(samples, samples[0].time_s, samples[-1].time_s, arguments.pinned)
    print(json.dumps(asdict(summary), indent=2) if arguments.json else _describe(summary))
    return 0


def _describe(summary: Summary) -> str:
    temperatures = summary.temperatures_c.items()
    lines = [
        f"{summary.grammar}, {summary.samples} samples in {summary.duration_s:.1f} s",
        f"energy        {summary.energy_j:.1f} J, {summary.mean_w:.2f} W on average, {summary.peak_w:.2f} W at most "
        f"({' + '.join(summary.rails)})",
        "temperatures  " + ", ".join(f"{name} {high:.1f} °C" for name, (_, high, _) in temperatures) + " at most",
        f"memory        {summary.ram_peak_mb} MB at most, of the whole board",
        f"GPU           {_throttled(summary.gpu)}",
        f"CPU           {_throttled(summary.cpu)}",
    ]
    return "\n".join(lines)


def _throttled(found: Throttling | None) -> str:
    if found is None:
        return "throttling can't be told: no clocks under load in the lines"
    if not found.percent:
        return f"no throttling in {found.judged} readings, {found.lowest_mhz} to {found.reference_mhz} MHz"
    return f"throttled in {found.percent:.1f} % of {found.judged} readings, {found.lowest_mhz} MHz at the lowest"


def _table(arguments: argparse.Namespace) -> int:
    print(
        "| run | power mode | J an inference | inferences/s | mean W | peak W | hottest °C | GPU throttled | events |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in arguments.files:
        for row in _rows(path):
            print("| " + " | ".join(row) + " |")
    return 0


def _rows(path: Path) -> list[list[str]]:
    """A row for each measured window of a run, or one for the whole of it."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if run["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format_version is {run['format_version']}, expected {FORMAT_VERSION}")
        events = sum(run["overcurrent_events"].values()) if run["overcurrent_events"] else None
        parts = run["windows"] or [{"name": "whole", "summary": run["whole"]}]
        return [
            [
                f"{path.stem.removesuffix('.power')}, {part['name']}",
                run["power_mode"] or "unknown",
                f"{part['joules_an_inference']:.4g}" if "joules_an_inference" in part else "–",
                f"{part['inferences_a_second']:.4g}" if "inferences_a_second" in part else "–",
                f"{part['summary']['mean_w']:.2f}",
                f"{part['summary']['peak_w']:.2f}",
                f"{max((high for _, high, _ in part['summary']['temperatures_c'].values()), default=float('nan')):.1f}",
                f"{part['summary']['gpu']['percent']:.1f} %" if part["summary"]["gpu"] else "unknown",
                "unknown" if events is None else str(events),
            ]
            for part in parts
        ]
    except OSError as error:
        raise TegrastatsError(f"{path}: {error.strerror}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise TegrastatsError(f"{path}: not what `kittiwake power run` writes ({error})") from error


command = Command(
    name="power",
    help="run a command with tegrastats beside it: energy, temperatures, throttling (on a Jetson)",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
