"""`kittiwake export CHECKPOINT -o BUNDLE`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from kittiwake_runtime.command import Command

_EXAMPLES = """\
examples:
  kittiwake export runs/descriptor -o models/kittiwake_models/localization-descriptor
  kittiwake export runs/descriptor -o descriptor --precision fp16 --precision int8 --data places
  kittiwake export --bundle descriptor -o descriptor --precision fp16     a variant more, without the checkpoint
  kittiwake bundle verify descriptor --precision int8

Nothing is written when the outputs differ from those of the checkpoint by more than its tolerance, or when a
precision loses more than the task allows.
"""


_TIMES_EXAMPLES = """\
examples:
  kittiwake layer-times runs/descriptor -o times.json               float32 and int8, one thread
  kittiwake prune runs/descriptor --times times.json --backend int8 --target latency=0.5 --data places -o runs/pruned

Measure where the network is to run, and let nothing else run meanwhile.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", help="a folder with weights.safetensors and checkpoint.json"
    )
    parser.add_argument("--bundle", metavar="NAME", help="in place of a checkpoint: a bundle to make variants of")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE",
                        help="the folder to write; a bundle that is there already is replaced")  # fmt: skip
    parser.add_argument("--precision", action="append", choices=("fp16", "int8", "fp8"), default=[],
                        help="a variant to make beside fp32; may be given again")  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="FOLDER",
                        help="the task's real data: int8 and fp8 are calibrated and measured with it")  # fmt: skip
    parser.add_argument("--modelopt", action="store_true",
                        help="int8 for TensorRT by NVIDIA's modelopt, as fp8 is (docs/engines.md)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    from kittiwake_export.errors import ExportError
    from kittiwake_export.export import add_variants, export
    from kittiwake_runtime.bundle import Bundle

    if (arguments.checkpoint is None) == (arguments.bundle is None):
        raise ExportError("expected a checkpoint, or --bundle and none", "kittiwake export CHECKPOINT -o BUNDLE")
    precisions = ["fp32", *arguments.precision]
    if arguments.bundle:
        bundle = add_variants(
            Bundle.open(arguments.bundle), arguments.output, precisions, arguments.data, arguments.modelopt
        )
    else:
        bundle = export(arguments.checkpoint, arguments.output, precisions, arguments.data, arguments.modelopt)
    variants = bundle.variants.items()
    if arguments.json:
        result = {
            "bundle": str(bundle.root),
            "sha256": bundle.sha256,
            "parity": {precision: dict(variant.parity) for precision, variant in variants},
            "accuracy": {precision: asdict(v.accuracy) for precision, v in variants if v.accuracy},
            "float_nodes": {precision: list(v.float_nodes) for precision, v in variants if v.float_nodes},
            "tolerance": bundle.tolerance,
        }
        print(json.dumps(result, indent=2))
        return 0
    print(f"wrote {bundle.root}: {', '.join(sorted(bundle.files))}")
    for precision, variant in variants:
        for output, error in variant.parity.items():
            print(f"{precision}: {output} differs from torch by at most {error:.2g}")
        if variant.float_nodes:
            print(f"{precision}: in float32 stay {', '.join(variant.float_nodes)}")
        if (cost := variant.accuracy) is not None:
            print(
                f"{precision}: loses {cost.loss:.3g} {cost.unit} of {cost.name} "
                f"({cost.interval[0]:.3g} to {cost.interval[1]:.3g}, n = {cost.n}; allowed {cost.allowed:g})"
            )
    return 0


command = Command(
    name="export",
    help="turn a checkpoint into a bundle that the runtime can run",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)


def _add_times_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="of the network that is to be pruned")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="TABLE", help="the JSON file to write")
    parser.add_argument("--precision", action="append", choices=("fp32", "int8"), help="both without it")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime (1)")
    parser.add_argument("--multiple", type=int, choices=(8, 16, 32), default=8,
                        help="of the channels that pruning is to leave, as in prune --set multiple=16 (8)")  # fmt: skip


def _run_times(arguments: argparse.Namespace) -> int:
    from kittiwake_export.layer_times import PRECISIONS, measure_checkpoint

    models = measure_checkpoint(
        arguments.checkpoint,
        arguments.output,
        arguments.precision or PRECISIONS,
        arguments.threads,
        arguments.multiple,
    )
    for model in models:
        counts = sum(times.seconds.size for times in model.layers.values())
        print(f"{model.backend}: {counts} layers of {len(model.layers)} kinds; in networks they take "
              f"{model.scale:.2f} times as long, and {1e3 * model.fixed_s:.3g} ms stand beside them")  # fmt: skip
    print(f"wrote {arguments.output}")
    return 0


times_command = Command(
    name="layer-times",
    help="measure how long a network's layers take here, for pruning to a latency",
    add_arguments=_add_times_arguments,
    run=_run_times,
    epilog=_TIMES_EXAMPLES,
)
