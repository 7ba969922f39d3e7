"""Connected components: which of a number of items belong together."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

Items = NDArray[np.int64]


def components(count: int, pairs: Iterable[tuple[Items, Items]]) -> Items:
    """Component of each of `count` items, int64 [count], where the items of each pair belong together.

    Args:
        count: number of items.
        pairs: arrays of equal size; items at the same index belong together.
    """
    empty = np.empty(0, np.int64)
    given = [(empty, empty), *((first.reshape(-1), second.reshape(-1)) for first, second in pairs)]
    rows, columns = (np.concatenate(side) for side in zip(*given, strict=True))
    graph = sparse.coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def linked(links: Iterable[Iterable[int]]) -> list[list[int]]:
    """Items that links connect, as ascending lists of items in ascending order; items without a link are left out.

    Args:
        links: items of each link, none of them negative.
    """
    arrays = [np.array(sorted(link), np.int64) for link in links]
    if not arrays:
        return []
    used = np.unique(np.concatenate(arrays))
    component = components(int(used[-1]) + 1, ((link[:-1], link[1:]) for link in arrays))
    return sorted(used[component[used] == each].tolist() for each in np.unique(component[used]))
