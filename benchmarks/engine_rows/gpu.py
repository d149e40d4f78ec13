"""On an NVIDIA GPU: our engine against torch's CUDA graph, copies that overlap with computing, arrays left there.

It needs torch, onnx, onnxscript, onnxslim, onnxruntime-gpu and cuda-bindings, and nothing of what the other rows need.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch  # before onnxruntime: it loads cuDNN and cuBLAS
from results import Figure
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from kittiwake_export.export import export
from kittiwake_export.half import to_half
from kittiwake_runtime.bench.measure import Contender, Samples, measure, ratio
from kittiwake_runtime.bench.statistics import median_interval
from kittiwake_runtime.bench.workload import Workload
from kittiwake_runtime.bundle import Bundle, write_bundle
from kittiwake_runtime.engines.base import Engine
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.machine import describe
from kittiwake_training.checkpoint import load_checkpoint
from kittiwake_training.efficientnet_lite0 import MEAN, SCALE, SIZE_PX, EfficientNetLite0
from kittiwake_training.localization.model import ConvNorm, DescriptorCNN

CHECKPOINT = Path(__file__).resolve().parents[2] / "models" / "checkpoints" / "localization-descriptor"
SAMPLES = 500
BATCHES = {"gpu.b1_vs_torch_graph": 1, "gpu.k36_vs_torch_graph": 36}
FRAME_PX, CROP_PX = (1080, 1920), 945
"""The preprocessing's crop is 224 / 256 of the shorter side."""
FRAMES, ROUNDS = 300, 9
_ALONE = Workload("arrays on the GPU", dict, is_whole=False)


def measure_gpu() -> list[Figure]:
    """All figures of this machine's GPU."""
    with tempfile.TemporaryDirectory() as scratch:
        return [*_against_torch(Path(scratch)), *_frames(Path(scratch))]


class FrameClassifier(nn.Module):
    """EfficientNet-Lite0 with its preprocessing in the graph: from a camera's bytes to logits."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = EfficientNetLite0()

    def forward(self, frame: Tensor) -> Tensor:
        """(N, 945, 945, 3) uint8 RGB, the middle of a 1080p frame -> (N, 1000) float32."""
        image = (frame.permute(0, 3, 1, 2).float() - MEAN) / SCALE
        small = functional.avg_pool2d(image, CROP_PX // SIZE_PX)
        return self.network(functional.interpolate(small, (SIZE_PX, SIZE_PX), mode="bilinear"))


def _against_torch(scratch: Path) -> list[Figure]:
    bundle = descriptor_in_half(scratch)
    figures = []
    with open_engine(bundle, "cuda", "fp16", "require") as engine, torch.inference_mode():
        for id_, batch in BATCHES.items():
            view = torch.rand(batch, bundle.inputs[0].shape[1], 33, 33, device="cuda")
            described = torch.empty(batch, bundle.outputs[0].shape[1], 1, 1, device="cuda")
            model = torch_descriptor().cuda()
            replay, eager = _captured(model, view), _eager(model, view)
            ours = _queued(engine, {"view": view}, {"descriptor": described})
            contenders = [Contender("engine", ours, _ALONE), Contender("graph", replay, _ALONE),
                          Contender("eager", eager, _ALONE)]  # fmt: skip
            taken = measure(contenders, SAMPLES)
            found = ratio(taken["engine"], taken["graph"], "infer")
            note = (
                f"batch {batch}, fp16: {_ms(taken['engine'])} ms, torch graph {_ms(taken['graph'])}, "
                f"torch eager {_ms(taken['eager'])}; from call to result on the GPU; torch in channels last, batch "
                f"normalization folded, cudnn.benchmark; {_reasons(engine)}"
            )
            figures.append(Figure(id_, found.value, "x", found.rounds, found.interval, "< 1", data=_gpu(), note=note))
    return figures


def _frames(scratch: Path) -> list[Figure]:
    whole = np.random.default_rng(0).integers(0, 256, (8, *FRAME_PX, 3), dtype=np.uint8)
    top, left = ((size - CROP_PX) // 2 for size in FRAME_PX)
    frames = [frame[None, top : top + CROP_PX, left : left + CROP_PX] for frame in whole]
    with open_engine(frame_bundle(scratch), "cuda", "fp16", "require") as engine:
        on_gpu = torch.from_numpy(np.ascontiguousarray(frames[0])).cuda()
        logits = torch.empty(1, 1000, device="cuda")
        return [_overlap(engine, frames, on_gpu, logits), _zero_copy(engine, frames[0], on_gpu, logits)]


def _overlap(engine: Engine, frames: list[np.ndarray], on_gpu: Tensor, logits: Tensor) -> Figure:
    stream = torch.cuda.Stream()

    def compute() -> None:
        for _ in range(FRAMES):
            engine.infer_gpu({"frame": on_gpu}, {"logits": logits}, stream)
        stream.synchronize()

    def streamed() -> None:
        for _ in engine.infer_each({"frame": frames[i % len(frames)]} for i in range(FRAMES)):
            pass

    compute()
    streamed()
    rounds = [(_per_s(compute), _per_s(streamed)) for _ in range(ROUNDS)]
    shares = sorted(100.0 * streaming / computing for computing, streaming in rounds)
    computing, streaming = (median(values) for values in zip(*rounds, strict=True))
    note = (
        f"{FRAMES} frames a round, batch 1, fp16: {streaming:.0f} of {computing:.0f} a second; the host cuts "
        f"{CROP_PX} px out of the middle of a 1080p frame, the graph scales and normalizes; {_reasons(engine)}"
    )
    interval = median_interval(shares)
    return Figure("gpu.overlap", median(shares), "%", ROUNDS, interval, ">= 90", data=_gpu(), note=note)


def _zero_copy(engine: Engine, frame: np.ndarray, on_gpu: Tensor, logits: Tensor) -> Figure:
    pinned, answer = torch.from_numpy(np.ascontiguousarray(frame)).pin_memory(), logits.cpu().pin_memory()

    def transfer(inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        on_gpu.copy_(pinned, non_blocking=True)
        answer.copy_(logits, non_blocking=True)
        torch.cuda.synchronize()
        return {}

    taken = measure(
        [
            Contender("host", lambda inputs: engine.infer({"frame": frame}), _ALONE),
            Contender("gpu", lambda inputs: engine.infer_gpu({"frame": on_gpu}, {"logits": logits}), _ALONE),
            Contender("transfers", transfer, _ALONE),
        ],
        SAMPLES,
    )
    host, gpu, transfers = (np.array(taken[name].stages["infer"]) * 1e3 for name in ("host", "gpu", "transfers"))
    saved = sorted((host - gpu).tolist())
    note = (
        f"host arrays {np.median(host):.3f} ms less {np.median(gpu):.3f} ms on the GPU; baseline: the same bytes "
        "copied to the GPU and back from page-locked memory"
    )
    return Figure("gpu.zero_copy_ms", median(saved), "ms", len(saved), median_interval(saved), ">= the baseline",
                  baseline=float(np.median(transfers)), data=_gpu(), note=note)  # fmt: skip


def descriptor_in_half(scratch: Path) -> Bundle:
    """The descriptor's committed checkpoint as export makes a bundle of it now, fp16 included."""
    return export(CHECKPOINT, scratch / CHECKPOINT.name, ["fp32", "fp16"])


