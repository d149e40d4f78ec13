"""What helps the descriptor: `python benchmarks/ablations.py --data places -o out/ablations`.

Short trainings that differ from the first in one thing each, side by side on the GPUs that there are; then the
networks again under each likelihood. Held-out places decide; with `--aside`, rasters of a ground that nothing is
trained or calibrated on are measured too, to see what carries over. A variant that has its outcome under `-o` is not
trained again, so a run that was stopped goes on. Figures go to benchmarks/results/ablations.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from results import RESULTS_DIR, Figure, command_line, write_atomically, write_results

SEED = 0
STEPS = 2000
COMMON = (
    "trainer.steps={steps}",
    "cnn.width=128",
    "cnn.dim=64",
    "sampler.pairs=1024",
    "sampler.world_share=0.2",
    "trainer.learning_rate=0.0025",
)


@dataclass(frozen=True)
class Variant:
    """One training.

    Attributes:
        about: what is changed, for a reader.
        settings: ``key=value`` on top of the common ones.
        sources: of the places to train on; None for all.
    """

    about: str
    settings: tuple[str, ...] = ()
    sources: frozenset[str] | None = None


_PLAIN = tuple(f"sampler.augmentation.{name}" for name in ("gain=1.0", "noise=0.0", "mix_share=0.0"))
_HARSH = tuple(f"sampler.augmentation.{name}" for name in ("gain=1.6", "noise=0.06", "inverse_share=0.3"))

VARIANTS: dict[str, Variant] = {
    "base": Variant("nothing: width 128, 64 dimensions, all data"),
    "seed": Variant("another seed: how much is noise", ("seed=1",)),
    "data.season": Variant("season_train alone", sources=frozenset({"season_train"})),
    "data.season_width192": Variant(
        "season_train alone, width 192", ("cnn.width=192",), sources=frozenset({"season_train"})
    ),
    "data.imagery": Variant("season_train and Germany", sources=frozenset({"season_train", "s2_pair_germany"})),
    "data.world": Variant("procedural worlds alone", sources=frozenset({"world"})),
    "data.prairies": Variant(
        "with 48 places of made-up open country", ("world.prairies=48", "sampler.world_share=0.3")
    ),
    "scale.one": Variant("one scale, 1 pixel a sample", ("sampler.imagery_step=[1.0, 1.0]",)),
    "scale.wide": Variant("scales 0.5 to 2 pixels a sample", ("sampler.imagery_step=[0.5, 2.0]",)),
    "negatives.one": Variant("1 place a batch instead of 2: all wrong answers are hard", ("sampler.groups=1",)),
    "negatives.many": Variant("32 places a batch: few wrong answers are hard", ("sampler.groups=32",)),
    "negatives.turned": Variant("none on the same spot, turned", ("sampler.augmentation.turned_share=0.0",)),
    "photometry.none": Variant("light unchanged, no noise, bands never mixed", _PLAIN),
    "photometry.harsh": Variant("light, noise and mixtures twice as strong", _HARSH),
    "disc.27": Variant("a disc of 27 px", ("sampler.augmentation.disc_px=27.0", "evaluation.disc_px=27.0")),
    "disc.21": Variant("a disc of 21 px", ("sampler.augmentation.disc_px=21.0", "evaluation.disc_px=21.0")),
    "temperature.05": Variant("temperature 0.05 instead of 0.07", ("temperature=0.05",)),
    "network.width192": Variant("width 192, the shipped size", ("cnn.width=192",)),
    "network.gradients": Variant("hand-made: gradient orientations", ("model=localization.gradients",)),
    "network.lite0": Variant("EfficientNet-Lite0's first blocks, from ImageNet", ("model=localization.lite0",)),
    "network.capsules": Variant("capsule head on the same backbone", ("model=localization.capsules",)),
}
NETWORKS = ("network.gradients", "network.lite0", "network.capsules", "base")


def main() -> int:
    """Train and measure; 1 if a variant failed."""
    options = parse_options()
    if options.only:
        measure(options.only, options)
        return 0
    failed = run_side_by_side(options)
    outcomes = {name: _outcome(options.output, name) for name in VARIANTS}
    figures = [figure for name, found in outcomes.items() if found for figure in figures_of(name, found)]
    if not figures:
        return 1
    path = write_results("ablations", figures, command=command_line(), seed=SEED, directory=RESULTS_DIR)
    print(f"wrote {path} and {path.with_suffix('.md').name}")
    return 1 if failed else 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    about = "\n".join(f"  {name:20} {variant.about}" for name, variant in VARIANTS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"variants:\n{about}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="prepared places (kittiwake train ... --prepare)")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/ablations"), metavar="DIR")
    parser.add_argument("--aside", type=Path, nargs="*", default=[], metavar="TIF", help="dates of a ground kept aside")
    parser.add_argument("--variants", type=lambda text: text.split(","), default=list(VARIANTS), metavar="A,B")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each training ({STEPS})")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings side by side on each GPU")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes that render worlds")
    parser.add_argument("--gpus", type=int, default=1, metavar="N")
    parser.add_argument("--max-minutes", type=float, default=1e9, help="begin no further training after so long")
    parser.add_argument("--only", choices=VARIANTS, help=argparse.SUPPRESS)
    return parser.parse_args()


def run_side_by_side(options: argparse.Namespace) -> int:
    """Train what has no outcome yet, each in a process of its own; how many failed."""
    todo = [name for name in options.variants if _outcome(options.output, name) is None]
    running: dict[subprocess.Popen[bytes], tuple[str, int]] = {}
    started, failed = time.monotonic(), 0
    slots = [gpu for _ in range(options.jobs) for gpu in range(options.gpus)]
    while todo or running:
        late = time.monotonic() - started > options.max_minutes * 60
        while todo and slots and not late:
            name, gpu = todo.pop(0), slots.pop()
            running[_start(name, gpu, options)] = (name, gpu)
        for process in [p for p in running if p.poll() is not None]:
            name, gpu = running.pop(process)
            slots.append(gpu)
            failed += process.returncode != 0
            print(f"{time.monotonic() - started:6.0f} s  {name}: exit {process.returncode}", file=sys.stderr)
        if late and not running:
            break
        time.sleep(0.5)
    return failed


def _start(name: str, gpu: int, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    options.output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": str(gpu), "OMP_NUM_THREADS": "1"}
    with (options.output / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def measure(name: str, options: argparse.Namespace) -> None:
    """Train one variant, query the held-out places and those kept aside, and keep the outcome."""
    from kittiwake_training.config import load_config
    from kittiwake_training.localization import train as training
    from kittiwake_training.localization.evaluate import evaluate, metrics
    from kittiwake_training.localization.prepare import place_from_rasters
    from kittiwake_training.trainer import make_fabric

    variant = VARIANTS[name]
    settings = [setting.format(steps=options.steps) for setting in COMMON] + list(variant.settings)
    config = load_config(training.LocalizationConfig, None, settings)
    folder = options.output / name
    places = training.gather_places(config, options.data, options.output / "world", (), workers=options.workers)
    if variant.sources is not None:
        places = [place for place in places if place.split == "validation" or place.source in variant.sources]
    fabric = make_fabric(config.trainer)
    model, _ = training.train_model(fabric, config, places, folder)
    held_out = [place for place in places if place.split == "validation"]
    outcomes = evaluate(model, held_out, config.evaluation, fabric.device, SEED)
    found = {"device": _device(fabric), "metrics": metrics(outcomes), "likelihoods": likelihoods(outcomes)}
    if options.aside:
        ground = place_from_rasters(options.aside, "aside")
        often = replace(config.evaluation, queries=384, imagery_steps=(160 / 33 / ground.gsd_m,))
        found["aside"] = metrics(evaluate(model, [ground], often, fabric.device, SEED))
    write_atomically(options.output / f"{name}.json", json.dumps(found))


def likelihoods(outcomes: dict[str, list[Any]]) -> dict[str, float]:
    """Information of a frame under each likelihood, nats: calibrated on half of the imagery's places, measured on the
    other half, and the other way round."""
    from kittiwake_runtime.localization.likelihood import ESTIMATES
    from kittiwake_training.localization.evaluate import calibration

    queries = [query for source, found in outcomes.items() if source != "world" for query in found]
    names = sorted({query.place for query in queries})
    told: dict[str, list[float]] = {name: [] for name in ESTIMATES}
    for kept in (set(names[::2]), set(names[1::2])):
        fitted = calibration({"imagery": [query for query in queries if query.place not in kept]}, [])
        for name, estimate in ESTIMATES.items():
            likelihood = estimate(fitted)
            told[name] += [_told(likelihood, query) for query in queries if query.place in kept]
    return {name: float(np.mean(values)) for name, values in told.items()}


def _told(likelihood: Any, query: Any) -> float:
    """Log-ratio that a frame gives to the right state."""
    background = query.wrong[1].reshape(256, -1).sum(axis=1)
    table = likelihood.table(background)
    level = (query.z - likelihood.lo) * likelihood.steps_per_z
    return float(np.log(table[int(np.clip(np.rint(level), 0, len(table) - 1))]))


def figures_of(name: str, found: dict[str, Any]) -> list[Figure]:
    """A variant's figures: information and recall on held-out places, on those aside, and under each likelihood."""
    about, figures = f"{VARIANTS[name].about}; trained on one {found['device']}", []
    wanted = {"information": ("information", "nat"), "recall_60m_at_160m": ("recall60m", "%")}
    for where, metric in [("", m) for m in found["metrics"]] + [(".aside", m) for m in found.get("aside", [])]:
        if metric["name"] in wanted:
            short, unit = wanted[metric["name"]]
            place = where or "." + metric["split"].split(", ")[1]
            figures.append(Figure(f"{name}{place}.{short}", metric["value"], unit, metric["n"], note=about))
    if name in NETWORKS:
        for estimate, value in found["likelihoods"].items():
            figures.append(Figure(f"{name}.{estimate}", value, "nat", note="held-out imagery, two-fold over places"))
    return figures


def _device(fabric: Any) -> str:
    import torch

    return torch.cuda.get_device_name() if fabric.device.type == "cuda" else "CPU"


def _outcome(folder: Path, name: str) -> dict[str, Any] | None:
    file = folder / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
