"""Several processes as one: a batch that is spread over devices gives the loss and the gradients of the whole.

Three things tie samples of different processes together, and each has its place here: a loss whose wrong answers
stand in other processes' shares (``Peers.gather``), batch normalization (``share_statistics``), and starting and
watching the processes themselves (``launch``). Everything else is DistributedDataParallel's.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kittiwake_training.errors import TrainingError


@dataclass(frozen=True)
class Peers:
    """The processes of a run, as one of them sees them.

    Args:
        rank: this process, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    def gather(self, share: Tensor) -> Tensor:
        """(n, ...) of each process -> (count n, ...) in the order of ranks; gradients flow back to every share."""
        return share if self.count == 1 else _Gather.apply(share)

    def total(self, share: Tensor) -> Tensor:
        """The sum of a tensor over all processes, without a gradient."""
        if self.count == 1:
            return share.detach()
        whole = share.detach().clone()
        distributed.all_reduce(whole)
        return whole

    def for_backward(self, share: Tensor) -> Tensor:
        """This process's share of a sum, as a scalar whose value is the sum and whose gradient is right under DDP.

        DistributedDataParallel takes the mean of the processes' gradients where the gradient of a sum is their sum.
        """
        scaled = share * self.count
        return scaled + (self.total(share) - scaled).detach()


ALONE = Peers()


def share_statistics(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every ``nn.BatchNorm2d`` inside by one whose statistics are those of all processes together.

    Parameters, buffers and their names stay as they are. GPUs get torch's ``nn.SyncBatchNorm``, which knows no CPU.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(module, name, _SharedBatchNorm.like(child))
        else:
            share_statistics(child, device)
    return module


def launch(function: Callable[..., Any], count: int, *arguments: Any) -> Any:
    """Run a function in several processes of this machine, each of which Lightning Fabric finds its rank in.

    Args:
        function: importable by name, as are its arguments; called once in each process.
        count: of processes.

    Returns:
        What the first process returned.

    Raises:
        TrainingError: one of them failed or was killed: which, and how; the others have been ended then.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
    )
    try:
        with _shared_cores(count):
            return elastic_launch(config, function)(*arguments)[0]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        why = failure.message if failure.exitcode >= 0 else "was killed"
        raise TrainingError(
            f"process {rank} of {count} (pid {failure.pid}) ended with {how}: {why}",
            "the others were stopped; --resume goes on from the last state written",
        ) from error


@contextmanager
def _shared_cores(count: int) -> Iterator[None]:
    """Processes that compute on CPUs share the cores, each would otherwise take all; a setting of the user's stays."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // count))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


class _Gather(torch.autograd.Function):
    """All processes' shares in the order of ranks; backward, each gets the sum of what all ask of its share."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        parts = [torch.empty_like(share) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, share.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        whole = gradient.contiguous()
        distributed.all_reduce(whole)
        return whole.chunk(distributed.get_world_size())[distributed.get_rank()]


class _Sum(torch.autograd.Function):
    """The sum over all processes; backward too, since every process's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        whole = share.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        whole = gradient.clone()
        distributed.all_reduce(whole)
        return whole


class _SharedBatchNorm(nn.BatchNorm2d):
    """Batch normalization over the batches of all processes, on CPUs (Ioffe and Szegedy, arXiv 1502.03167)."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> _SharedBatchNorm:
        """The same layer, with the same parameters and buffers."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared.__dict__.update(norm.__dict__)
        return shared

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape and dtype."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        count = torch.full((1,), float(x.numel() // x.shape[1]), device=x.device)
        sums = torch.cat([wide.sum(dim=(0, 2, 3)), wide.square().sum(dim=(0, 2, 3)), count])
        total, square, number = _Sum.apply(sums).split([x.shape[1], x.shape[1], 1])
        mean = total / number
        variance = (square / number - mean.square()).clamp(min=0.0)
        self._follow(mean.detach(), variance.detach() * (number / (number - 1)).detach())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Running statistics, as ``nn.BatchNorm2d`` keeps them."""
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)
