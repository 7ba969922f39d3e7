"""Which units of every channel set are kept, and everything that follows from it for the tensors of the network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_graph import ChannelGraph, Dimension
from cfp_cli.graph.constraints import Units
from cfp_cli.graph.operators import entry_of
from cfp_cli.graph.operators.reorder import Arguments, Order, in_order, unchanged


@dataclass(frozen=True, eq=False)
class Selection:
    """The kept units of a channel graph.

    Mask, orders and slices are computed at first use and kept.

    Args:
        graph: the channel graph.
        kept: indices of the kept units by set name, in any order. Sets that it does not name keep all units.

    Attributes:
        graph: the channel graph.
        kept: kept units of every set by name, int64, ascending.

    Raises:
        GraphError: a set is unknown, or an index is no integer, out of range or repeated.
    """

    graph: ChannelGraph
    kept: Mapping[str, Units] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the units."""
        given = self.kept
        unknown = [name for name in given if name not in self.graph.index]
        if unknown:
            raise GraphError(f"the network has no channel set '{unknown[0]}'; see `cfp inspect`")
        kept = {
            each.name: _checked(each.name, each.size, given[each.name]) if each.name in given else np.arange(each.size)
            for each in self.graph.sets
        }
        object.__setattr__(self, "kept", kept)

    def __getitem__(self, name: str) -> Units:
        """Kept units of a set."""
        return self.kept[name]

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Which units are kept, by running number, with one further True at the end that index -1 reads."""
        mask = np.zeros(int(self.graph.offsets[-1]) + 1, bool)
        mask[-1] = True
        for start, units in zip(self.graph.offsets, self.kept.values(), strict=False):
            mask[start + units] = True
        return mask

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return self.graph.tensor_counts.at(self.mask)

    @property
    def parameters(self) -> int:
        """Number of parameters of the rebuilt network; nothing is rebuilt."""
        return sum(self._sizes[name] for name in self.graph.sizes)

    def width(self, name: str, dim: int, full: int) -> int:
        """Size of a dimension of a parameter or buffer in the rebuilt network; nothing is rebuilt.

        Args:
            name: full name of the tensor.
            dim: the dimension.
            full: its size in the original.
        """
        units = self.graph.parameters.get(name, {}).get(dim)
        if units is None:
            return full
        return int(self.mask[units].sum()) // (1 if units.ndim == 1 else len(units))

    def elements(self, name: str, shape: Sequence[int]) -> int:
        """Number of elements of a parameter or buffer in the rebuilt network.

        Args:
            name: full name of the tensor.
            shape: its shape in the original.
        """
        return math.prod(self.width(name, dim, size) for dim, size in enumerate(shape))

    @property
    def macs(self) -> int:
        """Multiply-adds of convolutions and linear layers for one image at the traced input size."""
        return sum(positions * self._sizes[name] for name, positions in self.graph.positions.items())

    @cached_property
    def orders(self) -> dict[Node, list[Order | None]]:
        """Orders of every value's kept channels, one for each result of its operator.

        None stands for channels that form no rectangle. Empty where no operator rearranges channels.

        Raises:
            GraphError: the kept channels do not fit an operator that rearranges channels.
        """
        orders: dict[Node, list[Order | None]] = {}
        if not self.graph.rearranged:
            return orders
        for node in self.graph.traced.nodes:
            results = self.graph.labels.get(node, [])
            orders[node] = self._reordered(node, orders) or [in_order(units, self.mask) for units in results]
        return orders

    def _reordered(self, node: Node, orders: dict[Node, list[Order | None]]) -> list[Order | None] | None:
        """Orders of an operator's results from those of its arguments; None where it makes new channels."""
        if node.op != "call_function" or node in self.graph.producing or not node.all_input_nodes:
            return None
        entry = entry_of(node)
        reorder = unchanged if entry is None or entry.reorder is None else entry.reorder
        return reorder(Arguments(node, self.graph.labels, orders))

    @cached_property
    def slices(self) -> dict[tuple[str, int], list[NDArray[np.int64]]]:
        """Kept indices of every dimension that shrinks, in their new order: one list, or one for each group.

        By name of the parameter or buffer and dimension, in the order in which they are to be sliced.

        Raises:
            GraphError: groups that must be equal keep different numbers.
        """
        # A dimension that groups share comes first: its groups are those of the other dimension in full size.
        dimensions = sorted(self.graph.dimensions, key=lambda each: -each.units.ndim)
        return {(each.name, each.dim): self._slice(each) for each in dimensions}

    def _slice(self, dimension: Dimension) -> list[NDArray[np.int64]]:
        rows = dimension.units.reshape(-1, dimension.units.shape[-1])
        original = [np.flatnonzero(self.mask[row]) for row in rows]
        if dimension.follows is None or dimension.follows not in self.orders:
            return original
        (order,) = self.orders[dimension.follows]
        if order is None or order.size == 0:
            return original
        # A channel may stand at several indices in a row, as in a depthwise convolution that makes several of each.
        channels = order.reshape(-1)
        total = sum(len(row) for row in original)
        times = total // len(channels)
        if times * len(channels) != total or channels.max() * times >= dimension.units.size:
            return original
        indices = (channels[:, None] * times + np.arange(times)).reshape(-1)
        parts = np.split(indices, np.cumsum([len(row) for row in original])[:-1])
        parts = [part - number * rows.shape[1] for number, part in enumerate(parts)]
        if any(set(part.tolist()) != set(row.tolist()) for part, row in zip(parts, original, strict=True)):
            raise GraphError(
                f"kept channels reach '{dimension.name}' in the wrong groups; keep equal counts in each group"
            )
        return parts


def _checked(name: str, size: int, units: Any) -> Units:
    """Kept units of one set, ascending."""
    given = np.asarray(units)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise GraphError(
            f"the kept units of set '{name}' are not a list of integers; give indices from 0 to {size - 1}"
        )
    indices = np.sort(given.astype(np.int64))
    if indices.size and (indices[0] < 0 or indices[-1] >= size):
        wrong = indices[0] if indices[0] < 0 else indices[-1]
        raise GraphError(f"set '{name}' has no unit {wrong}; give indices from 0 to {size - 1}")
    if (np.diff(indices) == 0).any():
        repeated = indices[:-1][np.diff(indices) == 0][0]
        raise GraphError(f"unit {repeated} of set '{name}' is given twice; give each index once")
    return indices
