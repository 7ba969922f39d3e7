"""Build the smaller network: slice every parameter and buffer that a dropped channel touches.

Weights, biases, and the parameters and running statistics of norms are all sliced; nothing is initialised anew.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfp_cli.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.models.shapes import fit


def rebuild(model: nn.Module, graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]]) -> nn.Module:
    """A new network that has only the kept channels; the original is left as it is.

    Args:
        model: the network that `graph` was derived from.
        graph: its channel sets.
        kept: indices of the units that stay, by set name; sets left out stay whole.

    Raises:
        GraphError: the selection empties a set, or keeps unequal numbers in groups that must be equal.
    """
    mask = graph.mask(kept)
    for group, start in zip(graph.sets, graph.offsets, strict=False):
        if not mask[start : start + group.size].any():
            raise GraphError(f"no channel of set {group.name} is kept; keep at least one")
        if group.frozen and not mask[start : start + group.size].all():
            raise GraphError(f"set {group.name} is frozen ({group.frozen[0]}); keep all its channels")
    made = copy.deepcopy(model)
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    sliced: dict[str, Tensor] = {}
    for name, dims in graph.parameters.items():
        value = tensors[name].detach()
        # The grouped dimension first: its groups are those of the whole other dimension.
        for dim, units in sorted(dims.items(), key=lambda item: item[1].ndim, reverse=True):
            value = _sliced(value, dim, mask[units], name, dims)
        if value.shape != tensors[name].shape:
            sliced[name] = value
    fit(made, {name: tuple(value.shape) for name, value in sliced.items()})
    owned = dict(made.named_parameters(remove_duplicate=False)) | dict(made.named_buffers(remove_duplicate=False))
    with torch.no_grad():
        for name, value in sliced.items():
            owned[name].copy_(value)
    return made


def _sliced(value: Tensor, dim: int, stays: NDArray[np.bool_], name: str, dims: dict[int, NDArray[np.int64]]) -> Tensor:
    if stays.ndim == 1:
        return value.index_select(dim, torch.from_numpy(np.flatnonzero(stays)).to(value.device))
    counts = stays.sum(axis=1)
    if len(set(counts.tolist())) != 1:
        raise GraphError(f"groups of '{name}' keep different numbers of channels ({counts.min()} to {counts.max()})")
    # Each group of rows has its own columns.
    rows = value.chunk(len(stays), 1 - dim)
    return torch.cat([_sliced(part, dim, stay, name, dims) for part, stay in zip(rows, stays, strict=True)], 1 - dim)
