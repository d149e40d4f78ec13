"""Training: makes the weights that export turns into bundles and the runtime runs."""

from __future__ import annotations
