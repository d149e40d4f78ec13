"""Training on one GPU and on two: `python benchmarks/training.py --data places`.

The same run of the localization descriptor is trained for some hundred steps on one device and on two, which share
every batch; images a second (an image is a view or a map window that is described), the loss at the end, and how long
the GPU waits. `QUICK=1` trains a tiny network in processes on the CPU, to try the benchmark itself; its figures go to
training.quick.*. Figures go to benchmarks/results/training.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from by_rows import is_quick, say
from results import RESULTS_DIR, Figure, command_line, write_results

SEED = 0
DEVICES = {1: "one_gpu", 2: "two_gpu"}
WARM_UP = 60
"""Steps before the clock starts: kernels are chosen and memory is taken in the first ones."""
PROFILED = 8
LAST = 100
"""Steps whose mean loss is the final one."""
DESCRIPTOR = ("cnn.width=192", "cnn.dim=64", "sampler.pairs=16384", "sampler.groups=16", "trainer.learning_rate=0.0025")
"""The shipped one's, with a batch so large that the GPU has more to do than the host that queues its work."""
TINY = (
    "cnn.width=8",
    "sampler.pairs=64",
    "trainer.accelerator=cpu",
    "world.validation_places=1",
    "world.size_m=500",
    "evaluation.queries=1",
)


def main() -> int:
    """Train on one and on two, and compare."""
    options, quick = parse_options(), is_quick()
    import torch

    if not quick and torch.cuda.device_count() < max(DEVICES):
        print(
            f"this needs {max(DEVICES)} GPUs, there are {torch.cuda.device_count()}; "
            "QUICK=1 tries the benchmark itself with two processes on the CPU",
            file=sys.stderr,
        )
        return 1
    settings = [*(TINY if quick else DESCRIPTOR), f"trainer.steps={options.steps}", "trainer.log_every=10"]
    settings += [f"world.places={options.worlds}", "evaluation.queries=1"]
    logs = {count: run(settings, count, options) for count in DEVICES}
    keep(compare(settings, logs), options, quick)
    if not quick:
        keep(waiting(settings, options), options, quick)
    return 0


def keep(figures: list[Figure], options: argparse.Namespace, quick: bool) -> None:
    """Write figures and say them, as soon as they are there."""
    name = "training.quick" if quick else "training"
    path = write_results(name, figures, command=command_line(), seed=SEED, directory=options.output)
    say(figures)
    print(f"wrote {path} and {path.with_suffix('.md').name}")


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="prepared places; without it, the procedural world alone")
    parser.add_argument("--steps", type=int, default=400, help="of each run (400)")
    parser.add_argument("--worlds", type=int, default=8, help="procedural places among the data (8)")
    parser.add_argument("--world-folder", type=Path, default=Path("out/training"), help="keeps the rendered ones")
    parser.add_argument("--output", type=Path, default=RESULTS_DIR, metavar="DIR", help="gets the results")
    return parser.parse_args()


def run(settings: list[str], devices: int, options: argparse.Namespace) -> list[dict[str, float]]:
    """Train once; the log's lines."""
    from kittiwake_training.distributed import launch

    with tempfile.TemporaryDirectory() as folder:
        launch(train_share, devices, settings, devices, options, Path(folder))
        return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def train_share(settings: list[str], devices: int, options: argparse.Namespace, folder: Path) -> int:
    """What each process runs: places, model, steps; no evaluation."""
    from kittiwake_training.localization.train import train_model
    from kittiwake_training.trainer import make_fabric

    config, fabric = _config(settings), make_fabric(_config(settings).trainer, devices)
    with fabric.rank_zero_first():
        places = _places(config, options)
    return train_model(fabric, config, places, folder)[1]


