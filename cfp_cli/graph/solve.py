"""The selection nearest to a given one that satisfies every constraint of a channel graph.

Operators such as a grouped convolution, an equal split or a channel shuffle need equally many kept channels in each of
their blocks, and every layer must keep a channel. Sets that such constraints link are solved together, as an integer
program over their units: first keep the number of units of each set, then the units of the highest value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from cfp_cli.foundation.errors import TargetError
from cfp_cli.graph.channel_graph import ChannelGraph, Units
from cfp_cli.graph.components import linked
from cfp_cli.graph.selection import Selection

# Cost of one unit more or less than asked for: more than any exchange of units can gain.
DEVIATION = 10.0
# Bounds the search by its nodes and not by time, so that a loaded machine finds the same selection.
NODES = 1000
GAP = 1e-3

Values = Mapping[str, NDArray[np.float64]]


def constrained_sets(graph: ChannelGraph) -> list[list[int]]:
    """Sets that balances or floors link, as lists of indices; each list can be decided by itself."""
    return linked([*(balance.sets for balance in graph.balances), *(floor.sets for floor in graph.floors)])


def balanced_sets(graph: ChannelGraph) -> list[list[int]]:
    """Sets that balances link, as lists of indices."""
    return linked(balance.sets for balance in graph.balances)


def nearest(selection: Selection, values: Values, *, free: Collection[str], full: Collection[str] = ()) -> Selection:
    """Change a selection as little as needed to satisfy every constraint of the graph.

    Args:
        selection: the units to keep.
        values: value of keeping each unit, in [0, 2], by set name; 0 for sets that it does not name.
        free: names of the sets that may change; others keep all their units.
        full: names of sets that must keep all their units although they are free.

    Raises:
        TargetError: no selection satisfies the constraints.
    """
    graph = selection.graph
    changed: dict[str, Units] = {}
    for sets in constrained_sets(graph):
        names = [graph.sets[index].name for index in sets]
        sizes = [graph.sets[index].size for index in sets]
        counts = [len(selection[name]) if name in free else size for name, size in zip(names, sizes, strict=True)]
        value = [np.asarray(values.get(name, np.zeros(size)), float) for name, size in zip(names, sizes, strict=True)]
        fixed = [name in full or name not in free for name in names]
        chosen = _by_blocks(graph, sets, counts[0], value[0]) if len(sets) == 1 and not fixed[0] else None
        if chosen is None:
            chosen = _program(graph, sets, counts, value, fixed)
        if chosen is None:
            raise TargetError(
                f"no selection gives equal counts to the blocks of {', '.join(names)}; keep all channels with --keep"
            )
        changed.update({name: units for name, units in zip(names, chosen, strict=True) if name in free})
    return Selection(graph, {**selection.kept, **changed}) if changed else selection


def _by_blocks(
    graph: ChannelGraph, sets: list[int], count: int, value: NDArray[np.float64]
) -> list[NDArray[np.int64]] | None:
    """The common case of one set whose single constraint is equal blocks that partition it: the best of every block."""
    balances = [balance for balance in graph.balances if sets[0] in balance.sets]
    floors = [floor for floor in graph.floors if sets[0] in floor.sets]
    partitions = {tuple(tuple(block[:, 1].tolist()) for block in balance.blocks) for balance in balances}
    if floors or len(partitions) != 1 or any(balance.slack for balance in balances):
        return None
    blocks = [np.array(block) for block in partitions.pop()]
    size = len(value)
    if not np.array_equal(np.sort(np.concatenate(blocks)), np.arange(size)):
        return None
    each = min(max(round(count / len(blocks)), 1), size // len(blocks))
    best = [block[np.argsort(-value[block], kind="stable")[:each]] for block in blocks]
    return [np.sort(np.concatenate(best))]


def _program(
    graph: ChannelGraph,
    sets: list[int],
    counts: list[int],
    values: list[NDArray[np.float64]],
    fixed: list[bool],
) -> list[NDArray[np.int64]] | None:
    sizes = [len(value) for value in values]
    starts = dict(zip(sets, np.concatenate([[0], np.cumsum(sizes)]).tolist(), strict=False))
    total = sum(sizes)
    constraints = _Rows(starts, total)
    for balance in graph.balances:
        if balance.sets <= set(sets):
            for first, second in zip(balance.blocks, balance.blocks[1:], strict=False):
                constraints.between(first, second, 0, balance.slack)
            if balance.slack:
                constraints.between(balance.blocks[0], balance.blocks[-1], 0, balance.slack)
    for floor in graph.floors:
        if floor.sets <= set(sets):
            constraints.between(floor.units, None, 1, len(floor.units))
    for position, (index, size, count, all_kept) in enumerate(zip(sets, sizes, counts, fixed, strict=True)):
        every = np.stack([np.full(size, index), np.arange(size)], 1)
        constraints.between(every, None, size if all_kept else 1, size)
        # Two columns a set hold the deviation of its count from the given one.
        constraints.between(every, None, count, count, deviates=position)
    matrix, low, high = constraints.matrix(len(sets))
    result = optimize.milp(
        np.concatenate([-np.concatenate(values), np.full(2 * len(sets), DEVIATION)]),
        integrality=np.concatenate([np.ones(total), np.zeros(2 * len(sets))]),
        bounds=optimize.Bounds(0, np.concatenate([np.ones(total), np.full(2 * len(sets), np.inf)])),
        constraints=optimize.LinearConstraint(matrix, low, high),
        options={"node_limit": NODES, "mip_rel_gap": GAP},
    )
    if result.x is None:
        return None
    chosen = result.x[:total] > 0.5
    return [
        np.flatnonzero(chosen[starts[index] : starts[index] + size]) for index, size in zip(sets, sizes, strict=True)
    ]


class _Rows:
    """Rows of a sparse constraint matrix over the units of linked sets."""

    def __init__(self, starts: dict[int, int], total: int) -> None:
        self.starts = starts
        self.total = total
        self.entries: list[tuple[NDArray[np.int64], float]] = []
        self.rows: list[NDArray[np.int64]] = []
        self.low: list[float] = []
        self.high: list[float] = []
        self.deviating: list[tuple[int, int]] = []

    def between(self, first: Units, second: Units | None, low: float, high: float, deviates: int | None = None) -> None:
        """Require low <= count(first) - count(second) <= high, where a set's deviation columns may compensate."""
        row = len(self.low)
        for units, sign in ((first, 1.0), (second, -1.0)):
            if units is not None and len(units):
                columns = np.array([self.starts[int(index)] for index in units[:, 0]]) + units[:, 1]
                self.entries.append((columns, sign))
                self.rows.append(np.full(len(columns), row))
        if deviates is not None:
            self.deviating.append((row, deviates))
        self.low.append(low)
        self.high.append(high)

    def matrix(self, sets: int) -> tuple[sparse.csr_array, list[float], list[float]]:
        """The matrix and its bounds; repeated entries add up."""
        rows = [*self.rows]
        columns = [entry for entry, _ in self.entries]
        signs = [np.full(len(entry), sign) for entry, sign in self.entries]
        for row, index in self.deviating:
            rows.append(np.array([row, row]))
            columns.append(np.array([self.total + 2 * index, self.total + 2 * index + 1]))
            signs.append(np.array([1.0, -1.0]))
        shape = (len(self.low), self.total + 2 * sets)
        joined = (np.concatenate(signs), (np.concatenate(rows), np.concatenate(columns)))
        return sparse.csr_array(sparse.coo_array(joined, shape=shape)), self.low, self.high
