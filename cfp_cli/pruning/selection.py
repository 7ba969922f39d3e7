"""Which channels of a set stay: in every cluster, those of the highest richness.

Pruning inside clusters and not across the layer keeps a channel of each kind of structure.
Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfp_cli.graph import ChannelGraph, Selection
from cfp_cli.graph.solve import nearest
from cfp_cli.pruning.budget import shares
from cfp_cli.scoring.clusters import ClusterRule, labels
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


def balanced(
    graph: ChannelGraph, kept: Kept, rankings: Mapping[str, Ranking], whole: Collection[str] = ()
) -> Selection:
    """Change a selection as little as needed so that every constraint of the graph holds.

    Operators such as a channel shuffle, an equal split or a grouped convolution need the same number of kept channels
    in each of their groups, and no layer may be left without channels. The number of channels of each set is kept, then
    as many of the selected channels, the richer first; sets named in `whole` lose none.

    Raises:
        TargetError: no selection satisfies the constraints.
    """
    worth = {name: _worth(len(ranking.labels), kept[name], ranking) for name, ranking in rankings.items()}
    return nearest(Selection(graph, kept), worth, free=rankings, full=whole)


def _worth(size: int, kept: NDArray[np.int64], ranking: Ranking) -> NDArray[np.float64]:
    """What keeping each channel is worth: 1 to 2 for a selected one, below 1 for others, the richer the more."""
    worth = np.zeros(size)
    for order in ranking.orders:
        worth[order] = 1 - (np.arange(len(order)) + 1) / (len(order) + 1)
    worth[kept] += 1
    return worth
