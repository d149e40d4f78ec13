"""A map's int8 cells against a frame's queries, in integers.

The product of 1 M cells by 36 queries is most of an update over a whole map. Processors have instructions for it
(VNNI, SDOT) that numpy can't reach and ONNX Runtime can: one QLinearMatMul takes bytes and gives bytes, the levels
of the likelihood's table. Measured beside float32 on a core with AVX-512 VNNI: a fifth of the time.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

QUERY_MAX = 63
"""Queries have 7 bits: processors without VNNI add pairs of products in 16 bits, which 8 would overflow."""


class LevelScorer:
    """Scores cells against queries: ``levels = rint(queries @ cell + zero)``, cut to 0..255.

    The product is exact but for the queries' rounding to 7 bits, each by its own largest element, and `zero` is
    rounded to a whole level.

    Args:
        queries: ``(K, D) float32``, in levels.
        zero: level of a score of nothing, 0..255.

    Attributes:
        headings: K.
    """

    def __init__(self, queries: npt.NDArray[np.float32], zero: float) -> None:
        self.headings = len(queries)
        largest = np.maximum(np.abs(queries).max(axis=1), 1e-12)
        scale = (largest / QUERY_MAX).astype(np.float32)
        self._inputs = {
            "cells_scale": np.array(1, np.float32),
            "cells_zero": np.array(128, np.uint8),
            "queries": np.ascontiguousarray(np.rint(queries / scale[:, None]).astype(np.int8).T),
            "queries_scale": scale,
            "queries_zero": np.zeros(len(queries), np.int8),
            "levels_scale": np.array(1, np.float32),
            "levels_zero": np.array(np.clip(np.rint(zero), 0, 255), np.uint8),
        }

    def __call__(self, cells: npt.NDArray[np.int8], out: npt.NDArray[np.uint8] | None = None) -> npt.NDArray[np.uint8]:
        """``(n, D) int8`` cells to ``(K, n) uint8`` levels; in ``out``, whose rows may lie apart, if it is given."""
        # Unsigned by unsigned zero point 128: the fast kernels want the larger side unsigned.
        unsigned = np.bitwise_xor(np.ascontiguousarray(cells).view(np.uint8), np.uint8(128))
        (levels,) = _session().run(None, {"cells": unsigned, **self._inputs})
        return np.asarray(cv2.transpose(levels, out), np.uint8)


@lru_cache(maxsize=1)
def _session() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # The filter's own threads call it side by side.
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = Path(__file__).with_name("scores.onnx").read_bytes()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
