"""The benchmark of export and engines: what it compares is the same, and another machine's figures are merged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import engines
import numpy as np
import pytest
import torch
from engine_rows import gpu
from results import Figure, write_results

from kittiwake_runtime import Bundle, open_engine

ROOT = Path(__file__).resolve().parents[2]


def started(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "engines.py"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_help_names_every_row_and_unknown_ones_are_refused() -> None:
    shown = started("--help").stdout
    assert all(f"  {name} " in shown for name in engines.ROWS)
    done = started("--rows", "gpu,cpu9")
    assert done.returncode == 2
    assert "no row cpu9" in done.stderr


def test_another_machines_figures_replace_theirs_and_no_others(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    old = [Figure("import.s", 0.1, "s"), Figure("gpu.overlap", 50.0, "%", 9, (40.0, 60.0), ">= 90")]
    write_results("engines", old, command="old", seed=0, directory=here)
    new = [Figure("gpu.overlap", 95.0, "%", 9, (94.0, 96.0), ">= 90", data="a GPU")]
    file = write_results("engines", new, command="new", seed=0, directory=there)
    done = started("--merge", str(file), "--output", str(here))
    assert done.returncode == 0, done.stderr
    assert "gpu.overlap" in done.stdout and "95" in done.stdout
    figures = json.loads((here / "engines.json").read_text())["figures"]
    assert [(figure["id"], figure["value"], figure["data"]) for figure in figures] == [
        ("import.s", 0.1, ""), ("gpu.overlap", 95.0, "a GPU"),
    ]  # fmt: skip


def test_torchs_side_of_the_comparison_computes_the_shipped_descriptor() -> None:
    """In float16 with folded norms, against the bundle's network in float32."""
    view = torch.rand(2, 4, 33, 33, generator=torch.Generator().manual_seed(0))
    view[:, 3] = 1.0
    with open_engine(Bundle.open("localization-descriptor"), "cpu") as engine, torch.inference_mode():
        expected = torch.from_numpy(engine.infer({"view": view.numpy()})["descriptor"])
        found = gpu.torch_descriptor()(view)
    assert float((found * expected).sum(dim=1).min()) > 0.999  # cosines


def test_the_gpus_row_needs_nothing_but_what_its_machine_has() -> None:
    code = (
        "import sys\n"
        "for name in ('rasterio', 'pyproj', 'lightning', 'scipy', 'yaml'):\n"
        "    sys.modules[name] = None\n"
        "import engines, engine_rows.gpu"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "benchmarks", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_frames_network_computes_what_the_module_does(tmp_path: Path) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 945, 945, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = gpu.FrameClassifier().eval()(torch.from_numpy(frame)).numpy()
    bundle = gpu.frame_bundle(tmp_path)
    for precision, share in (("fp32", 1e-4), ("fp16", 0.02)):
        with open_engine(bundle, "cpu", precision, "require") as engine:
            found = engine.infer({"frame": frame})["logits"]
        assert np.abs(found - expected).max() <= share * np.abs(expected).max()
