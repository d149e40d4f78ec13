"""`kittiwake engine`: build TensorRT engines before they are needed, and look after those that were built."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kittiwake_runtime.command import Command
from kittiwake_runtime.errors import EngineError

if TYPE_CHECKING:
    from kittiwake_runtime.bundle import Bundle
    from kittiwake_runtime.engines.cache import CachedEngine

_EXAMPLES = """\
examples:
  kittiwake engine build NAME                       for this GPU, every precision of the bundle
  kittiwake engine build NAME --precision fp16 --size N=1:36:72
  kittiwake engine build NAME --sm 8.6              ahead of time, on any machine, with TensorRT-RTX
  kittiwake engine list
  kittiwake engine verify                           every engine against the hash of when it was built
  kittiwake engine clean                            what is damaged, and what killed builds left
  kittiwake engine clean NAME                       a bundle's engines too; --all for everybody's

Engines lie in $KITTIWAKE_CACHE (default ~/.cache/kittiwake/engines). They fit one GPU, driver and TensorRT.
"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    build = actions.add_parser("build", help="build a bundle's engines")
    build.add_argument("bundle", help="a bundle's folder or name")
    build.add_argument("--precision", default="all", help="fp32, fp16, int8, fp8 or all of them (default: all)")
    build.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="NAME=LEAST:TYPICAL:LARGEST",
        help="a dynamic size, in place of the manifest's range; may be repeated",
    )
    build.add_argument("--sm", default="", help="build ahead of time for this compute capability, as 8.6")
    build.add_argument("--workspace-mib", type=int, help="memory that one kernel may use (default: TensorRT's choice)")
    listing = actions.add_parser("list", help="list the engines in the cache")
    verify = actions.add_parser("verify", help="check engines against the hashes of when they were built")
    clean = actions.add_parser("clean", help="remove damaged engines and what killed builds left")
    for action in (listing, verify, clean):
        action.add_argument("bundle", nargs="?", help="only this bundle's, by name")
    clean.add_argument("--all", action="store_true", help="remove every engine")
    for action in (build, listing, verify, clean):
        action.add_argument("--json", action="store_true", help="print JSON for machines")


def _run(arguments: argparse.Namespace) -> int:
    return {"build": _build, "list": _list, "verify": _verify, "clean": _clean}[arguments.action](arguments)


def _build(arguments: argparse.Namespace) -> int:
    from kittiwake_runtime.bundle import Bundle
    from kittiwake_runtime.engines.cuda import gpu_ahead_of_time, this_gpu
    from kittiwake_runtime.engines.profiles import parse_sizes

    bundle = Bundle.open(arguments.bundle)
    sizes = parse_sizes(arguments.size)
    gpu = gpu_ahead_of_time(arguments.sm) if arguments.sm else this_gpu()
    precisions = list(bundle.variants) if arguments.precision == "all" else [arguments.precision]
    entries = [_build_one(bundle, precision, gpu, sizes, arguments.workspace_mib) for precision in precisions]
    if arguments.json:
        print(json.dumps([_as_json(entry) for entry in entries], indent=2))
    else:
        for entry in entries:
            print(_line(entry))
    return 0


def _build_one(bundle: Bundle, precision: str, gpu: Any, sizes: Any, workspace_mib: int | None) -> CachedEngine:
    from tqdm import tqdm

    from kittiwake_runtime.engines.cache import build_engine, make_recipe

    recipe = make_recipe(bundle, precision, gpu, sizes, workspace_mib)
    form = "{l_bar}{bar}| {elapsed} {postfix}"
    with tqdm(total=1.0, desc=f"{bundle.name} {precision}", bar_format=form, file=sys.stderr) as bar:

        def progress(share: float, phase: str) -> None:
            bar.set_postfix_str(phase, refresh=False)
            bar.update(share - bar.n)

        entry = build_engine(bundle, recipe, progress)
        bar.update(1.0 - bar.n)
    return entry


def _list(arguments: argparse.Namespace) -> int:
    entries = _entries(arguments.bundle)
    if arguments.json:
        print(json.dumps([_as_json(entry) for entry in entries], indent=2))
        return 0
    for entry in entries:
        print(_line(entry))
    if not entries:
        print("no engines; build one with `kittiwake engine build BUNDLE`")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    problems = {}
    entries = _entries(arguments.bundle)
    for entry in entries:
        try:
            entry.read()
        except EngineError as error:
            problems[str(entry.path)] = error.message
    if arguments.json:
        whole = [{**_as_json(entry), "problem": problems.get(str(entry.path))} for entry in entries]
        print(json.dumps({"ok": not problems, "engines": whole}, indent=2))
    else:
        for entry in entries:
            print(f"{'DAMAGED' if str(entry.path) in problems else 'whole':8}{_line(entry)}")
        if problems:
            print("`kittiwake engine clean` removes what is damaged; `kittiwake engine build` builds it again")
    return 1 if problems else 0


def _clean(arguments: argparse.Namespace) -> int:
    from kittiwake_runtime.engines.cache import clean

    removed = clean(unwanted=lambda entry: bool(arguments.all or entry.bundle == arguments.bundle))
    if arguments.json:
        print(json.dumps([str(path) for path in removed], indent=2))
    else:
        print("\n".join([*map(str, removed), f"{len(removed)} files removed"]))
    return 0


def _entries(bundle: str | None) -> list[CachedEngine]:
    from kittiwake_runtime.engines.cache import engines

    return list(engines(bundle=bundle or "*"))


def _line(entry: CachedEngine) -> str:
    recipe = entry.recipe
    sizes = " ".join(f"{name}={':'.join(map(str, dim))}" for name, dim in recipe.sizes.items())
    return (
        f"{entry.bundle} {recipe.precision}  {recipe.gpu.name}, SM {recipe.gpu.sm}  {recipe.library} {recipe.version}  "
        f"{sizes or 'fixed sizes'}  {entry.size_bytes / 1e6:.1f} MB, built {entry.built} in {entry.seconds:.1f} s"
    )


def _as_json(entry: CachedEngine) -> dict[str, Any]:
    return {**asdict(entry), "path": str(entry.path), "key": entry.recipe.key}


command = Command(
    name="engine",
    help="build TensorRT engines, and list, verify and clean those that were built",
    add_arguments=_add_arguments,
    run=_run,
    epilog=_EXAMPLES,
)
