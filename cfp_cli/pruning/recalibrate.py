"""Re-estimation of batch-norm statistics after a rebuild: the inputs of every norm have changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress


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
    momenta = [norm.momentum for norm in norms]
    with evaluating(model), torch.no_grad():
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None
                norm.train()
            used = 0
            for images, _ in progress.track(loader, "recalibrating batch norm", unit="batch"):
                if len(images) > 1:
                    model(images.to(device))
                    used += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not used:
        raise DataError("batch norm cannot be re-estimated from batches of one image; use a larger --batch-size")
    return len(norms)


def settle(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], progress: Progress = SILENT) -> int:
    """Set running mean and variance of batch norms to those of their inputs, in place, while the function stays.

    Weight and bias of each batch norm take up what its statistics lose, so that the network computes in evaluation
    what it did before, and very nearly so in training too. A batch norm without weight and bias, or one that runs more
    than once a pass, is left alone.

    Returns:
        The number of batch norms that were settled.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.affine
    ]
    moments: dict[_BatchNorm, list[Tensor]] = {norm: [] for norm in norms}
    counts: dict[_BatchNorm, int] = dict.fromkeys(norms, 0)

    def take(norm: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        assert isinstance(norm, _BatchNorm)
        channels = (given[0] if given else named["input"]).transpose(0, 1).flatten(1).double()
        moments[norm].append(torch.stack([channels.sum(1), channels.square().sum(1)]))
        counts[norm] += channels.shape[1]

    handles = [norm.register_forward_pre_hook(take, with_kwargs=True) for norm in norms]
    device = next(model.parameters()).device
    batches = 0
    try:
        with evaluating(model), torch.no_grad():
            for images, _ in progress.track(loader, "settling batch norm", unit="batch"):
                model(images.to(device))
                batches += 1
    finally:
        for handle in handles:
            handle.remove()
    settled = 0
    with torch.no_grad():
        for norm, found in moments.items():
            if len(found) != batches:
                continue
            mean, square = torch.stack(found).sum(0) / counts[norm]
            _move(norm, mean, (square - mean.square()).clamp_min(0))
            settled += 1
    return settled


def _move(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Give a batch norm other statistics and the weight and bias with which it computes the same."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_(scale * (mean - norm.running_mean.double()))
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
