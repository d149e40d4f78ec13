"""`kittiwake bundle info|verify`."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from kittiwake_runtime.bundle import Bundle, installed_bundles
from kittiwake_runtime.command import Command
from kittiwake_runtime.manifest import TensorSpec

_EXAMPLES = """\
examples:
  kittiwake bundle info                     the bundles found on this machine
  kittiwake bundle info NAME                what one is, what goes in and out, and how good it is
  kittiwake bundle verify NAME              check its files by hash, its outputs by the golden ones
  kittiwake bundle verify NAME --device cuda --json

A bundle is named by its folder, or by its name in $KITTIWAKE_MODELS or the installed kittiwake-models.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    info = actions.add_parser("info", help="describe a bundle, or list those found")
    info.add_argument("bundle", nargs="?", help="a bundle's folder or name; none lists all")
    verify = actions.add_parser("verify", help="check a bundle's files and its golden outputs")
    verify.add_argument("bundle", help="a bundle's folder or name")
    verify.add_argument("--device", default="cpu", help="cpu, cuda, tensorrt or auto (default: cpu)")
    verify.add_argument("--precision", default="auto", help="fp32, fp16, int8 or auto (default: auto)")
    for action in (info, verify):
        action.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.action == "verify":
        return _verify(arguments)
    if arguments.bundle:
        bundle = Bundle.open(arguments.bundle)
        print(json.dumps(_as_json(bundle), indent=2) if arguments.json else _describe(bundle))
        return 0
    bundles = [Bundle.open(path) for path in installed_bundles()]
    if arguments.json:
        print(json.dumps([_as_json(bundle) for bundle in bundles], indent=2))
    else:
        for bundle in bundles:
            print(f"{bundle.name:32} {bundle.task:28} {', '.join(bundle.variants):16} {bundle.root}")
        if not bundles:
            print("no bundles found; set KITTIWAKE_MODELS, or install kittiwake-models")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from kittiwake_runtime.engines.base import golden_errors
    from kittiwake_runtime.engines.select import open_engine

    bundle = Bundle.open(arguments.bundle)
    with open_engine(bundle, arguments.device, arguments.precision, policy="require") as engine:
        errors = golden_errors(engine)
    good = all(error <= bundle.tolerance for error in errors.values())
    report = asdict(engine.report)
    if arguments.json:
        result = {"bundle": bundle.name, "sha256": bundle.sha256, "ok": good, "engine": report,
                  "tolerance": bundle.tolerance, "golden_errors": errors}  # fmt: skip
        print(json.dumps(result, indent=2))
    else:
        print(f"{bundle.name}: {len(bundle.files)} files have the hashes of the manifest")
        print(f"ran {report['file']} ({report['precision']}) on {', '.join(report['providers'])}")
        for name, error in errors.items():
            verdict = "within" if error <= bundle.tolerance else "ABOVE"
            print(f"{name}: off the golden output by at most {error:.2g}, {verdict} {bundle.tolerance:.2g}")
    return 0 if good else 1


def _describe(bundle: Bundle) -> str:
    lines = [
        f"{bundle.name}   {bundle.task}   {bundle.licence}",
        bundle.description,
        f"folder    {bundle.root}",
        f"sha256    {bundle.sha256}",
        *(f"input     {_tensor(spec)}" for spec in bundle.inputs),
        *(f"output    {_tensor(spec)}" for spec in bundle.outputs),
        *(f"size      {name}: {d}, typically {d.typical}" for name, d in bundle.dims.items()),
        *(f"variant   {name}: {variant.file}" for name, variant in bundle.variants.items()),
        *(f"data      {entry['name']}" for entry in bundle.training.data),
        *(f"metric    {m.name} {m.value:g} {m.unit} ({m.split}, n = {m.n})" for m in bundle.metrics),
    ]
    return "\n".join(lines)


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} ({', '.join(map(str, spec.shape))}), {spec.units}: {spec.meaning}"


def _as_json(bundle: Bundle) -> dict[str, Any]:
    return {**asdict(bundle), "root": str(bundle.root)}


command = Command(
    name="bundle",
    help="inspect and verify model bundles",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
