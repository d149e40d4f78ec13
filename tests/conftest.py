"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Timings are no assertions: a busy machine must not fail a property.
settings.register_profile("kittiwake", deadline=None)
settings.load_profile("kittiwake")
