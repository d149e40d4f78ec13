"""From a checkpoint to a bundle: trace, slim, golden values, parity, variants, manifest.

Nothing but the checkpoint is read, so a new model needs no change here. The fields that ``checkpoint.json``
shares with a manifest are copied (kittiwake_runtime/manifest.py says what each holds). Two more may be there:
``card``, Markdown that ends the bundle's card, and in an input the ``range`` of its values, [0, 1] without.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from kittiwake_export import modelopt
from kittiwake_export.card import write_card
from kittiwake_export.errors import ExportError
from kittiwake_export.golden import example_inputs, reference_outputs
from kittiwake_export.graph import OPSET, settle, trace
from kittiwake_export.quantize import Arrays
from kittiwake_export.variants import half_parity, judge, make_half, prepare, run_trial
from kittiwake_runtime.bundle import CARD, GOLDEN, MANIFEST, Bundle, Golden, write_bundle, write_golden
from kittiwake_runtime.engines.base import golden_errors
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.manifest import FORMAT_VERSION, PRECISIONS, parse_manifest
from kittiwake_training.checkpoint import FIELDS, load_checkpoint
from kittiwake_training.tasks import Calibration, Task, Trial, find_task

MODEL = "model.onnx"
MODEL_HALF = "model.fp16.onnx"
MODEL_INT8 = "model.int8.onnx"
MODEL_INT8_TENSORRT = "model.int8.tensorrt.onnx"
MODEL_FP8 = "model.fp8.onnx"
QUANTIZED = ("int8", "fp8")
_HALF_SAMPLES = 4
_COPIED = tuple(field for field in FIELDS if field != "model")
_COPIED_IF_THERE = ("provider_options",)


def export(
    checkpoint: Path,
    output: Path,
    precisions: Collection[str] = ("fp32",),
    data: Path | None = None,
    by_modelopt: bool = False,
) -> Bundle:
    """Turn a checkpoint into a bundle.

    Args:
        checkpoint: folder with ``weights.safetensors`` and ``checkpoint.json``.
        output: folder to write; called as the checkpoint's ``name``, it can be opened by that name.
        precisions: which variants to make; "fp32" is always among them. "int8" and "fp8" need ``data``, and its task
            to be known (kittiwake_training/tasks.py); "fp8" needs NVIDIA's modelopt.
        data: a folder of the task's real data, to calibrate with and to measure accuracy on; "fp16" is compared
            on it too.
        by_modelopt: "int8" for TensorRT is modelopt's.

    Returns:
        The bundle, opened.

    Raises:
        TrainingError: the checkpoint or the data can't be read, or the task is not known.
        BundleError: a field of the checkpoint is wrong, or ``output`` is there and is no bundle.
        ExportError: the model can't be traced, its ONNX network differs from it above the tolerance, or a variant
            loses more than is allowed. Nothing is written then.
    """
    _check_precisions(precisions, data, by_modelopt)
    loaded = load_checkpoint(checkpoint)
    manifest = {key: loaded.meta[key] for key in _COPIED}
    manifest |= {key: loaded.meta[key] for key in _COPIED_IF_THERE if key in loaded.meta}
    manifest["variants"] = {"fp32": {"file": MODEL, "parity": {}}}
    # Checked before the work, and with the checkpoint's name on what is wrong.
    unwritten = {"format_version": FORMAT_VERSION, "files": {MODEL: "0" * 64}}
    fields = Fields({**manifest, **unwritten}, checkpoint / "checkpoint.json")
    model = parse_manifest(fields)
    ranges = {entry.text("name"): _range(entry) for entry in fields.sections("inputs")}
    manifest["inputs"] = [{k: v for k, v in entry.items() if k != "range"} for entry in manifest["inputs"]]
    task = find_task(model.task, model.inputs) if data else None

    cases = []
    for example in example_inputs(model.inputs, model.dims, ranges):
        outputs = reference_outputs(loaded.model, model.inputs, model.outputs, example)
        cases.append(Golden(example, outputs))
    # The last example has sizes that are all different and above one, so that tracing generalizes over them.
    network = trace(loaded.model, model.inputs, model.outputs, model.dims, cases[-1].inputs)
    files = {MODEL: network, GOLDEN: write_golden(tuple(cases))}
    manifest["variants"]["fp32"]["parity"] = _parity(manifest, files, "fp32")
    _refuse_above_tolerance(manifest)

    _add_variants(manifest, files, cases, precisions, task, data, by_modelopt)
    card = write_card(manifest, loaded.meta.get("card", ""))
    return write_bundle(output, manifest, {**files, CARD: card.encode()})


def add_variants(
    bundle: Bundle,
    output: Path,
    precisions: Collection[str],
    data: Path | None = None,
    by_modelopt: bool = False,
) -> Bundle:
    """Make variants of a finished bundle from its float32 network; one that is there already is made anew.

    Args:
        bundle: with golden values.
        output: folder to write; the bundle's own replaces it.
        precisions, data, by_modelopt: as for :func:`export`.

    Returns:
        The new bundle, opened.

    Raises:
        TrainingError: the data can't be read, or the task is not known.
        BundleError: there are no golden values, or ``output`` is there and is no bundle.
        ExportError: a variant loses more than is allowed. Nothing is written then.
    """
    _check_precisions(precisions, data, by_modelopt)
    manifest = json.loads((bundle.root / MANIFEST).read_text(encoding="utf-8"))
    kept = set(manifest.pop("files"))
    del manifest["format_version"]
    for precision in set(precisions) - {"fp32"}:
        kept -= _networks(manifest["variants"].pop(precision, {}))
    files = {name: bundle.file(name).read_bytes() for name in kept}
    if bundle.variants["fp32"].file != MODEL:
        raise ExportError(f"{bundle.name}: its float32 network is {bundle.variants['fp32'].file}; expected {MODEL}")
    task = find_task(bundle.task, bundle.inputs) if data else None
    _add_variants(manifest, files, bundle.golden(), precisions, task, data, by_modelopt)
    text = files.get(CARD, b"").decode().partition("## Origin\n\n")[2].partition("\n\n")[2]
    return write_bundle(output, manifest, {**files, CARD: write_card(manifest, text).encode()})


def _check_precisions(precisions: Collection[str], data: Path | None, by_modelopt: bool) -> None:
    unknown = set(precisions) - set(PRECISIONS)
    if unknown:
        raise ExportError(f"no precision {', '.join(sorted(unknown))}; there are {', '.join(PRECISIONS)}")
    if data is None and (asked := [precision for precision in QUANTIZED if precision in precisions]):
        raise ExportError(f"{asked[0]} needs real data to calibrate with", "name a folder: --data FOLDER")
    if by_modelopt or "fp8" in precisions:
        modelopt.require("--modelopt" if by_modelopt else "fp8")


def _networks(variant: Mapping[str, Any]) -> set[str]:
    """The files of a variant in a manifest."""
    return {part["file"] for part in (variant, variant.get("tensorrt", {})) if "file" in part}


def _add_variants(
    manifest: dict[str, Any],
    files: dict[str, bytes],
    cases: Sequence[Golden],
    precisions: Collection[str],
    task: Task | None,
    data: Path | None,
    by_modelopt: bool,
) -> None:
    calibration = task.calibration(data) if task and data else Calibration((), ())
    if "fp16" in precisions:
        samples = [*(case.inputs for case in cases), *calibration.inputs[:_HALF_SAMPLES]]
        _add_half(manifest, files, cases, samples)
    if task and data and set(QUANTIZED) & set(precisions):
        _add_quantized(manifest, files, precisions, calibration, task, data, by_modelopt)
    manifest["variants"] = {name: manifest["variants"][name] for name in PRECISIONS if name in manifest["variants"]}


def _add_half(
    manifest: dict[str, Any], files: dict[str, bytes], cases: Sequence[Golden], samples: Sequence[Arrays]
) -> None:
    """Add fp16. Its parity is the larger of what this machine's engine shows and of what float16 gives."""
    network = onnx.load_from_string(files[MODEL])
    half, float_nodes = make_half(network, samples)
    files[MODEL_HALF] = settle(half).SerializeToString()
    manifest["variants"]["fp16"] = {"file": MODEL_HALF, "parity": {}, "float_nodes": float_nodes}
    here, exact = _parity(manifest, files, "fp16"), half_parity(network, float_nodes, cases)
    manifest["variants"]["fp16"]["parity"] = {name: max(error, exact[name]) for name, error in here.items()}


