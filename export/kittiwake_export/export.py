"""From a checkpoint to a bundle: trace, slim, golden values, parity, manifest.

Nothing but the checkpoint is read, so a new model needs no change here. The fields that ``checkpoint.json``
shares with a manifest are copied (kittiwake_runtime/manifest.py says what each holds). Two more may be there:
``card``, Markdown that ends the bundle's card, and in an input the ``range`` of its values, [0, 1] without.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kittiwake_export.card import write_card
from kittiwake_export.errors import ExportError
from kittiwake_export.golden import example_inputs, reference_outputs
from kittiwake_export.graph import trace
from kittiwake_runtime.bundle import CARD, GOLDEN, Bundle, Golden, write_bundle, write_golden
from kittiwake_runtime.engines.base import golden_errors
from kittiwake_runtime.engines.select import open_engine
from kittiwake_runtime.fields import Fields
from kittiwake_runtime.manifest import FORMAT_VERSION, parse_manifest
from kittiwake_training.checkpoint import load_checkpoint

MODEL = "model.onnx"
_COPIED = (
    "name",
    "task",
    "licence",
    "description",
    "inputs",
    "outputs",
    "dims",
    "preprocessing",
    "calibration",
    "tolerance",
    "training",
    "metrics",
)


def export(checkpoint: Path, output: Path) -> Bundle:
    """Turn a checkpoint into a bundle.

    Args:
        checkpoint: folder with ``weights.safetensors`` and ``checkpoint.json``.
        output: folder to write; called as the checkpoint's ``name``, it can be opened by that name.

    Returns:
        The bundle, opened.

    Raises:
        TrainingError: the checkpoint can't be read.
        BundleError: a field of the checkpoint is wrong, or ``output`` is there and is no bundle.
        ExportError: the model can't be traced, or its ONNX network differs from it above the tolerance.
    """
    loaded = load_checkpoint(checkpoint)
    manifest = {key: loaded.meta[key] for key in _COPIED}
    manifest["variants"] = {"fp32": {"file": MODEL, "parity": {}}}
    # Checked before the work, and with the checkpoint's name on what is wrong.
    unwritten = {"format_version": FORMAT_VERSION, "files": {MODEL: "0" * 64}}
    fields = Fields({**manifest, **unwritten}, checkpoint / "checkpoint.json")
    model = parse_manifest(fields)
    ranges = {entry.text("name"): _range(entry) for entry in fields.sections("inputs")}
    manifest["inputs"] = [{k: v for k, v in entry.items() if k != "range"} for entry in manifest["inputs"]]

    cases = []
    for example in example_inputs(model.inputs, model.dims, ranges):
        outputs = reference_outputs(loaded.model, model.inputs, model.outputs, example)
        cases.append(Golden(example, outputs))
    # The last example has sizes that are all different and above one, so that tracing generalizes over them.
    network = trace(loaded.model, model.inputs, model.outputs, model.dims, cases[-1].inputs)
    files = {MODEL: network, GOLDEN: write_golden(tuple(cases))}

    manifest["variants"]["fp32"]["parity"] = _parity(manifest, files)
    card = write_card(manifest, loaded.meta.get("card", ""))
    return write_bundle(output, manifest, {**files, CARD: card.encode()})


def _parity(manifest: Mapping[str, Any], files: dict[str, bytes]) -> dict[str, float]:
    """Run the network as a user will, and compare; refuse it above the tolerance."""
    with tempfile.TemporaryDirectory(prefix="kittiwake-export-") as scratch:
        draft = write_bundle(Path(scratch) / manifest["name"], manifest, files)
        with open_engine(draft, device="cpu", policy="require") as engine:
            errors = golden_errors(engine)
    bad = [f"{name} by {error:.3g}" for name, error in errors.items() if not error <= draft.tolerance]
    if bad:
        raise ExportError(
            f"{manifest['name']}: outputs differ from the checkpoint's: {', '.join(bad)}; "
            f"the tolerance is {draft.tolerance:.3g}",
            "look for steps that magnify rounding, or state a tolerance that the task can bear",
        )
    return errors


def _range(entry: Fields) -> tuple[float, float]:
    if "range" not in entry:
        return 0.0, 1.0
    values = entry.items("range")
    if len(values) != 2 or not all(type(v) in (int, float) for v in values) or not values[0] < values[1]:
        raise entry.error("range", "[lowest, highest]", values)
    return float(values[0]), float(values[1])
