"""The drawings of one layer: similarity matrix, richness bars and feature maps, at a chosen level of detail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import squareform

from cfp_cli.report.page_data import Layer
from cfp_cli.report.png import distance_matrix, feature_map
from cfp_cli.report.svg import bars, cluster_borders, kept_rails


@dataclass(frozen=True)
class Detail:
    """The level of detail; it decides how large the page is.

    Attributes:
        matrix: largest side of a similarity matrix in pixels.
        map: largest side of a feature map in pixels.
        tiles: largest number of feature maps per cluster, for kept and for dropped channels each.
    """

    matrix: int
    map: int
    tiles: int


@dataclass(frozen=True)
class MapView:
    """A feature map: index and richness of its channel, and the image as a data URI."""

    channel: int
    richness: float
    image: str


@dataclass(frozen=True)
class ClusterView:
    """One cluster of a layer.

    Attributes:
        number: number of the cluster, 1-based.
        size: number of channels.
        kept: number of kept channels.
        richness: mean richness of its channels.
        spread: mean distance between two of its channels; None for a single channel.
        kept_maps, dropped_maps: feature maps of kept and of dropped channels, the richest first.
    """

    number: int
    size: int
    kept: int
    richness: float
    spread: float | None
    kept_maps: tuple[MapView, ...]
    dropped_maps: tuple[MapView, ...]


@dataclass(frozen=True)
class LayerView:
    """The drawings and figures of one layer.

    Attributes:
        name: name of the channel set.
        modules: modules that produce its channels.
        before: channels of the original network.
        after: kept channels; None before pruning.
        matrix: similarity matrix as a data URI.
        matrix_top: distance of the lightest colour of the matrix.
        matrix_size: width and height of the matrix image in pixels.
        borders: cluster borders over the matrix, as SVG.
        rails: marks of kept channels beside the matrix, as SVG.
        bars: richness of the channels, as SVG.
        richest: largest richness.
        saturated: scores that are equal for all channels.
        clusters: the clusters.
        map_size: height and width of a feature map in the network.
    """

    name: str
    modules: tuple[str, ...]
    before: int
    after: int | None
    matrix: str
    matrix_top: float
    matrix_size: tuple[int, int]
    borders: str
    rails: str
    bars: str
    richest: float
    saturated: tuple[str, ...]
    clusters: tuple[ClusterView, ...]
    map_size: tuple[int, int]


def draw_layer(layer: Layer, detail: Detail, richness: str) -> LayerView:
    """Draw a layer; `richness` is the name of the criterion."""
    # Before pruning, all channels are drawn as kept.
    kept = np.ones(layer.channels, bool) if layer.kept is None else layer.kept
    numbers, sizes = np.unique(layer.clusters, return_counts=True)
    edges = np.cumsum(sizes)[:-1].tolist()
    matrix, top, size = distance_matrix(layer.distance, layer.order, detail.matrix)
    square = squareform(layer.distance) if layer.channels > 1 else np.zeros((1, 1))
    after = int(kept.sum())
    label = f"{richness} of {layer.channels} channels by cluster, largest {layer.richness.max():.3g}"
    if layer.kept is not None:
        label += f"; {after} kept with mean {layer.richness[kept].mean():.3g}"
        label += f", {layer.channels - after} dropped" + (
            f" with mean {layer.richness[~kept].mean():.3g}" if after < layer.channels else ""
        )
    return LayerView(
        name=layer.name,
        modules=layer.modules,
        before=layer.channels,
        after=None if layer.kept is None else after,
        matrix=matrix,
        matrix_top=top,
        matrix_size=size,
        borders=cluster_borders(layer.channels, edges),
        rails=kept_rails(kept[layer.order]),
        bars=bars(layer.richness[layer.order], kept[layer.order], edges, label),
        richest=float(layer.richness.max()),
        saturated=layer.saturated,
        clusters=tuple(_cluster(layer, int(number), kept, square, detail) for number in numbers),
        map_size=(int(layer.maps.shape[1]), int(layer.maps.shape[2])),
    )


def _cluster(
    layer: Layer, number: int, kept: NDArray[np.bool_], square: NDArray[np.floating], detail: Detail
) -> ClusterView:
    members = layer.order[layer.clusters[layer.order] == number]
    size = len(members)
    inside = square[np.ix_(members, members)]
    return ClusterView(
        number=number,
        size=size,
        kept=int(kept[members].sum()),
        richness=float(layer.richness[members].mean()),
        spread=float(inside.sum() / (size * (size - 1))) if size > 1 else None,
        kept_maps=_maps(layer, members[kept[members]], detail),
        dropped_maps=_maps(layer, members[~kept[members]], detail),
    )


def _maps(layer: Layer, channels: NDArray[np.int64], detail: Detail) -> tuple[MapView, ...]:
    """Draw the maps of a few channels, evenly spread from the richest to the poorest."""
    few = np.linspace(0, len(channels) - 1, min(len(channels), detail.tiles)).round().astype(int)
    return tuple(
        MapView(int(channel), float(layer.richness[channel]), feature_map(layer.maps[channel], detail.map))
        for channel in channels[few]
    )
