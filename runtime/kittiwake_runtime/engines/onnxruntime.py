"""ONNX Runtime: CPU, CUDA and its TensorRT provider, whichever the installed package has.

ONNX Runtime falls back to the CPU without an error when a provider doesn't start, so the providers of the
session are read back, and a device that isn't among them is reported as unavailable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime as ort

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines.base import Arrays, Engine, EngineReport
from kittiwake_runtime.engines.cuda import Device
from kittiwake_runtime.engines.errors import DeviceUnavailable
from kittiwake_runtime.engines.gpu import GpuEngine, Plan, Shapes
from kittiwake_runtime.engines.profiles import profile_sizes, shapes
from kittiwake_runtime.errors import EngineError
from kittiwake_runtime.machine import usable_cpus
from kittiwake_runtime.manifest import Variant

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt-ep": "TensorrtExecutionProvider",
}
# What a provider hands on to where it lacks an operator; the CPU stands behind them all.
_FALLBACKS = {"cpu": (), "cuda": ("cpu",), "tensorrt-ep": ("cuda", "cpu")}
# What a manifest may set: nothing that names a file, an address or another GPU.
_SETTABLE = {
    "cuda": {"cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "cudnn_conv1d_pad_to_nc1d", "use_tf32",
             "prefer_nhwc", "fuse_conv_bias", "enable_cuda_graph", "gpu_mem_limit", "arena_extend_strategy"},
    "tensorrt-ep": {"trt_builder_optimization_level", "trt_max_workspace_size", "trt_layer_norm_fp32_fallback",
                    "trt_cuda_graph_enable", "trt_context_memory_sharing_enable", "trt_auxiliary_streams"},
}  # fmt: skip
_GRAPH_OPTIONS = {"cuda": "enable_cuda_graph", "tensorrt-ep": "trt_cuda_graph_enable"}
_LARGEST_GRAPHS = 8  # ONNX Runtime keeps a captured graph as long as the session
_TENSORRT_FILE = ".tensorrt.onnx"  # of a network in TensorRT's form; on a CPU it is only tried
_MEMORY = "cuda"  # where bound inputs and outputs lie
_ERRORS_ONLY = 3


class OnnxRuntimeEngine(Engine):
    """A network in ONNX Runtime on the CPU.

    Args:
        bundle: the bundle.
        variant: which of its networks.
        threads: of the CPU, within an operator; None takes all that this process may use.
        reasons: for the report: what was tried before.

    Raises:
        EngineError: the network can't be loaded, or isn't the one that the manifest describes.
    """

    def __init__(self, bundle: Bundle, variant: Variant, threads: int | None, reasons: tuple[str, ...]) -> None:
        self._label = f"{bundle.file(variant.file)} on cpu"
        self._session: Any = _open(bundle, variant, "cpu", threads, {})
        super().__init__(bundle, _report(self._session, "cpu", variant, reasons))
        self._names = [spec.name for spec in bundle.outputs]

    def close(self) -> None:
        """Free the session."""
        super().close()
        self._session = None

    def _infer(self, inputs: Arrays) -> Arrays:
        try:
            return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))
        except Exception as error:  # ONNX Runtime's exceptions share no class of their own
            raise _named(self._label, error) from error


@dataclass
class _Opened:
    """A session on a GPU.

    Attributes:
        session: ONNX Runtime's.
        graphs_left: how many CUDA graphs it may still capture.
        reasons: why it isn't opened as it was to be.
    """

    session: Any
    graphs_left: int
    reasons: tuple[str, ...]


class OnnxRuntimeGpuEngine(GpuEngine):
    """A network in ONNX Runtime on a GPU, with all inputs and outputs bound; shapes that come again are replayed
    as a CUDA graph where ONNX Runtime can capture one.

    Inputs of the manifest's typical sizes have a session of their own: with all sizes known, what the network computes
    from them is computed once, and a third of its kernels is gone. Other shapes share a second one.

    It lives in the primary context of GPU 0, the only one that ONNX Runtime uses.

    Args:
        bundle: the bundle.
        variant: which of its networks.
        device: "cuda" or "tensorrt-ep".
        threads: of the CPU, for operators that the GPU lacks.
        reasons: for the report: what was tried before.

    Raises:
        DeviceUnavailable: this ONNX Runtime, or this machine, lacks the device.
        EngineError: the network can't be loaded, or isn't the one that the manifest describes.
    """

    def __init__(
        self, bundle: Bundle, variant: Variant, device: str, threads: int | None, reasons: tuple[str, ...]
    ) -> None:
        self._label = f"{bundle.file(variant.file)} on {device}"
        _check_provider(device)
        context = Device.open(primary=True)
        with context:
            stream = context.new_stream()
            options = _gpu_options(bundle, device, stream)
            self._open = partial(_open_with_graph, bundle, variant, device, threads, options)
            # TensorRT's provider has profiles for that.
            sizes = {name: size.typical for name, size in bundle.dims.items()} if device == "cuda" else {}
            self._typical = _typical_shapes(bundle) if sizes else None
            first = self._open(sizes)
            self._sessions = {bool(sizes): first}
        super().__init__(bundle, _report(first.session, device, variant, (*reasons, *first.reasons)), context, stream)

    def close(self) -> None:
        """Free the sessions."""
        super().close()
        self._sessions = {}

    def _make_plan(self, input_shapes: Shapes) -> Plan:
        is_typical = input_shapes == self._typical
        if is_typical not in self._sessions:
            self._sessions[is_typical] = self._open({})
        opened = self._sessions[is_typical]
        graph, opened.graphs_left = opened.graphs_left, max(opened.graphs_left - 1, 0)
        plan = _BoundPlan(self._device, self._dtypes, dict(input_shapes), opened.session, self._label, graph)
        plan.learn_output_shapes([spec.name for spec, _ in self._outputs], self._stream)
        return plan


class _BoundPlan(Plan):
    """One set of shapes, bound to buffers.

    Args:
        session: ONNX Runtime's.
        label: for messages.
        graph: a number of its own, for the CUDA graph; 0 for none.
    """

    def __init__(
        self,
        device: Device,
        dtypes: Mapping[str, np.dtype[Any]],
        shapes: Shapes,
        session: Any,
        label: str,
        graph: int,
    ) -> None:
        super().__init__(device, dtypes, shapes)
        self._session, self._label = session, label
        self._inputs = tuple(shapes)
        self._addresses: Mapping[str, int] = {}
        self._captured: Mapping[str, int] = {}
        self._binding: Any = None
        self._plain, self._graph = _run_options("-1"), _run_options(str(graph)) if graph else None

    def run(self, addresses: Mapping[str, int], stream: int) -> None:
        """Queue it on the session's stream, which is the engine's; the same addresses again run as a graph."""
        again = addresses == self._addresses
        if not again:
            self._bind(addresses)
        if again and self._graph is not None and self._captured in ({}, addresses):
            self._captured = self._addresses
            self._call(self._graph)
        else:
            self._call(self._plain)

    def learn_output_shapes(self, outputs: list[str], stream: int) -> None:
        """Run it once on zeros with outputs that ONNX Runtime allocates: what sizes they have only it knows."""
        binding = self._session.io_binding()
        for name in self._inputs:
            size_bytes = int(np.prod(self.shapes[name])) * self._dtypes[name].itemsize
            self._device.zero(self.address(name), size_bytes, stream)
            self._bind_input(binding, name, self.address(name))
        for name in outputs:
            binding.bind_output(name, _MEMORY, 0)
        self._binding = binding
        self._call(self._plain)
        self._device.synchronize(stream)
        found = zip(outputs, binding.get_outputs(), strict=True)
        self.shapes |= {name: tuple(value.shape()) for name, value in found}

    def _bind(self, addresses: Mapping[str, int]) -> None:
        self._binding = self._session.io_binding()
        for name, address in addresses.items():
            if name in self._inputs:
                self._bind_input(self._binding, name, address)
            else:
                dtype = self._dtypes[name].type
                self._binding.bind_output(name, _MEMORY, 0, dtype, self.shapes[name], address)
        self._addresses = dict(addresses)

    def _bind_input(self, binding: Any, name: str, address: int) -> None:
        binding.bind_input(name, _MEMORY, 0, self._dtypes[name].type, self.shapes[name], address)

    def _call(self, options: Any) -> None:
        try:
            self._session.run_with_iobinding(self._binding, options)
        except Exception as error:
            raise _named(self._label, error) from error


def _typical_shapes(bundle: Bundle) -> Shapes:
    """Of the inputs, by name, as the manifest has them."""
    sizes = profile_sizes(bundle)
    return {spec.name: shapes(spec, sizes)[1] for spec in bundle.inputs}


def _open_with_graph(
    bundle: Bundle,
    variant: Variant,
    device: str,
    threads: int | None,
    options: dict[str, dict[str, str]],
    sizes: Mapping[str, int],
) -> _Opened:
    """A session that captures graphs where it was asked to and can.

    With channels last some sizes may be computed on the GPU and fetched, which no graph can; a graph gains more than
    they do. Without them cuDNN fuses no float16.

    Args:
        sizes: of the manifest's dims, those that the session is for; none when it is for all.
    """
    graph, why = _GRAPH_OPTIONS[device], ""
    for changed in ({}, {"prefer_nhwc": "0", "fuse_conv_bias": "0"}):
        tried = options | {"cuda": options["cuda"] | changed}
        try:
            session = _open(bundle, variant, device, threads, tried, sizes)
        except _NoGraph as error:
            why = why or error.message
            continue
        reasons = (f"without channels last, for a CUDA graph: {why}",) if why else ()
        return _Opened(session, _LARGEST_GRAPHS if _is_on(tried[device][graph]) else 0, reasons)
    without = options | {device: options[device] | {graph: "0"}}
    return _Opened(_open(bundle, variant, device, threads, without, sizes), 0, (f"no CUDA graph: {why}",))


class _NoGraph(EngineError):
    """ONNX Runtime can't capture this network as a CUDA graph."""


