"""Clusters of similar channels: average-linkage clustering of their distances, cut in one of two ways.

Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), feature-map channel clustering. The authors' published
partitions use both cuts: a number of clusters, or a fraction of the range of the distances with at most four clusters.
Labels have SciPy's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster import hierarchy

from cfp_cli.foundation.errors import UsageError

MOST_ADAPTIVE_CLUSTERS = 4


@dataclass(frozen=True)
class ClusterRule:
    """Rule that cuts a dendrogram into clusters.

    Attributes:
        count: number of clusters; 0 for the adaptive cut.
        scale: S of the adaptive cut at distance (max d - min d) / S, into at most four clusters.
    """

    count: int = 0
    scale: float = 2.0

    @classmethod
    def parse(cls, text: str) -> ClusterRule:
        """Read `K` or `adaptive:S`.

        Raises:
            UsageError: the text has another form.
        """
        try:
            if text.startswith("adaptive"):
                scale = float(text.removeprefix("adaptive").removeprefix(":") or cls.scale)
                if scale > 0:
                    return cls(scale=scale)
            elif int(text) >= 1:
                return cls(count=int(text))
        except ValueError:
            pass
        raise UsageError(
            f"'{text}' is not a cluster rule; use a number of clusters or adaptive:S with S > 0, such as adaptive:2"
        )

    def __str__(self) -> str:
        return str(self.count) if self.count else f"adaptive:{self.scale:g}"


def linkage(distance: NDArray[np.floating]) -> NDArray[np.float64]:
    """Average linkage of condensed distances [C(C-1)/2]: SciPy's table [C-1, 4], empty for one channel."""
    if distance.size == 0:
        return np.zeros((0, 4))
    table: NDArray[np.float64] = hierarchy.linkage(distance, "average")
    return table


def labels(distance: NDArray[np.floating], rule: ClusterRule) -> NDArray[np.int32]:
    """Cluster labels of all channels [C], from 1, of condensed distances [C(C-1)/2]."""
    return cut(linkage(distance), span(distance), rule)


def span(distance: NDArray[np.floating]) -> float:
    """Range of condensed distances: max d - min d; 0 for one channel."""
    return float(distance.max() - distance.min()) if distance.size else 0.0


def cut(table: NDArray[np.float64], distance_range: float, rule: ClusterRule) -> NDArray[np.int32]:
    """Cluster labels [C] of a linkage table [C-1, 4]. Only the adaptive cut needs the range of the distances."""
    if len(table) == 0:
        return np.ones(1, np.int32)
    cluster_labels: NDArray[np.int32]
    if rule.count:
        cluster_labels = hierarchy.fcluster(table, rule.count, "maxclust")
        return cluster_labels
    cluster_labels = hierarchy.fcluster(table, distance_range / rule.scale, "distance")
    if cluster_labels.max() > MOST_ADAPTIVE_CLUSTERS:
        cluster_labels = hierarchy.fcluster(table, MOST_ADAPTIVE_CLUSTERS, "maxclust")
    return cluster_labels
