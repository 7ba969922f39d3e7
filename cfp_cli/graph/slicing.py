"""Slice the tensors of a network to the kept channels."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.selection import Selection
from cfp_cli.graph.widths import new_widths
from cfp_cli.models.attributes import set_attributes
from cfp_cli.models.resize import resize_tensors


def sliced_copy(model: nn.Module, selection: Selection) -> nn.Module:
    """A copy of a network in which every parameter and buffer has only the kept channels; the original is unchanged.

    Raises:
        GraphError: groups that must be equal keep different numbers.
    """
    tensors = _tensors(model)
    smaller: dict[str, Tensor] = {}
    for (name, dim), groups in selection.slices.items():
        smaller[name] = sliced(smaller.get(name, tensors[name].detach()), dim, groups, name)
    smaller = {name: value for name, value in smaller.items() if value.shape != tensors[name].shape}
    rebuilt = copy.deepcopy(model, {id(tensors[name]): _empty(tensors[name]) for name in smaller})
    resize_tensors(rebuilt, {name: tuple(value.shape) for name, value in smaller.items()})
    set_attributes(rebuilt, new_widths(model, selection))
    own = _tensors(rebuilt)
    for name, value in smaller.items():
        own[name].data = value
    return rebuilt


def _empty(tensor: Tensor) -> Tensor:
    """A stand-in for a tensor that is about to be sliced. It takes no memory, so that the copy does not double it."""
    empty = torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def sliced(value: Tensor, dim: int, groups: list[NDArray[np.int64]], name: str) -> Tensor:
    """The kept indices of a dimension; each of several groups slices its own part of dimension 1 - dim."""
    if len(groups) == 1:
        return value.index_select(dim, torch.from_numpy(groups[0]).to(value.device))
    counts = [len(indices) for indices in groups]
    if min(counts) != max(counts):
        raise GraphError(
            f"groups of '{name}' keep different numbers of channels ({min(counts)} to {max(counts)}); keep equal ones"
        )
    parts = value.chunk(len(groups), 1 - dim)
    return torch.cat([sliced(part, dim, [own], name) for part, own in zip(parts, groups, strict=True)], 1 - dim)