def _run_options(graph: str) -> Any:
    options = ort.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")  # the engine waits, on its stream
    return options


def _gpu_options(bundle: Bundle, device: str, stream: int) -> dict[str, dict[str, str]]:
    """The options of each GPU provider: ours, then the manifest's."""
    common = {"device_id": "0", "user_compute_stream": str(stream)}
    # Convolutions with channels last take two thirds of the time on tensor cores, and no longer elsewhere.
    cuda = {"use_tf32": "0", "prefer_nhwc": "1", "enable_cuda_graph": "1" if device == "cuda" else "0"}
    options = {"cuda": {**common, **cuda}}
    if device == "tensorrt-ep":
        options[device] = {**common, "trt_cuda_graph_enable": "1", **_tensorrt_options(bundle)}
    for name, given in bundle.provider_options.items():
        allowed = _SETTABLE.get(name, set())
        if refused := sorted(given.keys() - allowed):
            raise EngineError(
                f"{bundle.name}: its manifest sets {refused[0]!r} for {name!r}, which a bundle may not",
                f"it may set {', '.join(sorted(allowed))}" if allowed else f"devices are {', '.join(_SETTABLE)}",
            )
        if name in options:
            options[name] |= {
                key: str(int(value) if isinstance(value, bool) else value) for key, value in given.items()
            }
    return options


