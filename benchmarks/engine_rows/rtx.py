"""TensorRT-RTX ahead of time, without a GPU: every committed bundle, in every precision, for three generations."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from results import Figure

from kittiwake_runtime.bundle import Bundle
from kittiwake_runtime.engines import tensorrt_library
from kittiwake_runtime.engines.cache import build_engine, make_recipe
from kittiwake_runtime.engines.cuda import gpu_ahead_of_time
from kittiwake_runtime.errors import EngineError

SMS = ("8.6", "8.9", "12.0")
MODELS = Path(__file__).resolve().parents[2] / "models" / "kittiwake_models"


def measure_rtx() -> list[Figure]:
    """Share of the engines that were built, each with seconds and size."""
    library = tensorrt_library.load()
    if not library.ahead_of_time:
        raise EngineError(
            f"{library.name} builds for this machine's GPU only", "install kittiwake-runtime[tensorrt-rtx]"
        )
    built, total, lines = 0, 0, []
    for manifest in sorted(MODELS.glob("*/manifest.json")):
        for precision in json.loads(manifest.read_text(encoding="utf-8"))["variants"]:
            total += len(SMS)
            found = [_build(Bundle.open(manifest.parent), precision, sm) for sm in SMS]
            built += sum(isinstance(entry, tuple) for entry in found)
            words = [f"SM {sm}: {_words(entry)}" for sm, entry in zip(SMS, found, strict=True)]
            lines.append(f"{manifest.parent.name} {precision}: {', '.join(words)}")
    note = f"{library.name} {library.version}, child process included. " + ". ".join(lines)
    return [Figure("rtx.built", 100.0 * built / total, "%", total, None, "all", note=note)]


def _build(bundle: Bundle, precision: str, sm: str) -> tuple[float, int] | str:
    """Seconds and bytes, or what was wrong."""
    with tempfile.TemporaryDirectory() as cache:
        began = time.perf_counter()
        try:
            recipe = make_recipe(bundle, precision, gpu_ahead_of_time(sm))
            entry = build_engine(bundle, recipe, lambda share, phase: None, Path(cache))
        except EngineError as error:
            return error.message
        return time.perf_counter() - began, entry.size_bytes


def _words(found: tuple[float, int] | str) -> str:
    return found if isinstance(found, str) else f"{found[0]:.1f} s {found[1] / 1e6:.1f} MB"
