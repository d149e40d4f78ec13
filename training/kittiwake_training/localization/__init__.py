"""The descriptor of the GNSS-free localizer: data, model, losses, training, evaluation."""

from __future__ import annotations