def _add_quantized(
    manifest: dict[str, Any],
    files: dict[str, bytes],
    precisions: Collection[str],
    calibration: Calibration,
    task: Task,
    data: Path,
    by_modelopt: bool,
) -> None:
    """Add int8, fp8 or both; each network is tried as the variant itself, on the same samples as the reference."""
    found = prepare(onnx.load_from_string(files[MODEL]), calibration.inputs)
    known = {
        "float_nodes": found.floats,
        "calibration": {
            "data": [dict(entry) for entry in calibration.data],
            "samples": sum(len(next(iter(inputs.values()))) for inputs in calibration.inputs),
        },
    }
    reference = _try(manifest, files, "fp32", task, data)

    def add(precision: str, file: str, network: onnx.ModelProto, opset: int) -> dict[str, Any]:
        files[file] = settle(network, opset).SerializeToString()
        entry = manifest["variants"][precision] = {"file": file, "parity": {}, **known}
        entry["parity"] = _parity(manifest, files, precision)
        trial = _try(manifest, files, precision, task, data)
        entry["accuracy"] = judge(reference, trial, precision, task.allowed_loss)
        return entry

    if "int8" in precisions:
        own = add("int8", MODEL_INT8, found.int8(), OPSET)
        symmetric = found.int8_tensorrt(by_modelopt)
        theirs = add("int8", MODEL_INT8_TENSORRT, symmetric, modelopt.OPSET if by_modelopt else OPSET)
        shared = {key: value for key, value in theirs.items() if key not in known}
        manifest["variants"]["int8"] = {**own, "tensorrt": shared}
    if "fp8" in precisions:
        add("fp8", MODEL_FP8, found.fp8(), modelopt.OPSET)


