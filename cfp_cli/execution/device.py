"""Choose the device, and the number of CPU threads of torch and of the scoring core."""

from __future__ import annotations

import logging
import os

import torch

import cfp_core
from cfp_cli.execution.cores import usable_cores
from cfp_cli.foundation.errors import UsageError

LOGGER = logging.getLogger(__name__)


def choose_device(device: str = "auto", threads: int | None = None) -> torch.device:
    """Choose the device, and set the number of CPU threads of this process.

    Args:
        device: `auto` (CUDA if available, else CPU), `cpu`, `cuda` or `cuda:N`.
        threads: CPU threads of torch and of the scoring core; None for all cores that this process may use.

    Raises:
        UsageError: this machine does not have the device.
    """
    # Divide the cores by the number of processes that torchrun started on this machine.
    count = threads or max(usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    torch.set_num_threads(count)
    cfp_core.set_threads(count)
    chosen = _device(device)
    LOGGER.info("device %s, %d CPU thread%s", chosen, count, "" if count == 1 else "s")
    return chosen


def _device(device: str) -> torch.device:
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
