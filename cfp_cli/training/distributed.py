"""Several processes that train one network, started by torchrun; with one process, everything here does nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes at work.

    Attributes:
        rank: which one this is; 0 alone writes results and prints.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world > 1:
            dist.barrier()

    def add(self, value: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def share(self, value: T) -> T:
        """The first process's value, on every process; other processes' arguments are dropped."""
        if self.world == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box)
        return box[0]  # type: ignore[no-any-return]

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """The network with its gradients averaged over the processes and its buffers those of the first."""
        if self.world == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
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


@contextmanager
def group(device: torch.device) -> Iterator[Workers]:
    """Join the processes that torchrun started, for the time of the block: gloo on CPUs, nccl on GPUs.

    Args:
        device: where this process computes; for several GPUs each process must choose its own (`cuda:LOCAL_RANK`).
    """
    if not launched() or dist.is_initialized():
        yield current()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield current()
    finally:
        dist.destroy_process_group()
