"""`kittiwake bundle info|verify|sign`."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kittiwake_runtime.bundle import MANIFEST, PUBLIC_KEY_VARIABLE, Bundle, installed_bundles
from kittiwake_runtime.command import Command
from kittiwake_runtime.manifest import TensorSpec, Variant
from kittiwake_runtime.signature import sign_manifest, verify_signature

_EXAMPLES = """\
examples:
  kittiwake bundle info                     the bundles found on this machine
  kittiwake bundle info NAME                what one is, what goes in and out, and how good it is
  kittiwake bundle verify NAME              check its files by hash, its outputs by the golden ones
  kittiwake bundle verify NAME --device cuda --json
  kittiwake bundle verify NAME --key PUBLIC.pem          … and that the key's owner signed it
  kittiwake bundle sign FOLDER --key PRIVATE.pem         write manifest.json.sig (Ed25519)

A bundle is named by its folder, or by its name in $KITTIWAKE_MODELS or the installed kittiwake-models.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    info = actions.add_parser("info", help="describe a bundle, or list those found")
    info.add_argument("bundle", nargs="?", help="a bundle's folder or name; none lists all")
    verify = actions.add_parser("verify", help="check a bundle's files and its golden outputs")
    verify.add_argument("bundle", help="a bundle's folder or name")
    verify.add_argument("--device", default="cpu", help="cpu, cuda, tensorrt or auto (default: cpu)")
    verify.add_argument("--precision", default="auto", help="fp32, fp16, int8, fp8 or auto (default: auto)")
    verify.add_argument("--key", type=Path, metavar="PEM", help="Ed25519 public key whose signature it must bear "
                        f"(default: ${PUBLIC_KEY_VARIABLE}, when it is set)")  # fmt: skip
    sign = actions.add_parser("sign", help="sign a bundle's manifest, and so all its files")
    sign.add_argument("bundle", help="a bundle's folder or name")
    sign.add_argument("--key", type=Path, metavar="PEM", required=True, help="Ed25519 private key")
    for action in (info, verify, sign):
        action.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    if arguments.action != "info":
        return {"verify": _verify, "sign": _sign}[arguments.action](arguments)
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
    key = arguments.key or os.environ.get(PUBLIC_KEY_VARIABLE)
    if arguments.key:
        verify_signature(bundle.root / MANIFEST, arguments.key)
    with open_engine(bundle, arguments.device, arguments.precision, policy="require") as engine:
        errors = golden_errors(engine)
    report = asdict(engine.report)
    variant = bundle.variants[report["precision"]]
    if variant.tensorrt and variant.tensorrt.file == report["file"]:
        variant = variant.tensorrt
    allowed = {name: variant.allowed_error(name, bundle.tolerance) for name in errors}
    good = all(error <= allowed[name] for name, error in errors.items())
    if arguments.json:
        result = {"bundle": bundle.name, "sha256": bundle.sha256, "ok": good, "signed_by": key and str(key),
                  "engine": report, "tolerance": bundle.tolerance, "golden_errors": errors,
                  "allowed": allowed}  # fmt: skip
        print(json.dumps(result, indent=2))
    else:
        print(f"{bundle.name}: {len(bundle.files)} files have the hashes of the manifest")
        if key:
            print(f"signed by the owner of {key}")
        print(f"ran {report['file']} ({report['precision']}) on {', '.join(report['providers'])}")
        for name, error in errors.items():
            verdict = "within" if error <= allowed[name] else "ABOVE"
            print(f"{name}: off the golden output by at most {error:.2g}, {verdict} {allowed[name]:.2g}")
    return 0 if good else 1


def _sign(arguments: argparse.Namespace) -> int:
    bundle = Bundle.open(arguments.bundle)
    signature = sign_manifest(bundle.root / MANIFEST, arguments.key)
    if arguments.json:
        print(json.dumps({"bundle": bundle.name, "sha256": bundle.sha256, "signature": str(signature)}, indent=2))
    else:
        print(f"wrote {signature}")
    return 0


def _describe(bundle: Bundle) -> str:
    lines = [
        f"{bundle.name}   {bundle.task}   {bundle.licence}",
        bundle.description,
        f"folder    {bundle.root}",
        f"sha256    {bundle.sha256}",
        *(f"input     {_tensor(spec)}" for spec in bundle.inputs),
        *(f"output    {_tensor(spec)}" for spec in bundle.outputs),
        *(f"size      {name}: {d}, typically {d.typical}" for name, d in bundle.dims.items()),
        *(f"variant   {name}: {_variant(variant)}" for name, variant in bundle.variants.items()),
        *(f"data      {entry['name']}" for entry in bundle.training.data),
        *(f"metric    {m.name} {m.value:g} {m.unit} ({m.split}, n = {m.n})" for m in bundle.metrics),
    ]
    return "\n".join(lines)


def _tensor(spec: TensorSpec) -> str:
    return f"{spec.name}: {spec.dtype} ({', '.join(map(str, spec.shape))}), {spec.units}: {spec.meaning}"


def _variant(variant: Variant) -> str:
    costs = variant.accuracy
    if costs is None:
        return variant.file
    low, high = costs.interval
    return f"{variant.file}, loses {costs.loss:.2g} ({low:.2g} to {high:.2g}) {costs.unit} of {costs.name}"


def _as_json(bundle: Bundle) -> dict[str, Any]:
    return {**asdict(bundle), "root": str(bundle.root)}


command = Command(
    name="bundle",
    help="inspect and verify model bundles",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
