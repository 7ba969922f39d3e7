"""Cut the tensors of a network down to the channels that stay."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph, Dimension, Kept
from cfp_cli.graph.order import Order, orders
from cfp_cli.models.shapes import fit


def sliced_copy(model: nn.Module, graph: ChannelGraph, kept: Kept) -> nn.Module:
    """A copy of a network in which every parameter and buffer has only the kept channels; the original stays as it is.

    Raises:
        GraphError: groups that must be equal keep different numbers.
    """
    tensors = _tensors(model)
    sliced: dict[str, Tensor] = {}
    for (name, dim), stays in positions(graph, kept).items():
        sliced[name] = _sliced(sliced.get(name, tensors[name].detach()), dim, stays, name)
    sliced = {name: value for name, value in sliced.items() if value.shape != tensors[name].shape}
    made = copy.deepcopy(model, {id(tensors[name]): _stand_in(tensors[name]) for name in sliced})
    fit(made, {name: tuple(value.shape) for name, value in sliced.items()})
    own = _tensors(made)
    for name, value in sliced.items():
        own[name].data = value
    return made


def positions(graph: ChannelGraph, kept: Kept) -> dict[tuple[str, int], list[NDArray[np.int64]]]:
    """Positions that stay in every dimension that shrinks, in their new order: one list, or one for each group.

    Returns:
        By name of the parameter or buffer and dimension, in the order in which they are to be cut.

    Raises:
        GraphError: groups that must be equal keep different numbers.
    """
    mask = graph.mask(kept)
    order = orders(graph, mask)
    # A dimension that groups share goes first: its groups are those of the whole other dimension.
    dimensions = sorted(graph.dimensions, key=lambda each: -each.units.ndim)
    return {(each.name, each.dim): _positions(each, mask, order) for each in dimensions}


def _stand_in(tensor: Tensor) -> Tensor:
    """A tensor like another that takes no memory: what is about to be cut is not copied whole."""
    empty = torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def _positions(
    dimension: Dimension, mask: NDArray[np.bool_], order: dict[Node, list[Order | None]]
) -> list[NDArray[np.int64]]:
    """Positions that stay, in their new order: one list, or one for each group that has its own."""
    rows = dimension.units.reshape(-1, dimension.units.shape[-1])
    plain = [np.flatnonzero(mask[row]) for row in rows]
    if dimension.follows is None or dimension.follows not in order:
        return plain
    (found,) = order[dimension.follows]
    units = dimension.units.size
    if found is None or found.size == 0:
        return plain
    # A channel may stand behind several positions in a row, as in a depthwise convolution that makes several of each.
    channels = found.reshape(-1)
    whole = sum(len(row) for row in plain)
    times = whole // len(channels)
    if times * len(channels) != whole or channels.max() * times >= units:
        return plain
    places = (channels[:, None] * times + np.arange(times)).reshape(-1)
    parts = np.split(places, np.cumsum([len(row) for row in plain])[:-1])
    parts = [part - number * rows.shape[1] for number, part in enumerate(parts)]
    if any(set(part.tolist()) != set(row.tolist()) for part, row in zip(parts, plain, strict=True)):
        raise GraphError(f"kept channels reach '{dimension.name}' in the wrong groups; keep equal groups")
    return parts


def _sliced(value: Tensor, dim: int, positions: list[NDArray[np.int64]], name: str) -> Tensor:
    if len(positions) == 1:
        return value.index_select(dim, torch.from_numpy(positions[0]).to(value.device))
    counts = [len(row) for row in positions]
    if min(counts) != max(counts):
        raise GraphError(
            f"groups of '{name}' keep different numbers of channels ({min(counts)} to {max(counts)}); keep equal ones"
        )
    rows = value.chunk(len(positions), 1 - dim)
    return torch.cat([_sliced(part, dim, [row], name) for part, row in zip(rows, positions, strict=True)], 1 - dim)
