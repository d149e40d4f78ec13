"""What two zeros in every four weights gain on a GPU, on the widest convolution of the descriptor."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

import torch
from by_rows import Skipped
from results import Figure
from torch.nn import functional

WIDTH = 192
VIEWS = 36 * 64
SIDE_PX = 13
"""Of the input of the widest convolution of a view."""
RUNS = 50
WORTH = 1.05
"""Less than this is no gain."""


def measure_sparsity24(quick: bool) -> list[Figure]:
    """The dense convolution's time over the time of the same by sparse tensor cores, float16.

    Raises:
        Skipped: there is no GPU that has them.
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        raise Skipped("2:4 needs an NVIDIA GPU of compute capability 8.0 or above")
    torch.manual_seed(0)
    views = 36 if quick else VIEWS
    x = torch.randn(views, WIDTH, SIDE_PX, SIDE_PX, device="cuda", dtype=torch.float16)
    x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(WIDTH, WIDTH, 3, 3, device="cuda", dtype=torch.float16)
    flat = weight.permute(0, 2, 3, 1).reshape(WIDTH, -1)  # taps before channels: fours lie along channels
    fours = flat.unflatten(1, (-1, 4))
    keep = torch.zeros_like(fours).scatter_(-1, fours.abs().topk(2, dim=-1).indices, 1.0)
    pruned = (fours * keep).flatten(1).contiguous()
    sparse = torch.sparse.to_sparse_semi_structured(pruned)
    whole = pruned.reshape(WIDTH, 3, 3, WIDTH).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def columns() -> torch.Tensor:
        windows = x.permute(0, 2, 3, 1).unfold(1, 3, 1).unfold(2, 3, 1)  # (N, h, w, C, 3, 3)
        return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * WIDTH)

    gathered = columns().T
    expected = functional.conv2d(x, whole).permute(0, 2, 3, 1).reshape(-1, WIDTH).T
    error = float((torch.mm(sparse, gathered) - expected).abs().max() / expected.abs().max())
    product = _seconds(lambda: torch.mm(pruned, gathered)) / _seconds(lambda: torch.mm(sparse, gathered))
    conv_s = _seconds(lambda: functional.conv2d(x, whole))
    ratio = conv_s / _seconds(lambda: torch.mm(sparse, columns().T))
    verdict = "" if ratio > WORTH else "no gain: "
    note = (
        f"{verdict}a 3 x 3 convolution, {WIDTH} to {WIDTH} channels, {views} views: dense by cuDNN {1e3 * conv_s:.3g} "
        f"ms, over gathering its windows and the sparse product; the product alone {product:.2f} x; results agree to "
        f"{error:.1e} of the largest"
    )
    return [Figure("sparsity24.gain", ratio, "x", RUNS, data=torch.cuda.get_device_name(), note=note)]


def _seconds(run: Callable[[], object]) -> float:
    for _ in range(5):
        run()
    times = []
    for _ in range(RUNS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e-3)
    return median(times)
