"""Criteria from weights or from the loss, to compare with the scores of feature maps.

Several layers may make the channels of one set. The importance of a channel is then the mean over these layers, after
division of each layer's values by their mean, as group pruning does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cfp_cli.execution.forward import forward_errors
from cfp_cli.graph import ChannelGraph
from cfp_cli.measuring.predictions import require_logits
from cfp_cli.scoring.scores import Scores

Loader = Iterable[tuple[Tensor, Tensor]]


def _l1(weight: Tensor) -> Tensor:
    return weight.flatten(1).abs().sum(1)


def _l2(weight: Tensor) -> Tensor:
    return weight.flatten(1).square().sum(1).sqrt()


def _fpgm(weight: Tensor) -> Tensor:
    rows = weight.flatten(1)
    return torch.cdist(rows, rows).sum(1)


WEIGHT_CRITERIA: dict[str, Callable[[Tensor], Tensor]] = {"l1": _l1, "l2": _l2, "fpgm": _fpgm}
CRITERIA = (*WEIGHT_CRITERIA, "group-norm", "taylor", "random")


def rescored(
    scores: Scores, criterion: str, model: nn.Module, graph: ChannelGraph, loader: Loader, seed: int
) -> Scores:
    """The scores with a criterion's importance in place of richness; distances are unchanged.

    Args:
        scores: of the network.
        criterion: one of `CRITERIA`.
        model: the network, in eval mode.
        graph: its channel sets.
        loader: batches of training images and labels, for `taylor`.
        seed: of `random`.

    Raises:
        ValueError: there is no such criterion.
    """
    if criterion == "random":
        generator = np.random.default_rng(seed)
        found = {each.name: generator.random(each.channels) for each in scores.sets}
    elif criterion == "group-norm":
        found = _group_norm(model, graph)
    elif criterion == "taylor":
        found = _by_set(graph, _taylor(model, graph, loader))
    elif criterion in WEIGHT_CRITERIA:
        measure = WEIGHT_CRITERIA[criterion]
        parameters = dict(model.named_parameters())
        found = _by_set(graph, {name: measure(parameters[name].detach()) for name in _makers(graph)})
    else:
        raise ValueError(f"no criterion '{criterion}'; one of {', '.join(CRITERIA)}")
    sets = tuple(replace(each, richness=found[each.name]) for each in scores.sets)
    return replace(scores, sets=sets, richness=criterion)


def _group_norm(model: nn.Module, graph: ChannelGraph) -> dict[str, NDArray[np.float64]]:
    """Norm of all parameters that make, scale or read a channel (DepGraph, CVPR 2023)."""
    total = np.zeros(int(graph.offsets[-1]))
    parameters = dict(model.named_parameters())
    for dimension in graph.dimensions:
        if dimension.name in parameters and dimension.units.ndim == 1:
            squares = parameters[dimension.name].detach().double().square()
            others = [dim for dim in range(squares.dim()) if dim != dimension.dim]
            values = (squares.sum(others) if others else squares).cpu().numpy()
            shown = dimension.units >= 0
            np.add.at(total, dimension.units[shown], values[shown])
    return _split(graph, np.sqrt(total))


def _makers(graph: ChannelGraph) -> dict[str, NDArray[np.int64]]:
    """The running unit number of every output channel, by weight of a convolution or linear layer."""
    # A fixed filter, whose weight is a buffer and no parameter, makes no channel more important.
    learned = graph.positions.keys() & graph.sizes.keys()
    return {
        dimension.name: dimension.units
        for dimension in graph.dimensions
        if dimension.dim == 0 and dimension.name in learned and dimension.units.ndim == 1
    }


def _taylor(model: nn.Module, graph: ChannelGraph, loader: Loader) -> dict[str, Tensor]:
    """Squared sum of weight times gradient of the loss, by output channel, summed over batches."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if name in _makers(graph)}
    total = {name: torch.zeros(len(parameter)) for name, parameter in parameters.items()}
    device = next(model.parameters()).device
    for images, labels in loader:
        with forward_errors(images.shape):
            logits = require_logits(model(images.to(device)))
        loss = cross_entropy(logits, labels.to(device))
        gradients = torch.autograd.grad(loss, list(parameters.values()))
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
            total[name] += (parameter * gradient).detach().flatten(1).sum(1).square().cpu()
    return total


def _by_set(graph: ChannelGraph, by_weight: dict[str, Tensor]) -> dict[str, NDArray[np.float64]]:
    """Importance of the units of every set: the mean over the layers that make them."""
    offsets = graph.offsets
    total, count = np.zeros(int(offsets[-1])), np.zeros(int(offsets[-1]))
    for name, units in _makers(graph).items():
        values = by_weight[name].double().cpu().numpy()
        shown = units >= 0
        mean = values[shown].mean() if shown.any() else 0.0
        np.add.at(total, units[shown], values[shown] / (mean or 1.0))
        np.add.at(count, units[shown], 1)
    return _split(graph, total / np.maximum(count, 1))


def _split(graph: ChannelGraph, values: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Values by running unit number, as values by set."""
    return {
        each.name: values[start : start + each.size] for each, start in zip(graph.sets, graph.offsets, strict=False)
    }
