"""Builds a TensorRT engine from a bundle's network: a strongly typed one, so its precisions are those of the graph.

The cache runs this file in a process of its own (``python -m kittiwake_runtime.engines.tensorrt_build``), because a
build that runs out of memory takes its process with it. The order comes as JSON on stdin; lines of JSON go to
stdout: ``{"progress": share, "phase": text}``, and at the end ``{"layers": …}`` or ``{"error": …, "hint": …}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines import tensorrt_library
from kittiwake_runtime.engines.profiles import shapes
from kittiwake_runtime.engines.tensorrt_library import Library, named
from kittiwake_runtime.errors import EngineError, KittiwakeError
from kittiwake_runtime.manifest import DimRange

Progress = Callable[[float, str], None]
Layers = dict[str, dict[str, int]]


@dataclass(frozen=True)
class BuildOrder:
    """What to build.

    Args:
        bundle: its folder.
        file: which of its networks.
        sizes: the range of every dynamic dimension of the inputs.
        sm: the compute capability to build for ahead of time, as "8.6"; empty for this machine's GPU.
        tf32: whether float32 products may be rounded to TF32's ten bits.
        workspace_mib: the memory that a kernel may use beside its arguments; None leaves it to TensorRT.
    """

    bundle: str
    file: str
    sizes: dict[str, DimRange]
    sm: str = ""
    tf32: bool = False
    workspace_mib: int | None = None


def build(order: BuildOrder, progress: Progress) -> tuple[bytes, Layers]:
    """Build an engine.

    Args:
        order: what to build.
        progress: told the share that is done, 0 … 1, and what is being done.

    Returns:
        The serialised engine; and how many layers of each kind of operator give which type, as
        ``{"CONVOLUTION": {"HALF": 20}}``: in a strongly typed network the types are part of the graph.

    Raises:
        EngineError: the network can't be parsed (with the node), or no engine can be built.
    """
    library = tensorrt_library.load()
    trt, logger = library.trt, tensorrt_library.make_logger(library)
    bundle = Bundle.open(order.bundle)
    label = f"{bundle.file(order.file)} with {library.name} {library.version}"
    try:
        builder = trt.Builder(logger)
    except TypeError as error:  # what the bindings make of a null pointer, as where there is no GPU
        raise named(label, logger.problems) from error
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(bundle.file(order.file))):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        raise _refused(label, errors, logger.problems)
    config = _configure(library, builder, bundle, order)
    config.progress_monitor = _monitor(library, progress)
    layers = _layers(network)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise named(label, logger.problems)
    return bytes(plan), layers


def _configure(library: Library, builder: Any, bundle: Bundle, order: BuildOrder) -> Any:
    trt, config = library.trt, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector can tell precisions
    if not order.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if order.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order.workspace_mib << 20)
    if order.sm:
        _aim(library, config, order.sm)
    profile = builder.create_optimization_profile()
    for spec in bundle.inputs:
        profile.set_shape(spec.name, *shapes(spec, order.sizes))
    config.add_optimization_profile(profile)
    return config


def _aim(library: Library, config: Any, sm: str) -> None:
    """Have the engine built for a compute capability that this machine's GPU need not have."""
    if not library.ahead_of_time:
        raise EngineError(
            f"{library.name} builds for this machine's own GPU only, not for SM {sm}",
            "TensorRT-RTX builds ahead of time: pip install 'kittiwake-runtime[tensorrt-rtx]'",
        )
    known = library.trt.ComputeCapability.__members__
    name = f"SM{sm.replace('.', '')}"
    if name not in known:
        offered = ", ".join(member for member in known if member.startswith("SM"))
        raise EngineError(f"{library.name} {library.version} can't build for SM {sm}; it can for {offered}")
    config.num_compute_capabilities = 1
    config.set_compute_capability(known[name], 0)


def _refused(label: str, errors: list[Any], problems: list[str]) -> EngineError:
    """What the parser refuses, with the node: the operator and its name in the graph."""
    if not errors or not errors[0].node_operator():
        return named(label, [error.desc() for error in errors] or problems)
    nodes = [f"{error.node_operator()} (node {error.node_name() or error.node()}): {error.desc()}" for error in errors]
    error = named(label, nodes)
    error.hint = error.hint or "export the network without this operator, or run the bundle with ONNX Runtime"
    return error


def _layers(network: Any) -> Layers:
    kinds: dict[str, Counter[str]] = {}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kinds.setdefault(layer.type.name, Counter())[layer.get_output_type(0).name] += 1
    return {kind: dict(sorted(types.items())) for kind, types in sorted(kinds.items())}


def _monitor(library: Library, progress: Progress) -> Any:
    """Reports the outermost phase and its share; phases within it only say their names."""

    class Monitor(library.trt.IProgressMonitor):  # type: ignore[name-defined, misc]  # a base class that is known only now
        def __init__(self) -> None:
            super().__init__()
            self._top, self._steps, self._done = "", 1, 0

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._top, self._steps, self._done = phase, max(steps, 1), 0
            progress(self._done / self._steps, phase)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase == self._top:
                self._done = step + 1
                progress(self._done / self._steps, phase)
            return True

        def phase_finish(self, phase: str) -> None:
            if phase == self._top:
                progress(1.0, phase)

    return Monitor()


def order_to_json(order: BuildOrder, engine: Path) -> str:
    """The order for the child process, with the file that it writes."""
    sizes = {name: [dim.min, dim.typical, dim.max] for name, dim in order.sizes.items()}
    return json.dumps({**vars(order), "sizes": sizes, "engine": str(engine)})


def main() -> int:
    """The child process: build what stdin orders, write it, and answer on stdout."""

    def say(message: dict[str, Any]) -> None:
        try:
            os.write(answers, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:  # whoever ordered it is gone
            os._exit(1)

    answers = os.dup(1)
    os.dup2(2, 1)  # libraries that print must not break the protocol
    words = json.load(sys.stdin)
    path = words.pop("engine")
    try:
        order = BuildOrder(**{**words, "sizes": {name: DimRange(*dim) for name, dim in words["sizes"].items()}})
        plan, layers = build(order, lambda share, phase: say({"progress": share, "phase": phase}))
        with open(path, "wb") as file:
            file.write(plan)
            file.flush()
            os.fsync(file.fileno())
    except KittiwakeError as error:
        say({"error": error.message, "hint": error.hint, "kind": type(error).__name__})
        return 1
    except OSError as error:
        say({"error": f"{path}: {error.strerror}", "hint": "", "kind": "OSError", "errno": error.errno})
        return 1
    except MemoryError:
        say({"error": "the machine has too little memory for the build", "hint": "", "kind": "NoMemory"})
        return 1
    say({"layers": layers})
    return 0


if __name__ == "__main__":
    sys.exit(main())