def torch_descriptor() -> nn.Module:
    """The same network in torch at its best."""
    return _HalfDescriptor(load_checkpoint(CHECKPOINT).model.eval())


class _HalfDescriptor(nn.Module):
    """Contrast in float32, as always; the convolutions in float16 with their norms folded in."""

    def __init__(self, model: DescriptorCNN) -> None:
        super().__init__()
        for part in model.modules():
            if isinstance(part, ConvNorm):
                part[0], part[1] = fuse_conv_bn_eval(part[0], part[1]), nn.Identity()
        for part in (model.stem, model.blocks, model.head):
            part.to(torch.float16, memory_format=torch.channels_last)
        self.model = model

    def forward(self, view: Tensor) -> Tensor:
        contrast = self.model.contrast(view).half().to(memory_format=torch.channels_last)
        return self.model.describe(contrast)


def frame_bundle(scratch: Path) -> Bundle:
    """`FrameClassifier` as a bundle, its fp16 variant included."""
    frame = torch.zeros(1, CROP_PX, CROP_PX, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        FrameClassifier().eval(), (frame,), dynamo=True, external_data=False, opset_version=18,
        input_names=["frame"], output_names=["logits"], verbose=False,
    )  # fmt: skip
    network = program.model_proto
    network.ir_version = 10
    tensor = {"units": "1", "meaning": "of the benchmark"}
    manifest = {
        "name": "frame-classifier", "task": "benchmarks.frames", "licence": "Apache-2.0",
        "description": "EfficientNet-Lite0 with its preprocessing in the graph.",
        "inputs": [{"name": "frame", "dtype": "uint8", "shape": list(frame.shape), **tensor}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": [1, 1000], **tensor}],
        "dims": {}, "preprocessing": {}, "calibration": {}, "tolerance": 1e-3,
        "variants": {"fp32": {"file": "model.onnx", "parity": {}}, "fp16": {"file": "model.fp16.onnx", "parity": {}}},
        "training": {"data": [], "config": {}, "commit": "", "seed": 0}, "metrics": [],
    }  # fmt: skip
    files = {
        "model.onnx": network.SerializeToString(),
        "model.fp16.onnx": to_half(network, []).SerializeToString(),
    }
    return write_bundle(scratch / "frame-classifier", manifest, files)


def _queued(engine: Engine, inputs: Mapping[str, Tensor], out: Mapping[str, Tensor]) -> Callable[[Any], Any]:
    """Our engine on arrays of torch's that are bound, as its graph's are, on a stream of torch's."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    run = engine.bind_gpu(inputs, out, stream)

    def infer(_: object) -> Mapping[str, Tensor]:
        run()
        stream.synchronize()
        return out

    return infer


def _eager(model: Callable[[Tensor], Tensor], view: Tensor) -> Callable[[Any], Any]:
    def infer(_: object) -> Mapping[str, Tensor]:
        result = model(view)
        torch.cuda.synchronize()
        return {"descriptor": result}

    return infer


def _captured(model: Callable[[Tensor], Tensor], view: Tensor) -> Callable[[Any], Any]:
    """The model as a CUDA graph of torch's."""
    torch.backends.cudnn.benchmark = True  # it tries its algorithms while the graph is not yet captured
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(5):
            model(view)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = model(view)

    def infer(_: object) -> Mapping[str, Tensor]:
        graph.replay()
        torch.cuda.synchronize()
        return {"descriptor": result}

    return infer


def _per_s(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return FRAMES / (time.perf_counter() - began)


def _ms(samples: Samples) -> str:
    return f"{1e3 * median(samples.stages['infer']):.3f}"


def _reasons(engine: Engine) -> str:
    return "; ".join(engine.report.reasons) or f"runs on {', '.join(engine.report.providers)} with CUDA graphs"


def _gpu() -> str:
    import onnxruntime

    name = describe().gpu or torch.cuda.get_device_name()
    return f"{name}; torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
