"""What a subcommand of `kittiwake` is, for the runtime's own and for those that other packages add."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Another package adds one through the entry-point group ``kittiwake.commands``; the entry point is named
    as the subcommand and points at a ``Command``. Its module should import nothing heavy at the top:
    ``kittiwake --help`` loads it for the line of help.

    Args:
        name: the word after ``kittiwake``.
        help: one line for the list of subcommands.
        add_arguments: declares the arguments on a parser; it may add subcommands of its own.
        run: does the work and returns the exit status; a :class:`KittiwakeError` becomes one line.
        epilog: examples, printed as they stand below the help.
    """

    name: str
    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    epilog: str = ""
