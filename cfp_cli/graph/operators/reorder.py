"""How operators reorder the kept channels of their arguments.

Kept channels stay in their original order, except where a network rearranges channels by their index: a channel shuffle
interleaves the kept channels, so which channels are kept decides which of them become neighbours. Weights behind it are
sliced in that order.

An order is an integer array with as many dimensions as the value and size 1 where labels do not vary. Its entries are
flat indices into the value's label array.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.trace import arguments_of, shape_of

Order = NDArray[np.int64]
Units = NDArray[np.int64]


@dataclass(frozen=True)
class Arguments:
    """An operator call whose arguments hold kept channels in known orders.

    Attributes:
        node: the call.
        labels: by node, the running unit numbers of each of its values.
        orders: by node, the order of each of its values; None for channels that form no rectangle.
    """

    node: Node
    labels: Mapping[Node, list[Units]]
    orders: Mapping[Node, list[Order | None]]

    @property
    def results(self) -> list[Units]:
        """Labels of the call's results."""
        return self.labels[self.node]

    def carried(self) -> tuple[Order, Units] | None:
        """Order and labels of the first argument with several channels; None where a result has a single label."""
        if any(units.size == 1 for units in self.results):
            return None
        for source in self.node.all_input_nodes:
            order = self.orders.get(source, [None])[0] if self.orders.get(source) else None
            if order is not None and self.labels[source][0].size > 1:
                return order, self.labels[source][0]
        return None


Reorder = Callable[[Arguments], list[Order | None] | None]


def in_order(units: Units, mask: NDArray[np.bool_]) -> Order | None:
    """The original order of the kept channels; None where they form no rectangle."""
    keeps = mask[units]
    varying = [dim for dim, size in enumerate(units.shape) if size > 1]
    indices = np.flatnonzero(keeps)
    for dim in reversed(varying or [0]):
        counts = keeps.sum(axis=dim)
        if counts.min() == counts.max():
            return indices.reshape(
                [int(counts.max()) if axis == dim else size for axis, size in enumerate(units.shape)]
            )
    return None


def unchanged(arguments: Arguments) -> list[Order | None] | None:
    """The same channels in the same order, or each of them several times in a row."""
    return _same_channels(arguments, reshapes=False)


def reshaped(arguments: Arguments) -> list[Order | None] | None:
    """The same channels in the same order, in another shape."""
    return _same_channels(arguments, reshapes=True)


