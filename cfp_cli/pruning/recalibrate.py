"""Re-estimate the statistics of batch norm after a rebuild, since the inputs of every norm have changed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph.trace import TracedGraph
from cfp_cli.models.forward_pass import run_network
from cfp_cli.pruning.norm_calls import changeable_norms


def recalibrate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], progress: Progress = SILENT) -> int:
    """Set running mean and variance of every batch norm to their plain average over the batches of `loader`, in place.

    All other modules stay in eval mode, so dropout is off. Batches of one image are skipped: they have no variance.

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
                    run_network(model, images.to(device))
                    used += 1
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
    if not used:
        raise DataError("batch norm cannot be re-estimated from batches of one image; use a larger --batch-size")
    return len(norms)


def absorb_statistics(
    model: nn.Module, traced: TracedGraph, loader: Iterable[tuple[Tensor, Tensor]], progress: Progress = SILENT
) -> int:
    """Set running mean and variance of batch norms to those of their inputs, in place, without a change of the outputs.

    Weight and bias of each batch norm absorb the change of its statistics. The network computes the same in evaluation,
    and nearly the same in training. A batch norm without weight and bias is skipped, as is one that runs more than once
    a pass, computes something else than its module says, or has a tensor that other code reads.

    Args:
        model: the network.
        traced: the network, or the original that it was pruned from.
        loader: batches of images and labels.
        progress: reports progress over the batches.

    Returns:
        The number of batch norms that were re-estimated.
    """
    modules = map(model.get_submodule, changeable_norms(traced).values())
    norms = [module for module in modules if isinstance(module, _BatchNorm) and module.affine]
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
            for images, _ in progress.track(loader, "recalibrating batch norm", unit="batch"):
                run_network(model, images.to(device))
                batches += 1
    finally:
        for handle in handles:
            handle.remove()
    changed = 0
    with torch.no_grad():
        for norm, found in moments.items():
            if len(found) != batches:
                continue
            mean, square = torch.stack(found).sum(0) / counts[norm]
            variance = (square - mean.square()).clamp_min(0)
            assert norm.running_var is not None
            if not variance.to(norm.running_var.dtype).isfinite().all():
                continue
            _set_statistics(norm, mean, variance)
            changed += 1
    return changed


def _set_statistics(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Set the statistics of a batch norm, and the weight and bias with which it computes the same as before."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.add_(scale * (mean - norm.running_mean.double()))
    norm.weight.copy_(scale * (variance + norm.eps).sqrt())
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)
