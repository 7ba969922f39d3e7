"""The order in which kept channels lie in every value of a rebuilt network.

Kept channels stay in their original order, except where a network rearranges channels by their place: a channel shuffle
interleaves what is kept, and what is kept decides who stands beside whom. Behind it, weights are sliced in that order.
The order is found by moving the positions of the kept channels through the network, as its operators will.

An order is an integer array with as many dimensions as the value, of size 1 where labels do not change; its entries are
flat positions in the value's label array.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph, Units
from cfp_cli.graph.rules.movement import dimension_order
from cfp_cli.graph.trace import operator_of, shape_of

Order = NDArray[np.int64]
RESHAPES = frozenset({"view", "reshape", "flatten", "unflatten", "_unsafe_view", "squeeze", "unsqueeze"})
PERMUTES = frozenset({"permute", "transpose", "t", "movedim", "swapaxes"})
SPLITS = frozenset({"chunk", "split", "split_with_sizes"})


def orders(graph: ChannelGraph, mask: NDArray[np.bool_]) -> dict[Node, list[Order | None]]:
    """Orders of every value's kept channels, one for each result of its operator.

    None stands for channels that leave no rectangle. Empty where nothing rearranges channels.

    Args:
        graph: channel sets.
        mask: which units stay, as `ChannelGraph.mask` gives it.

    Raises:
        GraphError: the kept channels do not fit an operator that rearranges channels.
    """
    found: dict[Node, list[Order | None]] = {}
    if not graph.rearranged:
        return found
    for node in graph.traced.nodes:
        labels = graph.labels.get(node, [])
        found[node] = _moved(node, found, graph, mask) or [plain(units, mask) for units in labels]
    return found


def plain(units: Units, mask: NDArray[np.bool_]) -> Order | None:
    """The original order; None where kept channels leave no rectangle."""
    stays = mask[units]
    varying = [dim for dim, size in enumerate(units.shape) if size > 1]
    positions = np.flatnonzero(stays)
    for dim in reversed(varying or [0]):
        counts = stays.sum(axis=dim)
        if counts.min() == counts.max():
            shape = [int(counts.max()) if place == dim else size for place, size in enumerate(units.shape)]
            return positions.reshape(shape)
    return None


def _moved(
    node: Node, found: dict[Node, list[Order | None]], graph: ChannelGraph, mask: NDArray[np.bool_]
) -> list[Order | None] | None:
    """Orders of an operator's results from those of its arguments; None where it makes channels anew."""
    name = operator_of(node) if node.op == "call_function" else ""
    if not name or node in graph.made or not node.all_input_nodes:
        return None
    labels = graph.labels[node]
    if name == "cat":
        return [_joined(node, found, graph)]
    if name == "getitem":
        results = found[node.all_input_nodes[0]]
        index = node.args[1]
        return [results[index]] if isinstance(index, int) and index < len(results) else None
    known = [(source, order) for source in node.all_input_nodes for order in found.get(source, [])[:1]]
    carried = [(source, order) for source, order in known if order is not None and graph.labels[source][0].size > 1]
    if not carried or any(units.size == 1 for units in labels):
        return None
    source, order = carried[0]
    units = graph.labels[source][0]
    if name in PERMUTES:
        return [_permuted(order, units, dimension_order(node, units.ndim))]
    if name in SPLITS:
        return _split(node, order, units, labels)
    if name == "channel_shuffle":
        groups = int(str(node.args[1]))
        full = np.arange(units.size).reshape(groups, -1).T.reshape(-1)
        return [_places(full, units.size)[order.reshape(groups, -1).T.reshape(-1)].reshape(order.shape)]
    if name == "slice" or len(labels) != 1:
        return None
    return [_kept_apart(order, units, labels[0], name in RESHAPES)]


def _kept_apart(order: Order, before: Units, after: Units, reshapes: bool) -> Order | None:
    """The same channels in the same order, in another shape, or each several times in a row."""
    times = after.size // before.size
    if times * before.size != after.size:
        return None
    flat = (order.reshape(-1)[:, None] * times + np.arange(times)).reshape(-1)
    if not np.array_equal(after.reshape(-1), np.repeat(before.reshape(-1), times)):
        return None
    varying = [dim for dim, size in enumerate(after.shape) if size > 1]
    if len(varying) == 1:
        return flat.reshape([len(flat) if dim == varying[0] else 1 for dim in range(after.ndim)])
    if not reshapes:
        return flat.reshape(order.shape) if after.shape == before.shape else None
    shape = list(after.shape)
    leading = int(np.prod([shape[dim] for dim in varying[:-1]]))
    if len(flat) % leading:
        raise GraphError("kept channels cannot be split into equal groups; keep equal ones")
    shape[varying[-1]] = len(flat) // leading
    return flat.reshape(shape)


def _places(positions: Order, size: int) -> Order:
    """For every old position its new one: the inverse of a list of old positions; -1 for those that are not in it."""
    places = np.full(size, -1)
    places[positions.reshape(-1)] = np.arange(positions.size)
    return places


def _permuted(order: Order, units: Units, dims: list[int]) -> Order:
    full = np.arange(units.size).reshape(units.shape).transpose(dims)
    return _places(full, units.size)[order.transpose(dims)]


def _split(node: Node, order: Order, units: Units, parts: list[Units]) -> list[Order | None] | None:
    differing = [dim for dim in range(units.ndim) if any(part.shape[dim] != units.shape[dim] for part in parts)]
    if len(differing) != 1:
        return None
    (dim,) = differing
    full = np.arange(units.size).reshape(units.shape)
    ends = np.cumsum([part.shape[dim] for part in parts])
    cuts = ends[:-1] * order.shape[dim] // units.shape[dim]
    made: list[Order | None] = []
    for piece, whole in zip(np.split(order, cuts, dim), np.split(full, ends[:-1], dim), strict=True):
        places = _places(whole, units.size)[piece]
        if (places < 0).any():
            raise GraphError(f"'{node.name}' would split the kept channels elsewhere; keep equal groups")
        made.append(places)
    return made


def _joined(node: Node, found: dict[Node, list[Order | None]], graph: ChannelGraph) -> Order | None:
    (out,) = graph.labels[node]
    varying = [dim for dim, size in enumerate(out.shape) if size > 1]
    if len(varying) != 1:
        return None
    (dim,) = varying
    made = []
    offset = 0
    for source in node.all_input_nodes:
        size = shape_of(source)[dim]
        order = found[source][0]
        units = graph.labels[source][0]
        if order is None:
            return None
        positions = order.reshape(-1) if units.size == size else np.arange(size)
        made.append(positions + offset)
        offset += size
    if offset != out.size:
        return None
    return np.concatenate(made).reshape([-1 if place == dim else 1 for place in range(out.ndim)])
