"""The errors of the runtime: one family, each with what went wrong and what to do about it."""

from __future__ import annotations


class KittiwakeError(Exception):
    """Something a user can mend.

    Args:
        message: what was wrong, where, and what was expected, in one line.
        hint: what to do about it (a command, a setting); may be empty.

    The command line prints ``message`` and ``hint`` without a traceback and exits with 2.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BundleError(KittiwakeError):
    """A model bundle is missing, malformed, altered or of another format."""


class EngineError(KittiwakeError):
    """A bundle can't be run as asked: backend, device, precision, shape or dtype."""


class MapError(KittiwakeError):
    """A map or a map index can't be read, built or used."""


class FrameError(KittiwakeError):
    """A frame, a camera description, an attitude, a height or an odometry sample can't be used."""
