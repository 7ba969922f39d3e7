"""The selection nearest to a wanted one that keeps to every constraint of a channel graph.

Operators such as a grouped convolution, an equal split or a channel shuffle need equally many kept channels in each of
their groups, and no layer may be left without channels. Sets that such constraints link are solved together, as an
integer program over their channels: keep the number of channels of each set, then the channels that are worth most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from cfp_cli.foundation.errors import TargetError
from cfp_cli.graph.channel_set import ChannelGraph, Units

# What a set's count may deviate by one for, in worth of channels: more than any exchange of channels can bring.
DEVIATION = 10.0
SECONDS = 20.0
GAP = 1e-3

Selection = dict[str, NDArray[np.int64]]
Worth = Mapping[str, NDArray[np.float64]]


def nearest(
    graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]], worth: Worth, whole: Collection[str] = ()
) -> Selection:
    """Change a selection as little as needed for every constraint of the graph to hold.

    Args:
        graph: channel sets and their constraints.
        kept: wanted units by set name.
        worth: what keeping each unit is worth, in [0, 2], by set name; sets left out are indifferent.
        whole: names of sets that must keep all their units.

    Returns:
        Kept units by set name, ascending, for the sets of `kept`.

    Raises:
        TargetError: no selection satisfies the constraints.
    """
    made: Selection = {name: np.asarray(units, np.int64) for name, units in kept.items()}
    for linked in graph.linked_sets():
        names = [graph.sets[index].name for index in linked]
        sizes = [graph.sets[index].size for index in linked]
        wanted = [len(kept[name]) if name in kept else size for name, size in zip(names, sizes, strict=True)]
        values = [np.asarray(worth.get(name, np.zeros(size)), float) for name, size in zip(names, sizes, strict=True)]
        fixed = [name in whole or name not in kept for name in names]
        chosen = _by_groups(graph, linked, wanted[0], values[0]) if len(linked) == 1 and not fixed[0] else None
        if chosen is None:
            chosen = _program(graph, linked, wanted, values, fixed)
        if chosen is None:
            raise TargetError(f"no selection gives equal groups to {', '.join(names)}; keep them with --keep")
        made.update({name: units for name, units in zip(names, chosen, strict=True) if name in kept})
    return made


def _by_groups(
    graph: ChannelGraph, linked: list[int], wanted: int, worth: NDArray[np.float64]
) -> list[NDArray[np.int64]] | None:
    """The common case of one set whose only constraint is equal groups that partition it: the best of every group."""
    balances = [balance for balance in graph.balances if linked[0] in balance.sets]
    floors = [floor for floor in graph.floors if linked[0] in floor.units[:, 0]]
    partitions = {tuple(tuple(group[:, 1].tolist()) for group in balance.groups) for balance in balances}
    if floors or len(partitions) != 1 or any(balance.slack for balance in balances):
        return None
    groups = [np.array(group) for group in partitions.pop()]
    size = len(worth)
    if not np.array_equal(np.sort(np.concatenate(groups)), np.arange(size)):
        return None
    count = min(max(round(wanted / len(groups)), 1), size // len(groups))
    best = [group[np.argsort(-worth[group], kind="stable")[:count]] for group in groups]
    return [np.sort(np.concatenate(best))]


def _program(
    graph: ChannelGraph,
    linked: list[int],
    wanted: list[int],
    worth: list[NDArray[np.float64]],
    fixed: list[bool],
) -> list[NDArray[np.int64]] | None:
    sizes = [len(values) for values in worth]
    starts = dict(zip(linked, np.concatenate([[0], np.cumsum(sizes)]).tolist(), strict=False))
    total, sets = sum(sizes), len(linked)
    constraints = _Rows(starts, total)
    for balance in graph.balances:
        if balance.sets <= set(linked):
            for first, second in zip(balance.groups, balance.groups[1:], strict=False):
                constraints.between(first, second, 0, balance.slack)
            if balance.slack:
                constraints.between(balance.groups[0], balance.groups[-1], 0, balance.slack)
    for floor in graph.floors:
        if int(floor.units[0, 0]) in starts:
            constraints.between(floor.units, None, 1, len(floor.units))
    for index, size, keep, whole in zip(linked, sizes, wanted, fixed, strict=True):
        every = np.stack([np.full(size, index), np.arange(size)], 1)
        constraints.between(every, None, size if whole else 1, size)
        # Two columns a set take up what its count deviates from the wanted one.
        constraints.between(every, None, keep, keep, deviates=linked.index(index))
    matrix, low, high = constraints.matrix(sets)
    result = optimize.milp(
        np.concatenate([-np.concatenate(worth), np.full(2 * sets, DEVIATION)]),
        integrality=np.concatenate([np.ones(total), np.zeros(2 * sets)]),
        bounds=optimize.Bounds(0, np.concatenate([np.ones(total), np.full(2 * sets, np.inf)])),
        constraints=optimize.LinearConstraint(matrix, low, high),
        options={"time_limit": SECONDS, "mip_rel_gap": GAP},
    )
    if result.x is None:
        return None
    chosen = result.x[:total] > 0.5
    return [
        np.flatnonzero(chosen[starts[index] : starts[index] + size]) for index, size in zip(linked, sizes, strict=True)
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
        """Require low <= count(first) - count(second) <= high; a set's deviation columns may make up for it."""
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
        values = [np.full(len(entry), sign) for entry, sign in self.entries]
        for row, index in self.deviating:
            rows.append(np.array([row, row]))
            columns.append(np.array([self.total + 2 * index, self.total + 2 * index + 1]))
            values.append(np.array([1.0, -1.0]))
        shape = (len(self.low), self.total + 2 * sets)
        joined = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
        return sparse.csr_array(sparse.coo_array(joined, shape=shape)), self.low, self.high
