"""From a ground view to unit vectors: how a patch is prepared, rotated and described.

A *view* is what the network takes: ``(2, H, W) float32``, channel 0 the grey value in [0, 1] times the mask,
channel 1 the mask (1 where the ground was seen). The same array describes a patch of 33 px (one vector) and a
tile of a map (a dense field of vectors); contrast is normalized inside the network's own graph.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ..errors import FrameError
from .footprint import DISC_PX, disc_mask

Float32 = npt.NDArray[np.float32]

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey: ITU-R BT.601, as OpenCV's."""


class Descriptor:
    """Describes views with an open engine of the task ``localization.descriptor``.

    Args:
        engine: an open `kittiwake_runtime.Engine`; it stays the caller's to close.

    Attributes:
        dim: length D of a descriptor.
        bundle_sha256: hash of the bundle's manifest; an index remembers it.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.bundle_sha256: str = engine.bundle.sha256
        self.dim = int(engine.bundle.outputs[0].shape[1])

    def describe(self, views: Float32) -> Float32:
        """``(N, 2, H, W) float32`` views to ``(N, D, h, w) float32`` unit vectors, h = (H - 33) // 2 + 1."""
        output: Float32 = self.engine.infer({"view": views})["descriptor"]
        return output


def rotated_views(patch: Float32, headings_rad: npt.NDArray[np.float64]) -> Float32:
    """The views of one patch for several assumed headings, turned so that north is up.

    Args:
        patch: ``(33, 33) float32`` grey in [0, 1], NaN where the ground was not seen; up is the vehicle's
            forward axis, right its right-hand side.
        headings_rad: ``(K,)`` directions of the forward axis, radians counter-clockwise from grid east.

    Returns:
        ``(K, 2, 33, 33) float32`` views, cut to the disc of the footprint.

    Raises:
        FrameError: the patch has another shape, or no pixel of it was seen.
    """
    if patch.shape != (DISC_PX, DISC_PX):
        raise FrameError(
            f"a patch is {patch.shape}, expected ({DISC_PX}, {DISC_PX})",
            "make it with orthorectify(..., size_px=33)",
        )
    seen = np.isfinite(patch).astype(np.float32)
    if not seen.any():
        raise FrameError("a patch has no seen pixel", "skip the frame, or check the camera's mount")
    grey = np.where(seen > 0, patch, 0).astype(np.float32)
    centre = (DISC_PX - 1) / 2
    disc = disc_mask(DISC_PX)
    views = np.zeros((len(headings_rad), 2, DISC_PX, DISC_PX), np.float32)
    for view, heading in zip(views, headings_rad, strict=True):
        # Where a north-up pixel (u east, v south of the centre) lies in the patch, whose up is `heading`.
        s, c = np.sin(heading), np.cos(heading)
        to_patch = np.array([[s, c, centre * (1 - s - c)], [-c, s, centre * (1 + c - s)]])
        turned_grey = _warp(grey, to_patch)
        turned_seen = _warp(seen, to_patch)
        mask = (turned_seen > 0.5) & disc
        view[0][mask] = (turned_grey / np.maximum(turned_seen, 1e-6))[mask]
        view[1] = mask
    return views


def _warp(image: Float32, to_patch: npt.NDArray[np.float64]) -> Float32:
    size = (image.shape[1], image.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, to_patch, size, flags=flags), np.float32)
