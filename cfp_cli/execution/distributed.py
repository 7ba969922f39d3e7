"""Score or train one network in several processes that torchrun started. In a single process nothing is exchanged."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from cfp_cli.execution import launch
from cfp_cli.foundation.errors import TrainingError, UsageError

T = TypeVar("T")

# How long a process waits at the start for the others.
JOIN_LIMIT = timedelta(minutes=5)
# How long a process waits for others whose work may be much longer; a process that ends is noticed at once.
PATIENCE = timedelta(days=30)


@dataclass(frozen=True)
class Workers:
    """The group of processes.

    Attributes:
        rank: index of this process; only process 0 writes results and prints.
        world_size: number of processes.
        channel: the process group of the exchanges; None is the default one.
    """

    rank: int = 0
    world_size: int = 1
    channel: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        """Return whether this is process 0, which writes and prints."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process has called this method."""
        if self.world_size > 1:
            dist.barrier(group=self.channel)

    def all_reduce(self, value: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        if self.world_size > 1:
            dist.all_reduce(value, group=self.channel)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether `flag` is true in at least one process."""
        return flag if self.world_size == 1 else float(self.all_reduce(torch.tensor(float(flag), device=device))) > 0

    def broadcast(self, value: T) -> T:
        """Return the value of process 0 in every process. The arguments of the other processes are ignored."""
        if self.world_size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, group=self.channel)
        return box[0]  # type: ignore[no-any-return]

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, in the order of their ranks, in every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self.channel)
        return values

    def shard(self, count: int) -> range:
        """Return the indices, out of `count`, that belong to this process. Sizes differ by one at most."""
        return range(self.rank * count // self.world_size, (self.rank + 1) * count // self.world_size)

    def wrap(self, model: nn.Module, device: torch.device) -> nn.Module:
        """Wrap a network: gradients are averaged over the processes, and buffers are copied from process 0."""
        if self.world_size == 1 or not any(parameter.requires_grad for parameter in model.parameters()):
            return model
        return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)

    def patient(self) -> Workers:
        """Return the group for work of which one process may do much more than another; all processes call this."""
        if self.world_size == 1:
            return self
        channel = dist.new_group(timeout=PATIENCE, backend="gloo")
        assert isinstance(channel, dist.ProcessGroup)
        return replace(self, channel=channel)


class _State:
    """Whether this process works on its own at the moment; see `alone`."""

    alone = False


@contextmanager
def alone() -> Iterator[None]:
    """Work as if this were the only process: `current` returns a group of one, and `rank` is 0."""
    before, _State.alone = _State.alone, True
    try:
        yield
    finally:
        _State.alone = before


def current() -> Workers:
    """Return the group that this process has joined; a group of one where it has joined none, or works `alone`."""
    if _State.alone:
        return Workers()
    if dist.is_available() and dist.is_initialized():
        return Workers(dist.get_rank(), dist.get_world_size())
    return Workers()


def rank() -> int:
    """Return the rank of this process, also before it has joined the group; 0 where it works `alone`."""
    if _State.alone:
        return 0
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank()
    return launch.rank()


def join(device: torch.device) -> tuple[Workers, torch.device]:
    """Join the group of processes that torchrun started, and leave it at exit. Uses gloo on CPUs and nccl on GPUs.

    Args:
        device: device to compute on. `cuda` without a number selects a different GPU for each process.

    Returns:
        The group, and the device of this process.

    Raises:
        UsageError: the launcher's environment cannot be used, or this machine has fewer GPUs than processes.
        TrainingError: the other processes cannot be reached within `JOIN_LIMIT`.
    """
    launch.rank()
    if not launch.launched():
        return current(), device
    if device.type == "cuda" and device.index is None:
        index, gpus = launch.local_rank(), torch.cuda.device_count()
        if index >= gpus:
            raise UsageError(
                f"no GPU for process {index + 1}, this machine has {gpus}; start fewer processes or use --device cpu"
            )
        device = torch.device("cuda", index)
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device)
        try:
            # The limit of PyTorch, 30 minutes, is meant for the work between two exchanges.
            store, rank, size = next(rendezvous("env://", timeout=JOIN_LIMIT))
            backend = "nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size)
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0][:200]
            raise TrainingError(
                f"the other processes cannot be reached ({reason}); start all of them with torchrun"
            ) from error
        atexit.register(_leave)
    return current(), device


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