def _parity(manifest: Mapping[str, Any], files: Mapping[str, bytes], precision: str) -> dict[str, float]:
    """Run a network as a user will, and compare it with the golden outputs."""
    with _draft(manifest, files) as draft, open_engine(draft, "cpu", precision, policy="require") as engine:
        return golden_errors(engine)


def _try(manifest: Mapping[str, Any], files: Mapping[str, bytes], precision: str, task: Task, data: Path) -> Trial:
    with _draft(manifest, files) as draft:
        return run_trial(draft, precision, task, data)


@contextmanager
def _draft(manifest: Mapping[str, Any], files: Mapping[str, bytes]) -> Iterator[Bundle]:
    """The bundle as it is so far, for as long as the context lasts."""
    with tempfile.TemporaryDirectory(prefix="kittiwake-export-") as scratch:
        yield write_bundle(Path(scratch) / manifest["name"], manifest, files)


def _refuse_above_tolerance(manifest: Mapping[str, Any]) -> None:
    tolerance = manifest["tolerance"]
    errors = manifest["variants"]["fp32"]["parity"]
    bad = [f"{name} by {error:.3g}" for name, error in errors.items() if not error <= tolerance]
    if bad:
        raise ExportError(
            f"{manifest['name']}: outputs differ from the checkpoint's: {', '.join(bad)}; "
            f"the tolerance is {tolerance:.3g}",
            "look for steps that magnify rounding, or state a tolerance that the task can bear",
        )


def _range(entry: Fields) -> tuple[float, float]:
    if "range" not in entry:
        return 0.0, 1.0
    values = entry.items("range")
    if len(values) != 2 or not all(type(v) in (int, float) for v in values) or not values[0] < values[1]:
        raise entry.error("range", "[lowest, highest]", values)
    return float(values[0]), float(values[1])
