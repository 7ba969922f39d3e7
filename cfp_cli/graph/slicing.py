"""Cut the tensors of a network down to the channels that stay."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfp_cli.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph, Kept
from cfp_cli.models.shapes import fit


def sliced_copy(model: nn.Module, graph: ChannelGraph, kept: Kept) -> nn.Module:
    """A copy of a network in which every parameter and buffer has only the kept channels; the original stays as it is.

    Raises:
        GraphError: groups that must be equal keep different numbers.
    """
    mask = graph.mask(kept)
    tensors = _tensors(model)
    sliced: dict[str, Tensor] = {}
    for name, dims in graph.parameters.items():
        value = tensors[name].detach()
        # A dimension that groups share goes first: its groups are those of the whole other dimension.
        for dim, units in sorted(dims.items(), key=lambda item: item[1].ndim, reverse=True):
            value = _sliced(value, dim, mask[units], name)
        if value.shape != tensors[name].shape:
            sliced[name] = value
    made = copy.deepcopy(model)
    fit(made, {name: tuple(value.shape) for name, value in sliced.items()})
    own = _tensors(made)
    with torch.no_grad():
        for name, value in sliced.items():
            own[name].copy_(value)
    return made


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def _sliced(value: Tensor, dim: int, stays: NDArray[np.bool_], name: str) -> Tensor:
    if stays.ndim == 1:
        return value.index_select(dim, torch.from_numpy(np.flatnonzero(stays)).to(value.device))
    counts = stays.sum(axis=1)
    if counts.min() != counts.max():
        raise GraphError(
            f"groups of '{name}' keep different numbers of channels ({counts.min()} to {counts.max()}); keep equal ones"
        )
    rows = value.chunk(len(stays), 1 - dim)
    return torch.cat([_sliced(part, dim, stay, name) for part, stay in zip(rows, stays, strict=True)], 1 - dim)