def _tensorrt_options(bundle: Bundle) -> dict[str, str]:
    """The profile, and where the provider keeps the engines that it builds by itself."""
    from kittiwake_runtime.engines.cache import cache_root

    folder = cache_root() / bundle.name / "onnxruntime"
    folder.mkdir(parents=True, exist_ok=True)
    sizes = profile_sizes(bundle)
    least, typical, largest = zip(*(shapes(spec, sizes) for spec in bundle.inputs), strict=True)
    options = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(folder)}
    for which, found in (("min", least), ("opt", typical), ("max", largest)):
        words = [f"{s.name}:{'x'.join(map(str, shape))}" for s, shape in zip(bundle.inputs, found, strict=True)]
        options[f"trt_profile_{which}_shapes"] = ",".join(words)
    return options


def _is_on(value: str) -> bool:
    return value.lower() in ("1", "true")


def _check_provider(device: str) -> None:
    if PROVIDERS[device] not in ort.get_available_providers():
        raise DeviceUnavailable(
            f"onnxruntime {ort.__version__} has no {PROVIDERS[device]}",
            "`kittiwake doctor` says which package brings it to this machine",
        )


def _open(
    bundle: Bundle,
    variant: Variant,
    device: str,
    threads: int | None,
    options: Mapping[str, Mapping[str, str]],
    sizes: Mapping[str, int] | None = None,
) -> Any:
    """A session that really runs on the device, with the inputs and outputs of the manifest; see `_open_with_graph`."""
    path, provider = bundle.file(variant.file), PROVIDERS[device]
    if device != "cpu" and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # finds CUDA and cuDNN where pip has put them
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads or usable_cpus()
    settings.log_severity_level = _ERRORS_ONLY
    # Between runs ONNX Runtime's threads would spin for the next, on the cores that the localizer's filter computes on.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    for name, size in (sizes or {}).items():
        settings.add_free_dimension_override_by_name(name, size)
    # More makes ONNX Runtime 1.32 compute fp8 as something else on a CPU, without a word, and saturates TensorRT's int8
    # (signed activations, weights of 8 bits) on x86 without VNNI.
    if variant.precision == "fp8" or variant.file.endswith(_TENSORRT_FILE):
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    wanted = [(PROVIDERS[name], dict(options.get(name, {}))) for name in (device, *_FALLBACKS[device])]
    try:
        session = ort.InferenceSession(str(path), settings, providers=wanted)
    except Exception as error:
        named = _named(f"{path} on {device}", error)
        if "graph capture" in named.message:
            raise _NoGraph(named.message) from error
        raise named from error
    if provider not in session.get_providers():
        raise DeviceUnavailable(
            f"{provider} did not start: ONNX Runtime fell back to {', '.join(session.get_providers())}",
            "check the driver, CUDA and cuDNN with `kittiwake doctor`",
        )
    for side, nodes, specs in (
        ("inputs", session.get_inputs(), bundle.inputs),
        ("outputs", session.get_outputs(), bundle.outputs),
    ):
        found = {node.name: _dtype(node.type) for node in nodes}
        promised = {spec.name: spec.dtype for spec in specs}
        if found != promised:
            raise EngineError(f"{path}: its {side} are {found}; the manifest says {promised}")
    return session