def compare(settings: list[str], logs: dict[int, list[dict[str, float]]]) -> list[Figure]:
    """Rates, scaling, and how far the final losses lie apart."""
    images = 2 * _config(settings).sampler.pairs
    rates, finals, figures = {}, {}, []
    data = f"{_devices(settings)}; {', '.join(settings)}"
    for count, log in logs.items():
        timed = [line for line in log if line["step"] >= min(WARM_UP, log[-1]["step"] // 2)]
        spans = [
            images * (b["step"] - a["step"]) / (b["elapsed_s"] - a["elapsed_s"])
            for a, b in pairwise(timed)
            if b["elapsed_s"] > a["elapsed_s"]
        ]
        seconds = timed[-1]["elapsed_s"] - timed[0]["elapsed_s"]
        rates[count] = images * (timed[-1]["step"] - timed[0]["step"]) / seconds
        low, high = np.percentile(spans, [2.5, 97.5])
        note = f"over {seconds:.0f} s after the warm-up; the interval holds 95 % of the spans between log lines"
        figures.append(
            Figure(f"{DEVICES[count]}.images_s", rates[count], "1/s", len(spans), (low, high), data=data, note=note)
        )
        finals[count] = float(np.mean([line["loss"] for line in log if line["step"] > log[-1]["step"] - LAST]))
        figures.append(
            Figure(f"{DEVICES[count]}.final_loss", finals[count], "nat", note=f"mean of the last {LAST} steps")
        )
    apart = 100 * abs(finals[2] / finals[1] - 1)
    return [
        *figures,
        Figure(
            "scaling", rates[2] / rates[1], "x", bar=">= 1.8", note="the same batch, shared by two devices", data=data
        ),
        Figure("final_loss.apart", apart, "%", bar="<= 1", note="two devices against one, the same steps"),
    ]


def waiting(settings: list[str], options: argparse.Namespace) -> list[Figure]:
    """How long one GPU computes nothing, and what part of its work makes the batches."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from kittiwake_training.distributed import ALONE
    from kittiwake_training.localization import train as training
    from kittiwake_training.localization.data import PairSampler
    from kittiwake_training.trainer import fit, make_fabric

    config = _config([*settings, f"trainer.steps={WARM_UP + PROFILED + 1}"])
    fabric = make_fabric(config.trainer)
    places = [place for place in _places(config, options) if place.split == "train"]
    model = training.make_model(config)
    sampler = PairSampler(places, config.sampler, fabric.device, config.seed, colours=model.colours)
    draw = sampler.batch

    def drawn(step: int) -> Any:
        with record_function("drawing"):
            return draw(step)

    sampler.batch = drawn  # type: ignore[method-assign]
    losses, recorder = (
        training.pair_losses(config, sampler, ALONE),
        profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]),
    )

    def watched(module: Any, step: int, progress: float) -> Any:
        if step in (WARM_UP, WARM_UP + PROFILED):
            torch.cuda.synchronize()
            recorder.start() if step == WARM_UP else recorder.stop()
        return losses(module, step, progress)

    with tempfile.TemporaryDirectory() as folder:
        encoder = training.PairEncoder(model).to(memory_format=torch.channels_last)
        fit(fabric, encoder, watched, config.trainer, Path(folder))
    print(recorder.key_averages().table(sort_by="self_device_time_total", row_limit=14, max_name_column_width=60))
    return _busy(recorder)


def _busy(recorder: Any) -> list[Figure]:
    """Idle share from the union of the kernels' intervals; the drawing's share from its own kernels."""
    from torch.autograd import DeviceType

    kernels = sorted(
        (event.time_range.start, event.time_range.end)
        for event in recorder.events()
        if event.device_type == DeviceType.CUDA and event.name != "drawing"
    )
    busy, until = 0.0, kernels[0][0]
    for start, end in kernels:
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    whole = until - kernels[0][0]
    drawing = [event for event in recorder.key_averages() if event.key == "drawing"]
    made = sum(event.device_time_total for event in drawing if event.device_type == DeviceType.CPU)
    note = f"{PROFILED} steps under the profiler, which itself slows the host"
    return [
        Figure(
            "one_gpu.waiting", 100 * (1 - busy / whole), "%", PROFILED, note=f"{note}; share of time without a kernel"
        ),
        Figure(
            "one_gpu.drawing", 100 * made / whole, "%", PROFILED, note="kernels that make the batches, on the same GPU"
        ),
    ]


def _devices(settings: list[str]) -> str:
    import torch

    gpu = torch.cuda.is_available() and "trainer.accelerator=cpu" not in settings
    return torch.cuda.get_device_name() if gpu else "processes on the CPU"


def _config(settings: list[str]) -> Any:
    from kittiwake_training.config import load_config
    from kittiwake_training.localization.train import LocalizationConfig

    return load_config(LocalizationConfig, None, settings)


def _places(config: Any, options: argparse.Namespace) -> Any:
    from kittiwake_training.localization.train import gather_places

    return gather_places(config, options.data, options.world_folder, (), workers=os.cpu_count() or 1)


if __name__ == "__main__":
    sys.exit(main())
