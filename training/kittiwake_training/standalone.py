"""Runs a subcommand as a module (``python -m kittiwake_training.cli``), where nothing is installed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import KittiwakeError


def run_alone(command: Command, argv: Sequence[str] | None = None) -> int:
    """The command without the runtime's own command line: the same arguments, and errors without tracebacks.

    Args:
        command: to run.
        argv: the words after the module's name; the process's own when None.
    """
    parser = argparse.ArgumentParser(
        prog=f"kittiwake {command.name}",
        description=command.help,
        epilog=command.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_arguments(parser)
    try:
        return command.run(parser.parse_args(argv))
    except KittiwakeError as error:
        print(f"kittiwake: {error.message}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return 2
