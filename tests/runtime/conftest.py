"""A bundle that is small enough to check by hand: y = 2 x + 1 over float32 (N, 2, L)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from kittiwake_runtime.bundle import Bundle, Golden, write_bundle, write_golden


def _manifest() -> dict[str, Any]:
    tensor = {"dtype": "float32", "shape": ["N", 2, "L"], "units": "m", "meaning": "a length"}
    return {
        "name": "twice",
        "task": "test.affine",
        "licence": "Apache-2.0",
        "description": "Doubles and adds one.",
        "inputs": [{"name": "x", **tensor}],
        "outputs": [{"name": "y", **tensor}],
        "dims": {"N": {"min": 1, "typical": 1}, "L": {"min": 2, "typical": 4, "max": 64}},
        "preprocessing": {"scale": 2.0},
        "calibration": {},
        "variants": {"fp32": {"file": "model.onnx", "parity": {"y": 0.0}}},
        "tolerance": 1e-6,
        "training": {"data": [{"name": "none"}], "config": {}, "commit": "", "seed": 0},
        "metrics": [{"name": "error", "value": 0.0, "unit": "m", "split": "all", "n": 1}],
    }


def _network(opset: int = 18, operator: str = "Add", dtype: int = 1, node: str = "") -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, shape = onnx.helper, ["N", 2, "L"]
    constants = [helper.make_tensor(name, dtype, [], [value]) for name, value in (("two", 2.0), ("one", 1.0))]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["t"]), helper.make_node(operator, ["t", "one"], ["y"], node)],
        "twice",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
        constants,
    )
    opsets = [helper.make_opsetid("", opset)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _golden(offset: float = 0.0) -> bytes:
    x = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 2, 4)
    return write_golden((Golden({"x": x}, {"y": 2 * x + 1 + np.float32(offset)}),))


@pytest.fixture
def manifest() -> dict[str, Any]:
    """The fields of the manifest, to be changed by a test."""
    return _manifest()


@pytest.fixture
def network() -> Callable[..., bytes]:
    """Makes the ONNX network, also in ways that no backend takes."""
    return _network


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Bundle]:
    """Writes the bundle to ``tmp_path/models/twice``, with other files or golden values if told to."""

    def make(model: bytes | None = None, offset: float = 0.0, **changes: Any) -> Bundle:
        files = {"model.onnx": model or _network(), "golden.npz": _golden(offset), "card.md": b"# twice\n"}
        return write_bundle(tmp_path / "models" / "twice", {**_manifest(), **changes}, files)

    return make


class HostDevice:
    """CUDA's part, played by host memory; every call is noted in ``calls``."""

    def __init__(self) -> None:
        self.memory: dict[int, npt.NDArray[Any]] = {}
        self.pinned: dict[int, npt.NDArray[Any]] = {}
        self.calls: list[tuple[Any, ...]] = []
        self.streams: set[int] = set()
        self.depth = 0

    def __enter__(self) -> HostDevice:
        self.depth += 1
        return self

    def __exit__(self, *error: object) -> None:
        self.depth -= 1

    def allocate(self, size_bytes: int) -> int:
        assert self.depth
        array = np.full(size_bytes, 0xCD, np.uint8)
        self.memory[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, pointer: int) -> None:
        del self.memory[pointer]

    def allocate_pinned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        array = np.empty(shape, dtype)
        self.pinned[array.ctypes.data] = array
        return array

    def free_pinned(self, array: npt.NDArray[Any]) -> None:
        del self.pinned[array.ctypes.data]

    def copy_in(self, pointer: int, array: npt.NDArray[Any], stream: int) -> None:
        assert array.ctypes.data in self.pinned, "a copy that doesn't wait needs page-locked memory"
        self.calls.append(("in", stream))
        ctypes.memmove(pointer, array.ctypes.data, array.nbytes)

    def copy_out(self, array: npt.NDArray[Any], pointer: int, stream: int) -> None:
        assert array.ctypes.data in self.pinned
        self.calls.append(("out", stream))
        ctypes.memmove(array.ctypes.data, pointer, array.nbytes)

    def zero(self, pointer: int, size_bytes: int, stream: int) -> None:
        ctypes.memset(pointer, 0, size_bytes)

    def capture(self, work: Callable[[], None], stream: int) -> Callable[[], None]:
        self.calls.append(("capture", stream))
        work()
        return work

    def launch(self, graph: Callable[[], None], stream: int) -> None:
        self.calls.append(("launch", stream))
        graph()

    def free_graph(self, graph: object) -> None:
        self.calls.append(("free graph",))

    def new_stream(self) -> int:
        stream = 100 + len(self.streams) + sum(call == ("free stream",) for call in self.calls)
        self.streams.add(stream)
        return stream

    def free_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def order(self, first: int, then: int) -> None:
        if first != then:
            self.calls.append(("order", first, then))

    def mark(self, stream: int) -> int:
        return stream

    def wait_for(self, mark: int) -> None:
        self.calls.append(("wait", mark))

    def synchronize(self, stream: int) -> None:
        self.calls.append(("synchronize", stream))

    def owns(self, pointer: int) -> bool:
        return pointer != 0  # all of this machine's memory but nowhere


@pytest.fixture
def device() -> HostDevice:
    """CUDA's part, played by host memory."""
    return HostDevice()
