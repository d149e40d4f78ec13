"""The command line: `kittiwake SUBCOMMAND …`.

A subcommand is a :class:`~kittiwake_runtime.command.Command`. The runtime's own are in the table below and
are imported only when they are run; other packages add theirs through the entry-point group
``kittiwake.commands``. Whatever goes wrong is one line on stderr, with a hint, and an exit status:

    0 done · 1 it ran, and found something wrong · 2 wrong usage or input · 70 a defect · 130 interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NoReturn

from kittiwake_runtime import __version__
from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import KittiwakeError

EXIT_USER_ERROR = 2
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

GROUP = "kittiwake.commands"

_EXAMPLES = """\
examples:
  kittiwake doctor                      what this machine has, and what it still needs
  kittiwake demo                        fly over a made-up area and find the way, with a report
  kittiwake map build --help            how to make a map index from an orthophoto
  kittiwake bundle info                 the models found on this machine

Errors are one line with a hint; `kittiwake --traceback …` or KITTIWAKE_TRACEBACK=1 shows where they arose.
"""


@dataclass(frozen=True)
class _Source:
    """Where a subcommand comes from; ``load`` imports it."""

    help: str
    module: str = ""
    entry_point: EntryPoint | None = None

    def load(self) -> Command:
        found = self.entry_point.load() if self.entry_point else import_module(self.module).command
        if not isinstance(found, Command):
            raise TypeError(f"{self.entry_point or self.module} is no kittiwake_runtime.command.Command")
        return found


_BUILT_IN = {
    "demo": _Source("fly over a procedural area from an unknown start, and write a report",
                    "kittiwake_runtime.localization.demo"),
    "map": _Source("build, inspect, preview and verify map indexes",
                   "kittiwake_runtime.localization.map_commands"),
    "locate": _Source("find a flight on a map from its images",
                      "kittiwake_runtime.localization.locate_command"),
    "bundle": _Source("inspect and verify model bundles", "kittiwake_runtime.bundle_commands"),
    "engine": _Source("build TensorRT engines, and list, verify and clean those that were built",
                      "kittiwake_runtime.engine_commands"),
    "bench": _Source("measure bundles on this machine: latency, percentiles, memory, start; compare runs",
                     "kittiwake_runtime.bench_command"),
    "doctor": _Source("what this machine has, what is missing, and the command that mends it",
                      "kittiwake_runtime.doctor"),
}  # fmt: skip

_ELSEWHERE = {"train": "kittiwake-training", "export": "kittiwake-export"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; ``None`` takes it from ``sys.argv``).

    Returns:
        The exit status. ``SystemExit`` is raised only by ``--help``, ``--version`` and wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in words or os.environ.get("KITTIWAKE_TRACEBACK", "") not in ("", "0")
    try:
        status = _run([word for word in words if word != "--traceback"])
        sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`, a pager) has gone; without this Python complains once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        if with_traceback:
            traceback.print_exc()
        return _report(error)


def _run(words: list[str]) -> int:
    name = next((word for word in words if not word.startswith("-")), "")
    sources = _sources(name)
    parser = _Parser(
        prog="kittiwake",
        description="Runs neural models on edge devices, and what is built on them.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("--version", action="version", version=f"kittiwake {__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error arose")
    subparsers = parser.add_subparsers(title="subcommands", metavar="SUBCOMMAND", required=True)
    for key, source in sources.items():
        if key != name:
            subparsers.add_parser(key, help=source.help)
            continue
        command = source.load()
        chosen = subparsers.add_parser(
            name, help=command.help, description=_sentence(command.help), epilog=command.epilog
        )
        command.add_arguments(chosen)
        chosen.set_defaults(kittiwake_run=command.run)
    if not words:
        parser.print_help(sys.stderr)
        return EXIT_USER_ERROR
    arguments = parser.parse_args(words)
    return int(arguments.kittiwake_run(arguments))


def _sources(name: str) -> dict[str, _Source]:
    """The subcommands that a command line naming ``name`` (or none, for the general help) is about."""
    sources = dict(_BUILT_IN)
    if name in sources:
        return sources
    for entry_point in entry_points(group=GROUP):
        source = _Source("", entry_point=entry_point)
        if not name:
            source = replace(source, help=_help_line(source))
        sources.setdefault(entry_point.name, source)
    if name in _ELSEWHERE and name not in sources:
        package = _ELSEWHERE[name]
        raise KittiwakeError(
            f"`{name}` comes with the package {package}, which is not installed",
            f"in a clone: pip install ./{package.removeprefix('kittiwake-')}",
        )
    return sources


def _help_line(source: _Source) -> str:
    try:
        line = source.load().help
    except Exception as error:  # one broken extension must not take `kittiwake --help` away
        line = f"(can't be loaded: {_one_line(error)})"
    return line.replace("%", "%%")


def _report(error: Exception) -> int:
    """Print an error as one line and a hint; return the exit status."""
    if isinstance(error, KittiwakeError):
        message, hint, status = _one_line(error.message), error.hint, EXIT_USER_ERROR
    elif isinstance(error, ModuleNotFoundError) and error.name:
        message = f"the Python package `{error.name.partition('.')[0]}` is not installed"
        hint = "`kittiwake doctor` lists what is missing and the command that installs it"
        status = EXIT_USER_ERROR
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        message, hint, status = f"{error.filename}: {error.strerror}", "", EXIT_USER_ERROR
    else:
        message = f"unexpected {type(error).__name__}: {_one_line(error)}"
        hint = "this is a defect; run it again as `kittiwake --traceback …` and report what it prints"
        status = EXIT_DEFECT
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return status


def _one_line(text: object) -> str:
    return " ".join(str(text).split())


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


class _Parser(argparse.ArgumentParser):
    """argparse, with errors in the form of all others and epilogs printed as they are written."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}\nhint: see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(EXIT_USER_ERROR)
