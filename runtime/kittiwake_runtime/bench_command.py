"""`kittiwake bench`: how fast bundles are on this machine, measured so that it can be claimed."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import EngineError

if TYPE_CHECKING:
    from kittiwake_runtime.bench.measure import Ratio, Samples
    from kittiwake_runtime.bench.results import Subject
    from kittiwake_runtime.bundle import Bundle
    from kittiwake_runtime.engines.base import Engine
    from kittiwake_runtime.machine import Machine

_SAMPLES = 670
"""A 99th percentile with one sample above its bound takes 662."""

_EXAMPLES = f"""\
examples:
  kittiwake bench NAME                                        what open_engine would choose on this machine
  kittiwake bench NAME --backend cpu:int8 --vs cpu:fp32       two precisions in turns, and their ratio
  kittiwake bench NAME --backend tensorrt --vs cuda -o orin.json
  kittiwake bench NEW --vs OLD --threads 1                    two bundles
  kittiwake bench compare before.json after.json              two runs, if they are alike

A backend is DEVICE or DEVICE:PRECISION (cpu, cuda, tensorrt, tensorrt-ep, auto; fp32, fp16, int8, fp8). Contenders
run in turns. Stages: pre (from the sensor's data to the network's inputs), infer, post, end_to_end. A percentile is
refused where the samples are too few for it: 64 for the 90th, 459 for the 99th (default: {_SAMPLES} samples).
With -o FILE.json a table (FILE.md) and a plot (FILE.png) are written beside it.
"""


@dataclass(frozen=True)
class _Choice:
    """A contender as it was asked for."""

    bundle: Bundle
    device: str
    precision: str


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundles", nargs="+", metavar="BUNDLE", help="bundles by folder or name; or: compare A B")
    parser.add_argument("--backend", action="append", default=[], metavar="DEVICE[:PRECISION]",
                        help="what to run them on; may be repeated (default: auto)")  # fmt: skip
    parser.add_argument("--vs", metavar="OTHER", help="a backend or a bundle to take ratios against")
    parser.add_argument("--samples", type=int, default=_SAMPLES, help=f"runs of each contender (default: {_SAMPLES})")
    parser.add_argument("--threads", type=int, help="of the CPU (default: all that this process may use)")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.json", help="where to write the result")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.bundles[0] == "compare":
        return _compare(arguments)
    from kittiwake_runtime.bench.results import make_result, markdown, write_result
    from kittiwake_runtime.machine import describe, read_state

    if arguments.output and arguments.output.suffix != ".json":
        raise EngineError(f"-o is {arguments.output}; expected a name that ends in .json")
    choices, against, counterparts = _choices(arguments)
    machine, before = describe(), read_state()
    subjects, samples = _measure([*choices, *against], arguments, machine)
    ratios = _ratios(samples, counterparts)
    command = shlex.join(["kittiwake", "bench", *_words(arguments)])
    result = make_result(machine, before, read_state(), subjects, samples, ratios, command)
    if arguments.output:
        write_result(arguments.output, result)
        _write_plot(arguments.output.with_suffix(".png"), samples)
    print(json.dumps(result, indent=1, ensure_ascii=False) if arguments.json else markdown(result))
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from kittiwake_runtime.bench.compare import changes, compare
    from kittiwake_runtime.bench.results import read_result

    files = [Path(name) for name in arguments.bundles[1:]]
    if len(files) != 2:
        raise EngineError(f"{len(files)} results are given", "kittiwake bench compare A.json B.json")
    first, second = (read_result(file) for file in files)
    differences = compare(first, second)
    if arguments.json:
        found = [{**asdict(entry), "verdict": entry.verdict} for entry in differences]
        print(json.dumps({"differences": found, "changes": changes(first, second)}, indent=1))
        return 0
    for entry in differences:
        low, high = entry.interval
        print(
            f"{entry.label:40} {entry.stage:10} {entry.first_ms:9.4g} → {entry.second_ms:9.4g} ms  "
            f"x {entry.ratio:.3f} ({low:.3f} – {high:.3f})  {entry.verdict}"
        )
    for change in changes(first, second):
        print(f"differs: {change}")
    return 0


def _choices(arguments: argparse.Namespace) -> tuple[list[_Choice], list[_Choice], list[int]]:
    """What is asked for, what it is compared with, and for each of the former the number of its counterpart."""
    from kittiwake_runtime.bundle import Bundle

    bundles = [Bundle.open(name) for name in arguments.bundles]
    words = arguments.backend or ["auto"]
    backends = [found for word in words if (found := _backend(word)) is not None]
    if unknown := [word for word in words if _backend(word) is None]:
        raise EngineError(f"--backend is {unknown[0]!r}; expected DEVICE or DEVICE:PRECISION", "as cpu:int8")
    choices = [_Choice(bundle, *backend) for bundle in bundles for backend in backends]
    if arguments.vs is None:
        return choices, [], []
    if (backend := _backend(arguments.vs)) is not None:
        counterparts = [i // len(backends) for i in range(len(choices))]
        return choices, [_Choice(bundle, *backend) for bundle in bundles], counterparts
    counterparts = [i % len(backends) for i in range(len(choices))]
    other = Bundle.open(arguments.vs)
    return choices, [_Choice(other, *backend) for backend in backends], counterparts


def _backend(word: str) -> tuple[str, str] | None:
    """Device and precision; None when the word is no backend."""
    from kittiwake_runtime.engines.select import DEVICES
    from kittiwake_runtime.manifest import PRECISIONS

    device, _, precision = word.partition(":")
    known = device in DEVICES and (precision or "auto") in ("auto", *PRECISIONS)
    return (device, precision or "auto") if known else None


def _measure(
    choices: list[_Choice], arguments: argparse.Namespace, machine: Machine
) -> tuple[dict[str, Subject], dict[str, Samples]]:
    from contextlib import ExitStack

    from tqdm import tqdm

    from kittiwake_runtime.bench.measure import Contender, measure
    from kittiwake_runtime.bench.workload import find_workload
    from kittiwake_runtime.engines.select import open_engine

    with ExitStack() as stack:
        contenders, engines = [], {}
        for choice in choices:
            policy: Any = "degrade" if choice.device == "auto" else "require"
            engine = open_engine(choice.bundle, choice.device, choice.precision, policy, arguments.threads)
            stack.enter_context(engine)
            label = _label(engine)
            engines[label] = engine
            contenders.append(Contender(label, engine.infer, find_workload(choice.bundle), engine.infer_each))
        total = len(contenders) * arguments.samples
        with tqdm(total=total, desc="bench", unit="run", file=sys.stderr, disable=None) as bar:
            samples = measure(contenders, arguments.samples, bar.update)
        workloads = {contender.label: contender.workload.text for contender in contenders}
        subjects = {
            label: _subject(engine, arguments.threads, machine, workloads[label]) for label, engine in engines.items()
        }
    return subjects, samples


def _subject(engine: Engine, threads: int | None, machine: Machine, workload: str) -> Subject:
    from kittiwake_runtime.bench.cold_start import start_cold
    from kittiwake_runtime.bench.results import Subject

    bundle, report = engine.bundle, engine.report
    cold = start_cold(bundle.root, report.device, report.precision, threads)
    return Subject(bundle, report, threads or machine.cores, workload, cold)


def _label(engine: Engine) -> str:
    return f"{engine.bundle.name} {engine.report.device}:{engine.report.precision}"


def _ratios(samples: dict[str, Samples], counterparts: list[int]) -> list[tuple[str, str, str, Ratio]]:
    """Of every contender against its counterpart, by the stages that both have."""
    from kittiwake_runtime.bench.measure import ratio

    labels, found = list(samples), []
    for label, number in zip(labels, counterparts, strict=False):
        other = labels[len(counterparts) + number]
        shared = [stage for stage in samples[label].stages if stage in samples[other].stages]
        found += [(label, other, stage, ratio(samples[label], samples[other], stage)) for stage in shared]
    return found


def _write_plot(path: Path, samples: dict[str, Samples]) -> None:
    from kittiwake_runtime.bench.plot import tail_plot, write_plot

    stage = "end_to_end" if all("end_to_end" in taken.stages for taken in samples.values()) else "infer"
    seconds = {label: taken.stages[stage] for label, taken in samples.items()}
    write_plot(path, tail_plot(seconds, stage.replace("_", " ")))


def _words(arguments: argparse.Namespace) -> list[str]:
    """The command line again, as far as it decides what was measured."""
    words = list(arguments.bundles)
    for backend in arguments.backend:
        words += ["--backend", backend]
    for name in ("vs", "samples", "threads"):
        value = getattr(arguments, name)
        if value is not None:
            words += [f"--{name}", str(value)]
    return words


command = Command(
    name="bench",
    help="measure bundles on this machine: latency, percentiles, memory, start; compare runs",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