def _same_channels(arguments: Arguments, reshapes: bool) -> list[Order | None] | None:
    carried = arguments.carried()
    if carried is None or len(arguments.results) != 1:
        return None
    (order, before), (after,) = carried, arguments.results
    times = after.size // before.size
    if times * before.size != after.size or not np.array_equal(after.reshape(-1), np.repeat(before.reshape(-1), times)):
        return [None]
    flat = (order.reshape(-1)[:, None] * times + np.arange(times)).reshape(-1)
    varying = [dim for dim, size in enumerate(after.shape) if size > 1]
    if len(varying) == 1:
        return [flat.reshape([len(flat) if dim == varying[0] else 1 for dim in range(after.ndim)])]
    if not reshapes:
        return [flat.reshape(order.shape) if after.shape == before.shape else None]
    # Whole groups are kept or dropped where each is one unit; else each keeps equally many of its channels.
    shrinks = next((dim for dim in reversed(varying) if (after != after.take([0], dim)).any()), varying[-1])
    others = int(np.prod([after.shape[dim] for dim in varying if dim != shrinks]))
    if len(flat) % others:
        raise GraphError("kept channels cannot be split into equal groups; keep equal counts in each group")
    shape = [len(flat) // others if dim == shrinks else size for dim, size in enumerate(after.shape)]
    return [flat.reshape(shape)]


def permuted(arguments: Arguments) -> list[Order | None] | None:
    """Dimensions in another order."""
    carried = arguments.carried()
    if carried is None:
        return None
    order, units = carried
    dims = dimension_order(arguments.node, units.ndim)
    full = np.arange(units.size).reshape(units.shape).transpose(dims)
    return [_new_indices(full, units.size)[order.transpose(dims)]]


def dimension_order(node: Node, ndim: int) -> list[int]:
    """Which dimension of its argument each dimension of a permuting operator's result is.

    The operator runs on a tensor whose dimensions have distinct sizes.
    """
    sizes = torch.empty([dim + 2 for dim in range(ndim)], device="meta")
    args = tuple(sizes if isinstance(arg, Node) else arg for arg in node.args)
    assert callable(node.target)
    return [size - 2 for size in node.target(*args, **node.kwargs).shape]


def shuffled(arguments: Arguments) -> list[Order | None] | None:
    """Groups of channels interleaved."""
    carried = arguments.carried()
    if carried is None:
        return None
    order, units = carried
    groups = int(arguments_of(arguments.node)["groups"])
    full = np.arange(units.size).reshape(groups, -1).T.reshape(-1)
    return [_new_indices(full, units.size)[order.reshape(groups, -1).T.reshape(-1)].reshape(order.shape)]


def split(arguments: Arguments) -> list[Order | None] | None:
    """Parts along a dimension, of the same sizes in proportion."""
    carried = arguments.carried()
    if carried is None:
        return None
    (order, units), parts = carried, arguments.results
    differing = [dim for dim in range(units.ndim) if any(part.shape[dim] != units.shape[dim] for part in parts)]
    if len(differing) != 1:
        return None
    return _parts(arguments.node, order, units, differing[0], [part.shape[differing[0]] for part in parts])


def unbound(arguments: Arguments) -> list[Order | None] | None:
    """The single slices along a dimension, without that dimension."""
    carried = arguments.carried()
    if carried is None:
        return None
    order, units = carried
    dim = int(arguments_of(arguments.node)["dim"]) % units.ndim
    if units.shape[dim] == 1 or order.shape[dim] != units.shape[dim]:
        return None
    parts = _parts(arguments.node, order, units, dim, [1] * units.shape[dim])
    return [None if part is None else part.squeeze(dim) for part in parts]


def _parts(node: Node, order: Order, units: Units, dim: int, sizes: list[int]) -> list[Order | None]:
    full = np.arange(units.size).reshape(units.shape)
    ends = np.cumsum(sizes)
    cuts = ends[:-1] * order.shape[dim] // units.shape[dim]
    parts: list[Order | None] = []
    for piece, whole in zip(np.split(order, cuts, dim), np.split(full, ends[:-1], dim), strict=True):
        indices = _new_indices(whole, units.size)[piece]
        if (indices < 0).any():
            raise GraphError(f"'{node.name}' would split the kept channels elsewhere; keep equal counts in each group")
        parts.append(indices)
    return parts


def joined(arguments: Arguments) -> list[Order | None]:
    """Values side by side along the dimension of their channels."""
    (out,) = arguments.results
    varying = [dim for dim, size in enumerate(out.shape) if size > 1]
    if len(varying) != 1:
        return [None]
    (dim,) = varying
    pieces = []
    offset = 0
    for source in arguments.node.all_input_nodes:
        size = shape_of(source)[dim]
        order, units = arguments.orders[source][0], arguments.labels[source][0]
        if order is None:
            return [None]
        pieces.append((order.reshape(-1) if units.size == size else np.arange(size)) + offset)
        offset += size
    if offset != out.size:
        return [None]
    return [np.concatenate(pieces).reshape([-1 if axis == dim else 1 for axis in range(out.ndim)])]


def picked(arguments: Arguments) -> list[Order | None] | None:
    """One result of an operator that returns several."""
    results = arguments.orders[arguments.node.all_input_nodes[0]]
    index = arguments.node.args[1]
    return [results[index]] if isinstance(index, int) and index < len(results) else None


def anew(_: Arguments) -> None:
    """The order is unknown; the result has the original one."""


def _new_indices(old: Order, size: int) -> Order:
    """For every old index its new one, the inverse of a list of old indices; -1 for those that are not in it."""
    found = np.full(size, -1)
    found[old.reshape(-1)] = np.arange(old.size)
    return found
