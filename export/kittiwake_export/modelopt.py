"""Quantization by NVIDIA's modelopt, where it is installed: FP8, and INT8 with pairs where TensorRT likes them best.

It needs no GPU. What it may touch is chosen here (quantize.py): left to itself it quantizes arithmetic that is written
as convolutions or as products of activations, too.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Collection, Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from kittiwake_export.errors import ExportError
from kittiwake_export.quantize import Arrays

OPSET = 19
"""The first whose QuantizeLinear knows 8-bit floats; modelopt takes it for int8 too."""


def require(what: str) -> None:
    """Say at once that it is missing.

    Args:
        what: needs it.

    Raises:
        ExportError: it is not installed.
    """
    if find_spec("modelopt") is None:
        raise ExportError(
            f"{what} needs NVIDIA's modelopt, which is not installed",
            "pip install 'kittiwake-export[modelopt]'",
        )


def quantize(
    network: onnx.ModelProto, samples: Sequence[Arrays], precision: str, products: Collection[str]
) -> onnx.ModelProto:
    """The network with some of its products in another precision, at operator set 19.

    Args:
        network: in float32.
        samples: real inputs; the ranges of activations are those of least relative entropy over them.
        precision: "int8" (zero points 0) or "fp8" (E4M3).
        products: names of the nodes to quantize.

    Raises:
        ExportError: modelopt is not installed.
    """
    require(precision)
    from modelopt.onnx.quantization import quantize as by_modelopt
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The samples one after the other, whatever their sizes, as modelopt asks for them."""

        def __init__(self) -> None:
            self.rewind()

        def rewind(self) -> None:
            self._rest = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self._rest, None)
            return None if sample is None else dict(sample)

        def get_first(self) -> dict[str, np.ndarray]:
            return dict(samples[0])

    said = io.StringIO()  # bars for each tensor, and that there is no GPU
    with tempfile.TemporaryDirectory() as scratch, redirect_stdout(said), redirect_stderr(said):
        source, made = Path(scratch) / "model.onnx", Path(scratch) / "quantized.onnx"
        onnx.save(network, source)  # a copy: modelopt writes names into it
        by_modelopt(
            str(source),
            precision,
            calibration_data_reader=Reader(),
            calibration_method="entropy",
            calibration_eps=["cpu"],
            nodes_to_quantize=[f"{re.escape(name)}$" for name in products],  # it takes patterns
            high_precision_dtype="fp32",
            opset=OPSET,
            output_path=str(made),
            log_level="CRITICAL",
        )
        return onnx.load(made)
