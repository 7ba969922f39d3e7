"""Several processes that score or train one network, started by torchrun; with one, everything here does nothing."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cfp_cli.foundation.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes at work.

    Attributes:
        rank: which one this is; 0 alone writes results and prints.
        world_size: how many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def all_reduce(self, value: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether `flag` holds on one process at least."""
        return flag if self.world_size == 1 else float(self.all_reduce(torch.tensor(float(flag), device=device))) > 0

    def broadcast(self, value: T) -> T:
        """The first process's value, on every process; other processes' arguments are dropped."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def shard(self, count: int) -> range:
        """This process's part of `count` things: runs of equal length but for one, in the order of the ranks."""
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network with its gradients averaged over the processes and its buffers those of the first."""
        if self.world_size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def current() -> Workers:
    """The processes of the running group; one where there is no group."""
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()


def launched() -> bool:
    """Whether torchrun (or a like launcher) started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def rank() -> int:
    """Which process this is, also before the group is joined; 0 alone writes results and prints."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return int(os.environ["RANK"]) if launched() else 0


def join(device: torch.device) -> tuple[Workers, torch.device]:
    """Join the processes that torchrun started, until this one ends: gloo on CPUs, nccl on GPUs.

    Args:
        device: where to compute; `cuda` without a number becomes a GPU of this process's own.

    Returns:
        The processes at work, and this one's device.

    Raises:
        UsageError: there are fewer GPUs than processes on this machine.
    """
    if not launched():
        return current(), device
    if device.type == "cuda" and device.index is None:
        own, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if own >= gpus:
            raise UsageError(
                f"no GPU for process {own + 1}, GPUs here: {gpus}; start fewer processes or use --device cpu"
            )
        device = torch.device("cuda", own)
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    return current(), device


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
