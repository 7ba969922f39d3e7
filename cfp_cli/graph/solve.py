"""The selection nearest to a given one that satisfies every constraint of a channel graph.

Operators such as a grouped convolution, an equal split or a channel shuffle need equally many kept channels in each of
their blocks, and every layer must keep a channel. Sets that such constraints link are solved together, as an integer
program: first keep the number of units of each set, then the units of the highest value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from cfp_cli.foundation.errors import TargetError
from cfp_cli.graph.channel_graph import ChannelGraph
from cfp_cli.graph.components import linked
from cfp_cli.graph.constraints import Link, Units
from cfp_cli.graph.selection import Selection

# Cost of one unit more or less than asked for: more than any exchange of units can gain.
DEVIATION = 10.0
# Bounds the search by its nodes and not by time, so that a loaded machine finds the same selection.
NODES = 1000
GAP = 1e-4
INFEASIBLE = 2

Values = Mapping[str, NDArray[np.float64]]
Chosen = list[NDArray[np.int64]]


def constrained_sets(graph: ChannelGraph) -> list[list[int]]:
    """Sets that balances or floors link, as lists of indices; each list can be decided by itself."""
    return [list(link.sets) for link in graph.links]


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
        TargetError: no selection satisfies the constraints, or none was found.
    """
    graph = selection.graph
    changed: dict[str, Units] = {}
    for link in graph.links:
        names = [graph.sets[index].name for index in link.sets]
        counts = [len(selection[name]) if name in free else size for name, size in zip(names, link.sizes, strict=True)]
        value = [
            np.asarray(values.get(name, np.zeros(size)), float) for name, size in zip(names, link.sizes, strict=True)
        ]
        fixed = [name in full or name not in free for name in names]
        if counts == list(link.sizes):
            continue
        if link.blocks is not None and not fixed[0]:
            chosen = _by_blocks(link.blocks, counts[0], value[0])
        else:
            kept = _in_steps(link, counts, value, fixed)
            chosen = _best_of_cells(link, _by_cells(link, counts, value, fixed, names) if kept is None else kept, value)
        changed.update({name: units for name, units in zip(names, chosen, strict=True) if name in free})
    return Selection(graph, {**selection.kept, **changed}) if changed else selection


def _by_blocks(blocks: NDArray[np.int64], count: int, value: NDArray[np.float64]) -> Chosen:
    """The common case of one set whose single constraint is equal blocks that partition it: the best of every block."""
    each = min(max(round(count / len(blocks)), 1), blocks.shape[1])
    best = np.argsort(-value[blocks], axis=1, kind="stable")[:, :each]
    return [np.sort(np.take_along_axis(blocks, best, axis=1).reshape(-1))]


def _in_steps(
    link: Link, counts: list[int], values: list[NDArray[np.float64]], fixed: list[bool]
) -> NDArray[np.int64] | None:
    """Kept units of each cell where one number decides them all: the best number, without an integer program.

    None if more numbers decide them, or no number satisfies all constraints.
    """
    cells, step = link.cells, link.step
    if step is None:
        return None
    kept = np.arange(1, int((cells.sizes // step).min()) + 1)[:, None] * step
    rows = kept @ cells.matrix.T.toarray()
    of_set = kept @ (cells.sets[:, None] == np.arange(len(counts)))
    allowed = ((rows >= cells.low) & (rows <= cells.high)).all(1) & (of_set >= np.where(fixed, link.sizes, 1)).all(1)
    if not allowed.any():
        return None
    value = np.concatenate(values)
    gain = -DEVIATION * np.abs(of_set - counts).sum(1)
    for cell in range(len(cells.sizes)):
        best = np.sort(value[cells.of_unit == cell])[::-1]
        gain += np.concatenate([[0.0], np.cumsum(best)])[kept[:, cell]]
    return np.asarray(kept[np.argmax(np.where(allowed, gain, -np.inf))])


def _best_of_cells(link: Link, kept: NDArray[np.int64], values: list[NDArray[np.float64]]) -> Chosen:
    """The units of the highest value of each cell, by set."""
    cells, value = link.cells, np.concatenate(values)
    order = np.lexsort((-value, cells.of_unit))
    rank = np.empty(len(value), np.int64)
    rank[order] = np.arange(len(value)) - np.repeat(np.cumsum(cells.sizes) - cells.sizes, cells.sizes)
    parts = np.split(rank < kept[cells.of_unit], np.cumsum(link.sizes)[:-1])
    return [np.flatnonzero(part) for part in parts]


def _by_cells(
    link: Link, counts: list[int], values: list[NDArray[np.float64]], fixed: list[bool], names: list[str]
) -> NDArray[np.int64]:
    """Kept units of each cell, as the optimum of the integer program.

    Of each cell the units of the highest value are kept, so that only the number of kept units of a cell is an integer
    variable. A network has few cells, whatever its number of channels.

    Raises:
        TargetError: no selection satisfies the constraints, or none was found.
    """
    cells, value = link.cells, np.concatenate(values)
    units, count, sets = len(value), len(cells.sizes), len(counts)
    of_cell = sparse.csr_array((np.ones(units), (cells.of_unit, np.arange(units))), shape=(count, units))
    of_set = sparse.csr_array((np.ones(count), (cells.sets, np.arange(count))), shape=(sets, count))
    # Columns: whether each unit is kept, kept units of each cell, and how many each set keeps too many and too few.
    matrix = sparse.block_array(
        [
            [sparse.csr_array((cells.matrix.shape[0], units)), cells.matrix, None],
            [of_cell, -sparse.eye_array(count), None],
            [None, of_set, None],
            [None, of_set, sparse.kron(sparse.eye_array(sets), np.array([[-1.0, 1.0]]))],
        ],
        format="csr",
    )
    least = np.where(fixed, link.sizes, 1)
    result = optimize.milp(
        np.concatenate([-value, np.zeros(count), np.full(2 * sets, DEVIATION)]),
        integrality=np.concatenate([np.zeros(units), np.ones(count), np.zeros(2 * sets)]),
        bounds=optimize.Bounds(0, np.concatenate([np.ones(units), cells.sizes, np.full(2 * sets, np.inf)])),
        constraints=optimize.LinearConstraint(
            matrix,
            np.concatenate([cells.low, np.zeros(count), least, counts]),
            np.concatenate([cells.high, np.zeros(count), link.sizes, counts]),
        ),
        options={"node_limit": NODES, "mip_rel_gap": GAP},
    )
    if result.x is None:
        found = "no selection gives" if result.status == INFEASIBLE else "found no selection that gives"
        keep = " ".join(f"--keep '{name}'" for name in names)
        raise TargetError(f"{found} equal counts to the blocks of {', '.join(names)}; keep all channels with {keep}")
    return np.asarray(np.round(result.x[units : units + count]), np.int64)
