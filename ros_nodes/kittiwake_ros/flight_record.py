"""What of a flight outlives the moment: its track, and the last belief on disk."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from kittiwake_runtime.errors import FrameError, KittiwakeError
from kittiwake_runtime.localization.localizer import Localizer
from kittiwake_runtime.localization.outputs import Fix, write_track_csv, write_track_geojson

from . import state_file
from .settings import Settings

TRACK_LENGTH = 100_000


class FlightRecord:
    """Keeps every update of a flight, and the last believed pose on disk where a file is named for it.

    Attributes:
        started_from: what the localizer started from, in words.
        problem: why the file could not be read; empty when it could.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._track: deque[Fix] = deque(maxlen=TRACK_LENGTH)
        self.started_from = "nothing known"
        self.problem = ""

    def add(self, fix: Fix) -> None:
        """An update."""
        self._track.append(fix)

    def save_track(self) -> str:
        """Write ``track.csv`` and ``track.geojson``; returns where.

        Raises:
            FrameError: there is nothing to write, or the folder can't be written to.
        """
        track, folder = list(self._track), Path(self._settings.track_folder).absolute()
        if not track:
            raise FrameError("there is no track yet")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_track_csv(track, folder / "track.csv")
            write_track_geojson(track, folder / "track.geojson")
        except OSError as error:
            raise FrameError(f"{folder}: {error.strerror}", "set the parameter track_folder") from error
        return f"{len(track)} updates in {folder}"

    def keep(self, fix: Fix | None) -> None:
        """Write a believed pose to the file."""
        if self._settings.state_file and fix is not None and fix.is_believed:
            state_file.save(Path(self._settings.state_file), fix)

    def restore(self, localizer: Localizer, now_s: float) -> None:
        """Start a localizer from the file; one that can't be read is told of, and no more."""
        settings = self._settings
        if not settings.state_file:
            return
        try:
            kept = state_file.load(Path(settings.state_file))
        except KittiwakeError as error:
            self.problem = f"{error.message} ({error.hint})"
            return
        if kept is not None:
            limits = {"max_age_s": settings.state_max_age_s, "max_speed_m_s": settings.max_speed_m_s}
            self.started_from = state_file.restore(localizer, kept, now_s, **limits)
