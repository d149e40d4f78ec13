"""The descriptor's go, as `kittiwake bench` measures it: from a camera's frame to the scores of a square kilometre."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from ..bench.workload import Workload
from ..bundle import Bundle
from .camera import Camera
from .descriptor import colours_of, rotated_views
from .footprint import HEADINGS, cell_m, sample_m
from .orthorectify import orthorectify
from .scores import LevelScorer

_FRAME_PX = (1080, 1920)
_FOOTPRINT_M, _HEIGHT_M, _HFOV_DEG = 160.0, 150.0, 80.0
_ATTITUDE_RAD = (math.radians(3.0), math.radians(-4.0), 0.0)
_SIDE_M = 1000.0


def descriptor_workload(bundle: Bundle) -> Workload:
    """A frame of 1080p is orthorectified and turned to 36 headings; they are described; their descriptors are scored
    against the cells of a square kilometre, as in an update of `Localizer` from an unknown position."""
    rng = np.random.default_rng(0)
    coarse = rng.random((30, 54, 3), dtype=np.float32)
    frame = cv2.resize((255 * coarse).astype(np.uint8), _FRAME_PX[::-1], interpolation=cv2.INTER_CUBIC)
    camera = Camera.from_fov(_FRAME_PX[1], _FRAME_PX[0], _HFOV_DEG)
    headings = np.arange(HEADINGS, dtype=np.float64) * (2 * np.pi / HEADINGS)
    side = round(_SIDE_M / cell_m(_FOOTPRINT_M))
    dim = int(bundle.outputs[0].shape[1])
    cells = rng.integers(-127, 128, (side * side, dim)).astype(np.int8)

    def pre() -> dict[str, Any]:
        patch = orthorectify(frame, camera, _ATTITUDE_RAD, _HEIGHT_M, sample_m(_FOOTPRINT_M))
        return {"view": rotated_views(patch.image, headings, colours_of(bundle))}

    def post(outputs: Mapping[str, Any]) -> object:
        return LevelScorer(outputs["descriptor"][:, :, 0, 0], 128.0)(cells)

    text = f"1080p frame to {HEADINGS} views of 33 px, descriptors, scores of {side * side} cells (1 km2)"
    return Workload(text, pre, post)
