"""Writes the runtime's one-node network that scores a map's cells in integers.

    python tools/make_scores_onnx.py         # needs onnx; writes runtime/kittiwake_runtime/localization/scores.onnx

See `kittiwake_runtime/localization/scores.py`, which runs it.
"""

from __future__ import annotations

from pathlib import Path

from onnx import TensorProto, checker, helper

TARGET = Path(__file__).resolve().parents[1] / "runtime/kittiwake_runtime/localization/scores.onnx"
INPUTS = {
    "cells": (TensorProto.UINT8, ["cells", "D"]),
    "cells_scale": (TensorProto.FLOAT, []),
    "cells_zero": (TensorProto.UINT8, []),
    "queries": (TensorProto.INT8, ["D", "K"]),
    "queries_scale": (TensorProto.FLOAT, ["K"]),
    "queries_zero": (TensorProto.INT8, ["K"]),
    "levels_scale": (TensorProto.FLOAT, []),
    "levels_zero": (TensorProto.UINT8, []),
}


def main() -> None:
    """Write the file."""
    inputs = [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in INPUTS.items()]
    output = helper.make_tensor_value_info("levels", TensorProto.UINT8, ["cells", "K"])
    graph = helper.make_graph([helper.make_node("QLinearMatMul", list(INPUTS), ["levels"])], "scores", inputs, [output])
    # What the oldest ONNX Runtime of the runtime's range reads.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model, full_check=True)
    TARGET.write_bytes(model.SerializeToString())
    print(f"wrote {TARGET.name}, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
