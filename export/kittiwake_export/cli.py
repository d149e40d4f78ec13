"""`kittiwake export CHECKPOINT -o BUNDLE`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from kittiwake_runtime.command import Command

_EXAMPLES = """\
example:
  kittiwake export runs/descriptor -o models/kittiwake_models/localization-descriptor
  kittiwake bundle verify models/kittiwake_models/localization-descriptor

Nothing is written when the outputs differ from those of the checkpoint by more than its tolerance.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a folder with weights.safetensors and checkpoint.json")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE",
                        help="the folder to write; a bundle that is there already is replaced")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    from kittiwake_export.export import export

    bundle = export(arguments.checkpoint, arguments.output)
    parity = {precision: dict(variant.parity) for precision, variant in bundle.variants.items()}
    if arguments.json:
        result = {"bundle": str(bundle.root), "sha256": bundle.sha256, "parity": parity}
        print(json.dumps(result | {"tolerance": bundle.tolerance}, indent=2))
        return 0
    print(f"wrote {bundle.root}: {', '.join(sorted(bundle.files))}")
    for precision, errors in parity.items():
        for output, error in errors.items():
            print(f"{precision}: {output} differs from torch by at most {error:.2g} of {bundle.tolerance:.2g}")
    return 0


command = Command(
    name="export",
    help="turn a checkpoint into a bundle that the runtime can run",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
