"""`kittiwake train`: also runs as ``python -m kittiwake_training.cli`` where nothing is installed."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from kittiwake_runtime.command import Command
from kittiwake_training.errors import TrainingError
from kittiwake_training.standalone import run_alone

EPILOG = """\
examples:
  kittiwake train localization --prepare RAW --data places        raw imagery to places, once
  kittiwake train localization --data places -o out/descriptor    train, evaluate, write a checkpoint
  kittiwake train localization --maps 2019.tif 2023.tif --set init=models/checkpoints/localization-descriptor \\
      -o out/tuned                                                fine-tune on one's own area at two dates
  kittiwake export out/descriptor -o bundle                       then make a bundle of it

RAW holds season_train/ and, or, s2_pair_germany/.
Beside the checkpoint lie config.json, log.jsonl and loss.png.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``train localization``."""
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    task = tasks.add_parser(
        "localization",
        help="the descriptor that finds a ground view on a map",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    task.add_argument("--data", type=Path, help="folder of prepared places; without it, the procedural world alone")
    task.add_argument("-o", "--output", type=Path, metavar="CKPT", help="folder of the checkpoint")
    task.add_argument("--prepare", type=Path, metavar="RAW", help="turn raw imagery into places in --data, and stop")
    task.add_argument(
        "--maps",
        type=Path,
        nargs="+",
        default=[],
        metavar="TIF",
        help="georeferenced rasters of your own area, one a date; its eastern quarter validates",
    )
    task.add_argument("--config", type=Path, metavar="TOML", help="values of the config's fields")
    task.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="one value, e.g. trainer.steps=2000; may be repeated",
    )
    task.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="GPUs (or, without any, processes on the CPU) that share every batch; the same result, sooner",
    )
    task.add_argument(
        "--max-minutes",
        type=float,
        default=math.inf,
        help="stop training after so long; --resume goes on from there",
    )
    task.add_argument("--resume", action="store_true", help="go on from the state in CKPT, if there is one")
    task.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes that render the world")
    task.add_argument("--json", action="store_true", help="print the metrics for machines")


def run(arguments: argparse.Namespace) -> int:
    """Prepare data, or train; 0 when done, 1 when time ran out before the steps were done."""
    from kittiwake_training.localization.prepare import prepare

    if arguments.prepare:
        if not arguments.data:
            raise TrainingError("--prepare needs --data", "name the folder that gets the places")
        paths = prepare(arguments.prepare, arguments.data)
        megabytes = sum(path.stat().st_size for path in paths) / 1e6
        print(f"{len(paths)} places, {megabytes:.0f} MB in {arguments.data}")
        return 0
    if not arguments.output:
        raise TrainingError("no folder for the checkpoint", "give one with -o")

    from kittiwake_training.config import load_config
    from kittiwake_training.distributed import launch
    from kittiwake_training.localization.train import LocalizationConfig, train

    config = load_config(LocalizationConfig, arguments.config, arguments.settings)
    options = {
        "maps": arguments.maps,
        "workers": arguments.workers,
        "resume": arguments.resume,
        "max_minutes": arguments.max_minutes,
    }
    if arguments.devices > 1:
        devices = arguments.devices
        result = launch(_train_share, devices, config, devices, arguments.data, arguments.output, options)
    else:
        result = train(config, arguments.data, arguments.output, **options)
    if arguments.json:
        print(json.dumps({key: result[key] for key in ("finished", "steps", "metrics")}, indent=2))
    else:
        for metric in result["metrics"]:
            print(
                f"{metric['split']:<28} {metric['name']:<22} {metric['value']:>9} {metric['unit']}  (n = {metric['n']})"
            )
        state = "finished" if result["finished"] else f"stopped at step {result['steps']}; go on with --resume"
        print(f"{arguments.output}: {state}")
    return 0 if result["finished"] else 1


def _train_share(config: Any, devices: int, data: Path | None, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """What each of several processes runs."""
    from kittiwake_training.localization.train import train

    return train(config, data, output, devices=devices, **options)


command = Command("train", "train a model and write a checkpoint", add_arguments, run, epilog=EPILOG)


if __name__ == "__main__":
    sys.exit(run_alone(command))
