"""Which channels of a set stay: in every cluster, those of the highest richness.

Pruning inside clusters and not across the layer keeps a channel of each kind of structure.
Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse

from cfp_cli.errors import TargetError
from cfp_cli.graph import ChannelGraph
from cfp_cli.pruning.budget import shares
from cfp_cli.pruning.clusters import ClusterRule, labels
from cfp_cli.scoring.scores import SetScores

Kept = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Ranking:
    """The channels of one set, clustered, and ordered inside each cluster from the first to keep to the first to drop.

    Attributes:
        labels: cluster of every channel [C], 1-based.
        orders: channel indices by cluster.
    """

    labels: NDArray[np.int32]
    orders: tuple[NDArray[np.int64], ...]

    @classmethod
    def of(cls, scores: SetScores, rule: ClusterRule) -> Ranking:
        """Cluster and rank a set; ties in richness go to the larger mean norm, then to the lower index."""
        found = labels(scores.distance, rule)
        order = np.lexsort((np.arange(scores.channels), -scores.norm, -scores.richness))
        return cls(found, tuple(order[found[order] == label] for label in range(1, int(found.max()) + 1)))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of channels in each cluster."""
        return np.array([len(order) for order in self.orders])

    def keep(self, count: int) -> NDArray[np.int64]:
        """The `count` channels that stay, ascending; the budget is shared over the clusters by their sizes.

        Raises:
            ValueError: `count` is not between 1 and the number of channels.
        """
        given = shares(count, self.sizes)
        return np.sort(np.concatenate([order[:n] for order, n in zip(self.orders, given, strict=True)]))

    def keep_reference(self, rate: float) -> NDArray[np.int64]:
        """What the published results kept at a rate: `int((1 - rate) * size)` of every cluster.

        One-channel clusters are deleted and the count undershoots; for comparison with the published results only.
        """
        kept = [order[: int((1 - rate) * len(order))] for order in self.orders]
        return np.sort(np.concatenate(kept))


def balanced(graph: ChannelGraph, kept: Kept, rankings: Mapping[str, Ranking]) -> Kept:
    """Change a selection as little as needed so that every balance of the graph holds.

    Operators such as a channel shuffle, an equal split or a grouped convolution need the same number of kept channels
    in each of their groups. The nearest such selection is an integer program over the channels of the sets that they
    link: keep the number of channels of each set, then as many of the selected channels, the richer first.

    Raises:
        TargetError: no selection satisfies the balances.
    """
    kept = dict(kept)
    for linked, balances in graph.linked_balances():
        names = [graph.sets[index].name for index in linked]
        sizes = [graph.sets[index].size for index in linked]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        place = {index: int(offset) for index, offset in zip(linked, offsets, strict=False)}
        total = int(offsets[-1])
        wanted = [len(kept[name]) for name in names]
        worth = np.zeros(total)
        for name, offset, size in zip(names, offsets, sizes, strict=False):
            worth[offset : offset + size] = _worth(size, kept[name], rankings.get(name))
        rows: list[NDArray[np.float64]] = []
        for groups in balances:
            counts = np.zeros((len(groups), total))
            for row, members in zip(counts, groups, strict=True):
                np.add.at(row, [place[int(index)] + int(unit) for index, unit in members], 1.0)
            rows.extend(np.diff(counts, axis=0))
        # Two slack columns a set take up what its count must deviate from the wanted one.
        slack = 2 * len(linked)
        equal = np.hstack([np.array(rows).reshape(len(rows), total), np.zeros((len(rows), slack))])
        count = np.zeros((len(linked), total + slack))
        for place_of_set, (offset, size) in enumerate(zip(offsets, sizes, strict=False)):
            count[place_of_set, offset : offset + size] = 1
            count[place_of_set, total + 2 * place_of_set : total + 2 * place_of_set + 2] = (1, -1)
        floor = count.copy()
        floor[:, total:] = 0
        result = optimize.milp(
            np.concatenate([-worth, np.full(slack, 10.0)]),
            integrality=np.concatenate([np.ones(total), np.zeros(slack)]),
            bounds=optimize.Bounds(0, np.concatenate([np.ones(total), np.full(slack, np.inf)])),
            constraints=[
                optimize.LinearConstraint(sparse.csr_array(equal), 0, 0),
                optimize.LinearConstraint(sparse.csr_array(count), wanted, wanted),
                optimize.LinearConstraint(sparse.csr_array(floor), 1, np.inf),
            ],
            options={"time_limit": 20.0, "mip_rel_gap": 1e-3},
        )
        if result.x is None:
            raise TargetError(f"no selection gives equal groups to {', '.join(names)}; keep them with --keep")
        chosen = result.x[:total] > 0.5
        for name, offset, size in zip(names, offsets, sizes, strict=False):
            kept[name] = np.flatnonzero(chosen[offset : offset + size])
    return kept


def _worth(size: int, kept: NDArray[np.int64], ranking: Ranking | None) -> NDArray[np.float64]:
    """What keeping each channel is worth: 1 to 2 for a selected one, below 1 for others, the richer the more."""
    worth = np.zeros(size)
    if ranking is not None:
        for order in ranking.orders:
            worth[order] = 1 - (np.arange(len(order)) + 1) / (len(order) + 1)
    worth[kept] += 1
    return worth
