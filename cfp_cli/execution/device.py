"""Where the work runs: one place sets the device and the threads of torch and of the scoring core together."""

from __future__ import annotations

import os

import torch

import cfp_core
from cfp_cli.execution.cores import usable_cores
from cfp_cli.foundation.errors import UsageError


def use(device: str = "auto", threads: int | None = None) -> torch.device:
    """Choose a device and a number of CPU threads for all that follows in this process.

    Args:
        device: `auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of torch and of the scoring core; None takes all cores this process may use.

    Raises:
        UsageError: the device does not exist here.
    """
    # Processes that torchrun starts on one machine share its cores.
    count = threads or max(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    torch.set_num_threads(count)
    cfp_core.set_threads(count)
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"no device '{device}'; use auto, cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise UsageError(f"no device '{device}'; use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise UsageError(f"no CUDA device '{device}' on this machine; use --device cpu")
    return chosen
