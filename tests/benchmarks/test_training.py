from __future__ import annotations

from types import SimpleNamespace

import ablations
import numpy as np
import pytest

import training
from kittiwake_runtime.localization.likelihood import Likelihood


def _log(seconds_a_step: float, loss: float) -> list[dict[str, float]]:
    first_s = 7.0  # kernels are chosen in the first steps, which do not count
    return [
        {"step": step, "elapsed_s": first_s + seconds_a_step * step, "loss": loss if step > 200 else 9.0}
        for step in range(10, 301, 10)
    ]


def test_rates_scaling_and_losses_are_those_of_the_logs() -> None:
    figures = {f.id: f for f in training.compare(["sampler.pairs=1000"], {1: _log(0.1, 2.0), 2: _log(0.055, 2.01)})}
    assert figures["one_gpu.images_s"].value == pytest.approx(2000 / 0.1)
    assert figures["two_gpu.images_s"].value == pytest.approx(2000 / 0.055)
    assert figures["scaling"].value == pytest.approx(0.1 / 0.055)
    assert figures["one_gpu.final_loss"].value == pytest.approx(2.0)
    assert figures["final_loss.apart"].value == pytest.approx(0.5)


def test_without_two_gpus_the_benchmark_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("sys.argv", ["training.py"])
    monkeypatch.delenv("QUICK", raising=False)
    assert training.main() == 1
    assert "needs 2 GPUs, there are 1" in capsys.readouterr().err


def test_what_a_frame_tells_is_the_log_ratio_to_its_own_background() -> None:
    """A linear log-ratio: exp(slope z) over its mean under the background, in a closed form for a Gaussian one."""
    slope, lo, hi = 2.0, -6.0, 14.0
    likelihood = Likelihood(lo, hi, np.linspace(slope * lo, slope * hi, 256), null=0.0)
    edges = np.linspace(lo, hi, 513)
    wrong = 1e6 * np.exp(-0.5 * ((edges[:-1] + edges[1:]) / 2) ** 2)
    query = SimpleNamespace(z=4.0, wrong=np.stack([wrong, wrong]))
    assert ablations._told(likelihood, query) == pytest.approx(slope * 4.0 - slope**2 / 2, abs=0.15)
