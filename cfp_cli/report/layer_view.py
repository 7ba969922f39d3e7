"""One layer as the page shows it: matrix, bars and feature maps, drawn as small as the page must be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import squareform

from cfp_cli.report.contents import Layer
from cfp_cli.report.drawings import bars, cluster_borders, kept_rails
from cfp_cli.report.pictures import distance_matrix, feature_map


@dataclass(frozen=True)
class Detail:
    """How much of a layer is drawn.

    Attributes:
        matrix: largest side of a similarity matrix in pixels.
        map: largest side of a feature map in pixels.
        tiles: most feature maps of kept and of dropped channels of a cluster.
    """

    matrix: int
    map: int
    tiles: int


@dataclass(frozen=True)
class MapView:
    """A feature map: its channel, the channel's richness, and the image as a data URI."""

    channel: int
    richness: float
    image: str


@dataclass(frozen=True)
class ClusterView:
    """One cluster of a layer.

    Attributes:
        number: its label.
        size: number of channels.
        kept: how many of them stay.
        richness: mean of its channels.
        spread: mean distance between two of its channels; None for one channel.
        kept_maps, dropped_maps: feature maps of channels that stay and go, the richest first.
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
    """One layer.

    Attributes:
        name: of the channel set.
        modules: what makes its channels.
        before: channels of the original.
        after: channels that stay; None where nothing was pruned.
        matrix: similarity matrix as a data URI.
        matrix_top: distance of its lightest colour.
        matrix_size: width and height of the image in pixels.
        borders: cluster borders over the matrix, as SVG.
        rails: marks of kept channels beside the matrix, as SVG.
        bars: richness of the channels, as SVG.
        richest: largest richness.
        saturated: scores that do not tell its channels apart.
        clusters: its clusters.
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


def view(layer: Layer, detail: Detail, richness: str) -> LayerView:
    """Draw a layer; `richness` names the criterion."""
    # A layer that nothing was pruned from is drawn as kept whole.
    kept = np.ones(layer.channels, bool) if layer.kept is None else layer.kept
    numbers, sizes = np.unique(layer.clusters, return_counts=True)
    edges = np.cumsum(sizes)[:-1].tolist()
    matrix, top, size = distance_matrix(layer.distance, layer.order, detail.matrix)
    square = squareform(layer.distance) if layer.channels > 1 else np.zeros((1, 1))
    staying = int(kept.sum())
    told = f"{richness} of {layer.channels} channels by cluster, largest {layer.richness.max():.3g}"
    if layer.kept is not None:
        told += f"; {staying} kept with mean {layer.richness[kept].mean():.3g}"
        told += f", {layer.channels - staying} dropped" + (
            f" with mean {layer.richness[~kept].mean():.3g}" if staying < layer.channels else ""
        )
    return LayerView(
        name=layer.name,
        modules=layer.modules,
        before=layer.channels,
        after=None if layer.kept is None else staying,
        matrix=matrix,
        matrix_top=top,
        matrix_size=size,
        borders=cluster_borders(layer.channels, edges),
        rails=kept_rails(kept[layer.order]),
        bars=bars(layer.richness[layer.order], kept[layer.order], edges, told),
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
    """Maps of a few channels, spread evenly from the richest to the poorest."""
    few = np.linspace(0, len(channels) - 1, min(len(channels), detail.tiles)).round().astype(int)
    return tuple(
        MapView(int(channel), float(layer.richness[channel]), feature_map(layer.maps[channel], detail.map))
        for channel in channels[few]
    )
