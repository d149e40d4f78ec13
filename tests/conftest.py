"""What all tests share."""

from __future__ import annotations

import signal

from hypothesis import settings

# Timings are no assertions: a busy machine must not fail a property.
settings.register_profile("kittiwake", deadline=None)
settings.load_profile("kittiwake")

# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
