"""`kittiwake prune`: also runs as ``python -m kittiwake_training.pruning.cli`` where nothing is installed."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kittiwake_runtime.command import Command
from kittiwake_training.standalone import run_alone

EPILOG = """\
examples:
  kittiwake layer-times runs/descriptor -o times.json               where the network is to run
  kittiwake prune runs/descriptor --target latency=0.5 --times times.json --data places -o runs/pruned
  kittiwake prune runs/descriptor --target flops=0.5 --importance lamp --data places -o runs/pruned
  kittiwake prune runs/descriptor --target sparsity=0.9 --data places -o runs/sparse
  kittiwake export runs/pruned -o bundle --precision int8 --data places

A target is the share that is left: of the predicted latency on --backend, of operations, of parameters. Channels go
whole, in multiples of 8. sparsity=0.9 sets single weights to zero instead (by magnitude, or snip), sparsity=2:4 two of
every four: no smaller and, on most hardware, no faster. -o gets the checkpoint, rounds.json and tradeoff.png.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``prune``."""
    parser.add_argument("checkpoint", type=Path, help="of the dense network")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CKPT", help="folder of the pruned one")
    parser.add_argument("--target", metavar="KIND=SHARE", help="latency=0.5, flops=0.5, params=0.2, sparsity=0.9|2:4")
    parser.add_argument("--importance", metavar="NAME",
                        help="taylor, magnitude, lamp, sensitivity; of single weights magnitude, snip")  # fmt: skip
    parser.add_argument("--times", type=Path, metavar="TABLE", help="layer times, from kittiwake layer-times")
    parser.add_argument("--backend", metavar="NAME", help="a part of the name of the table's backend (int8)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="the task's prepared data")
    parser.add_argument("--config", type=Path, metavar="TOML", help="values of the config's fields")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                        help="one value, e.g. rounds=6, trainer.steps=2000, task.sampler.pairs=1024")  # fmt: skip
    parser.add_argument("--max-minutes", type=float, default=math.inf, help="stop after so long; --resume goes on")
    parser.add_argument("--resume", action="store_true", help="go on in CKPT, if something was begun there")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render the world")
    parser.add_argument("--json", action="store_true", help="print the points for machines")


def run(arguments: argparse.Namespace) -> int:
    """Prune; 0 when done, 1 when time ran out before."""
    from kittiwake_training.checkpoint import load_checkpoint
    from kittiwake_training.config import load_config
    from kittiwake_training.pruning.latency import load_table
    from kittiwake_training.pruning.lessons import Sources, find_lesson

    task = [setting[5:] for setting in arguments.settings if setting.startswith("task.")]
    own = [setting for setting in arguments.settings if not setting.startswith("task.")]
    own += [f"{name}={json.dumps(value)}" for name in ("target", "importance", "backend")
            if (value := getattr(arguments, name)) is not None]  # fmt: skip
    if task:
        own.append(f"task={json.dumps(task)}")
    sparse = (arguments.target or "").startswith("sparsity=")
    dense = load_checkpoint(arguments.checkpoint)
    sources = Sources(arguments.data, arguments.output, arguments.workers)
    how: dict[str, Any] = {"resume": arguments.resume, "max_minutes": arguments.max_minutes}
    if sparse:
        from kittiwake_training.pruning.unstructured import SparseConfig, sparsify

        settings = load_config(SparseConfig, arguments.config, own)
        result = sparsify(dense, settings, find_lesson(dense.meta, settings.task, sources), arguments.output, **how)
    else:
        from kittiwake_training.pruning.rounds import PruneConfig, check_target, prune

        config = load_config(PruneConfig, arguments.config, own)
        tables = load_table(arguments.times) if arguments.times else {}
        check_target(dense, config, tables)  # before any data is read
        result = prune(dense, config, find_lesson(dense.meta, config.task, sources), tables, arguments.output, **how)
    if arguments.json:
        print(json.dumps({key: result[key] for key in ("finished", "points")}, indent=2))
    else:
        _print(result["points"])
        print(f"{arguments.output}: {'finished' if result['finished'] else 'stopped; go on with --resume'}")
    return 0 if result["finished"] else 1


def _print(points: Sequence[dict[str, Any]]) -> None:
    for point in points:
        times = "".join(f"  {name}: {1e3 * seconds:.2f} ms" for name, seconds in point["latency_s"].items())
        print(f"{point['label']:<9} {point['parameters']:>10,.0f} parameters  {point['flops'] / 1e9:.3f} GFLOP{times}")
        for metric in point["metrics"]:
            print(f"          {metric['split']:<28} {metric['name']:<22} {metric['value']:>9} {metric['unit']}")


command = Command("prune", "make a network smaller for a device", add_arguments, run, epilog=EPILOG)


if __name__ == "__main__":
    sys.exit(run_alone(command))
