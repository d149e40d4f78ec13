"""The few sizes that the network, the index and the filter share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

DISC_PX = 33
"""Samples across the disc that the network sees: its receptive field."""

STRIDE_PX = 2
"""Samples from one cell of an index to the next."""

HALO_PX = 31
"""Samples beyond a tile that change its descriptors: 16 of receptive field, 15 of contrast normalization."""

HEADINGS = 36
"""Headings that a belief over a whole area keeps apart."""


def sample_m(footprint_m: float) -> float:
    """Ground sample of an index for a footprint (the disc's diameter), metres."""
    return footprint_m / DISC_PX


def cell_m(footprint_m: float) -> float:
    """Distance between neighbouring cells of an index, metres."""
    return STRIDE_PX * sample_m(footprint_m)


def disc_mask(size_px: int) -> npt.NDArray[np.bool_]:
    """``(size, size) bool``: pixels whose centre lies in the disc inscribed in the square."""
    axis = np.arange(size_px) - (size_px - 1) / 2
    return np.asarray(np.hypot(axis[:, None], axis[None, :]) <= size_px / 2)
