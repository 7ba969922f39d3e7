"""Re-estimation of batch-norm statistics after a rebuild: the inputs of every norm have changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.errors import DataError
from cfp_cli.progress import SILENT, Progress


def recalibrate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], progress: Progress = SILENT) -> int:
    """Set running mean and variance of every batch norm to their plain average over the batches of `loader`, in place.

    All else stays in eval mode, so dropout is off. Batches of one image are left out: they have no variance.

    Returns:
        The number of batch norms that were re-estimated.

    Raises:
        DataError: no batch has two images or more.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        return 0
    device = next(model.parameters()).device
    was_training = model.training
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        used = 0
        with torch.no_grad():
            for images, _ in progress.track(loader, "recalibrating batch norm", unit="batch"):
                if len(images) > 1:
                    model(images.to(device))
                    used += 1
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(was_training)
    if not used:
        raise DataError("batch norm cannot be re-estimated from batches of one image; use a larger --batch-size")
    return len(norms)