def _report(session: Any, device: str, variant: Variant, reasons: tuple[str, ...]) -> EngineReport:
    return EngineReport(
        backend="onnxruntime",
        device=device,
        precision=variant.precision,
        file=variant.file,
        providers=tuple(session.get_providers()),
        reasons=reasons,
    )


def _dtype(kind: str) -> str:
    """numpy's name of a type that ONNX Runtime writes as "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(name, name)


_HINTS = (
    ("InvalidProtobuf", "the file is not an ONNX network, or is damaged; export the bundle again"),
    ("No Op registered", "the network uses an operator that onnxruntime doesn't know"),
    ("is not a registered function/op", "the network uses an operator that onnxruntime doesn't know"),
    ("opset", "bundles are written with opset 18; export it again, or update onnxruntime"),
    ("IR version", "bundles are written with IR 10; export it again, or update onnxruntime"),
    ("NotImplemented", "this onnxruntime lacks the operator on this device; another device may have it"),
    ("allocat", "there is not enough memory; use a smaller batch or another device"),
)


def _named(label: str, error: Exception) -> EngineError:
    """ONNX Runtime's error with the network's name, and a hint where the cause is a known one."""
    text = f"{type(error).__name__}: {error}"
    hint = next((hint for mark, hint in _HINTS if mark.lower() in text.lower()), "")
    return EngineError(f"{label}: {' '.join(text.split())}", hint)
