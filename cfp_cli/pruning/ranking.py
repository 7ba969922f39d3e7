"""Which channels of a set are kept: in every cluster, those of the highest richness.

Choosing inside clusters and not across the layer keeps a channel of each kind of structure.
Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfp_cli.graph import Selection
from cfp_cli.graph.solve import nearest
from cfp_cli.pruning.budget import shares
from cfp_cli.scoring.clusters import ClusterRule, labels
from cfp_cli.scoring.scores import SetScores


@dataclass(frozen=True)
class Ranking:
    """The channels of one set, clustered, and ordered inside each cluster from the first to keep to the first to drop.

    Attributes:
        labels: cluster of every channel [C], 1-based.
        orders: channel indices by cluster; the dead channels of a cluster are last.
        dead: indices of the dead channels. They are dropped before any other channel.
    """

    labels: NDArray[np.int32]
    orders: tuple[NDArray[np.int64], ...]
    dead: tuple[int, ...] = ()

    @classmethod
    def of(cls, scores: SetScores, rule: ClusterRule) -> Ranking:
        """Cluster and rank a set; of equal richness, the larger mean norm comes first, then the lower index."""
        found = labels(scores.distance, rule)
        dead = np.isin(np.arange(scores.channels), scores.dead)
        order = np.lexsort((np.arange(scores.channels), -scores.norm, -scores.richness, dead))
        return cls(found, tuple(order[found[order] == label] for label in range(1, int(found.max()) + 1)), scores.dead)

    def keep(self, count: int) -> NDArray[np.int64]:
        """The `count` channels to keep, ascending; the clusters share the count in proportion to their sizes.

        Only live channels count in the sizes. Dead channels are kept only if `count` is larger than the number of the
        live ones; the clusters share these too.

        Raises:
            ValueError: `count` is not between 1 and the number of channels.
        """
        if not 1 <= count <= len(self.labels):
            raise ValueError(f"cannot keep {count} of {len(self.labels)} channels")
        is_dead = [np.isin(order, self.dead) for order in self.orders]
        from_live = min(count, len(self.labels) - len(self.dead))
        live = _shared([order[~dead] for order, dead in zip(self.orders, is_dead, strict=True)], from_live)
        dead = _shared([order[dead] for order, dead in zip(self.orders, is_dead, strict=True)], count - from_live)
        return np.sort(np.concatenate([live, dead]))

    def keep_published(self, rate: float) -> NDArray[np.int64]:
        """What the published results kept at a rate: `int((1 - rate) * size)` of every cluster.

        This deletes clusters of one channel and keeps too few channels. It serves only to compare with those results.
        """
        kept = [order[: int((1 - rate) * len(order))] for order in self.orders]
        return np.sort(np.concatenate(kept))


def balanced(selection: Selection, rankings: Mapping[str, Ranking], full: Collection[str] = ()) -> Selection:
    """Change a selection as little as needed to satisfy every constraint of the graph.

    Operators such as a channel shuffle, an equal split or a grouped convolution need the same number of kept channels
    in each of their groups, and every layer must keep a channel. The count of each set comes first, then as many of the
    selected channels as possible, the richer first.

    Args:
        selection: the kept units.
        rankings: rankings of the sets that may change, by name.
        full: names of sets that must keep all their channels.

    Raises:
        TargetError: no selection satisfies the constraints.
    """
    values = {name: _values(selection[name], ranking) for name, ranking in rankings.items()}
    return nearest(selection, values, free=rankings, full=full)


def _shared(orders: list[NDArray[np.int64]], count: int) -> NDArray[np.int64]:
    """The first channels of each cluster, `count` in all."""
    orders = [order for order in orders if len(order)]
    if count == 0:
        return np.zeros(0, np.int64)
    given = shares(count, np.array([len(order) for order in orders]))
    return np.concatenate([order[:n] for order, n in zip(orders, given, strict=True)])


def _values(kept: NDArray[np.int64], ranking: Ranking) -> NDArray[np.float64]:
    """Value of keeping each channel: 1 to 2 for a selected one, below 1 for others, higher if richer, 0 if dead."""
    values = np.zeros(len(ranking.labels))
    for order in ranking.orders:
        values[order] = 1 - (np.arange(len(order)) + 1) / (len(order) + 1)
    values[list(ranking.dead)] = 0
    values[kept] += 1
    return values
