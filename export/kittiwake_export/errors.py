"""The errors of the export package."""

from __future__ import annotations

from kittiwake_runtime.errors import KittiwakeError


class ExportError(KittiwakeError):
    """A checkpoint can't become a bundle: it doesn't trace, or the result differs from the reference."""
