"""Combines the scores of a set's taps: the maps of each tap are further samples of the same channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import squareform

import cfp_core
from cfp_cli.graph import ChannelGraph, Tap
from cfp_cli.scoring.clusters import linkage, span
from cfp_cli.scoring.criteria import Similarity
from cfp_cli.scoring.effective_channels import effective_channels
from cfp_cli.scoring.scores import SetScores

Array = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True)
class TapResult:
    """What the core computed of one tap. Large tables are in float32: with many images they decide the peak memory.

    Attributes:
        height, width: size of a map in pixels.
        norms: Frobenius norm of every map, float32 [N, C].
        distance: condensed distances of the channels, float32 [C(C-1)/2].
        richness: richness of every channel, float64 [C], 0 for dead channels; None for `explained-variance`, a score of
            sets.
        linkage: average-linkage table of the distances, float64 [C-1, 4].
        span: range of the distances.
        saturated: names of the scores that are equal for all channels.
    """

    height: int
    width: int
    norms: Single
    distance: Single
    richness: Array | None
    linkage: Array
    span: float
    saturated: tuple[str, ...]

    @classmethod
    def of(cls, result: dict[str, Any], dead: NDArray[np.int64]) -> TapResult:
        """Convert what `TapAccumulator.finish` returned, for a tap with these dead channels."""
        if result["richness"] is not None:
            result["richness"][dead] = 0
        return cls(
            height=result["height"],
            width=result["width"],
            norms=result["norms"].astype(np.float32),
            distance=result["distance"].astype(np.float32),
            richness=result["richness"],
            linkage=linkage(result["distance"]),
            span=span(result["distance"]),
            saturated=tuple(name for name in ("similarity", "richness") if result[f"saturated_{name}"]),
        )


def scored_sets(graph: ChannelGraph) -> list[int]:
    """Indices of the sets that are not frozen and have a tap."""
    return [index for index, each in enumerate(graph.sets) if not each.frozen and _taps_of(graph, index)]


def set_scores(
    graph: ChannelGraph,
    index: int,
    results: Mapping[str, TapResult],
    similarity: Similarity,
    explained: Array | None = None,
    dead: NDArray[np.int64] | None = None,
) -> SetScores:
    """Scores of one set.

    Args:
        graph: the channel graph.
        index: index of the set in the graph.
        results: results of the taps, by node.
        similarity: distance between channels.
        explained: explained variance of the units [size]; None: the richness is the mean of the taps' richness.
        dead: indices of the dead units, ascending; None: no unit is dead.
    """
    size = graph.sets[index].size
    taps = _taps_of(graph, index)
    richness: list[Array] = []
    norms: list[Array] = []
    for tap in taps:
        result = results[tap.node]
        channels = np.flatnonzero(tap.units[:, 0] == index)
        units = tap.units[channels, 1]
        if explained is None and result.richness is not None:
            rich = _per_unit(result.richness[None, channels], units, size)[0]
            mean = np.nanmean(rich)
            richness.append(rich / mean if len(taps) > 1 and mean > 0 else rich)
        norms.append(_per_unit(result.norms[:, channels].astype(np.float64) / result.height, units, size))
    mean_norm = _mean([table.mean(axis=0) for table in norms])
    # If no tap contains the whole set, average the norms of a channel over the taps that contain it.
    complete = [table for table in norms if not np.isnan(table).any()]
    table = np.concatenate(complete) if complete else np.nan_to_num(_mean(norms))
    del norms, complete
    distance = _distance(graph, index, results, similarity, table)
    return SetScores(
        name=graph.sets[index].name,
        richness=np.nan_to_num(_mean(richness)) if explained is None else explained,
        distance=distance.astype(np.float32, copy=False),
        norm=np.nan_to_num(mean_norm),
        effective=effective_channels(table),
        dead=() if dead is None else tuple(int(unit) for unit in dead),
    )


def dead_units(graph: ChannelGraph, index: int, dead_channels: dict[str, NDArray[np.int64]]) -> NDArray[np.int64]:
    """Units of a set all of whose channels are dead at every tap, ascending.

    Args:
        graph: the channel graph.
        index: index of the set in the graph.
        dead_channels: dead channels of each tap, by its node.
    """
    seen, live = np.zeros((2, graph.sets[index].size), bool)
    for tap in _taps_of(graph, index):
        of_set = tap.units[:, 0] == index
        seen[tap.units[of_set, 1]] = True
        of_set[dead_channels[tap.node]] = False
        live[tap.units[of_set, 1]] = True
    return np.flatnonzero(seen & ~live)


def _taps_of(graph: ChannelGraph, index: int) -> list[Tap]:
    return [tap for tap in graph.taps if bool((tap.units[:, 0] == index).any())]


def _distance(
    graph: ChannelGraph, index: int, results: Mapping[str, TapResult], similarity: Similarity, table: Array
) -> NDArray[np.floating]:
    """Condensed distances of a set's units: the mean over the taps.

    `table` has the norms of the units divided by the height of their maps [N, size], of all taps one below the other.
    """
    size = graph.sets[index].size
    taps = _taps_of(graph, index)
    ordered = np.stack([np.full(size, index), np.arange(size)], 1)
    if all(np.array_equal(tap.units, ordered) for tap in taps):
        # Each tap contains the units of this set alone, in order.
        first, *others = (results[tap.node].distance for tap in taps)
        if not others:
            return first
        total = first.astype(np.float64)
        for other in others:
            total += other
        total /= len(taps)
        return total
    if similarity == "norm":
        return cfp_core.pairwise_distance(np.ascontiguousarray(table), 1)
    square = _mean([_square(results[tap.node].distance, tap, index, size) for tap in taps])
    # Channels that no tap contains together get the largest distance of any two.
    square = np.where(np.isnan(square), np.nanmax(square), square)
    distance: Array = squareform(square, checks=False)
    return distance


def _per_unit(values: Array, units: NDArray[np.int64], size: int) -> Array:
    """Convert values of tap channels [N, channels] to units [N, size]: the mean of each unit's channels, else NaN."""
    if len(units) == size and len(np.unique(units)) == size:
        ordered = np.empty_like(values)
        ordered[:, units] = values
        return ordered
    total = np.zeros((size, len(values)))
    np.add.at(total, units, values.T)
    count = np.bincount(units, minlength=size).astype(float)
    count[count == 0] = np.nan
    mean: Array = (total / count[:, None]).T
    return mean


def _square(distance: Single, tap: Tap, index: int, size: int) -> Array:
    """Distances of a set's units [size, size] at one tap; NaN for units that it does not contain."""
    channels = np.flatnonzero(tap.units[:, 0] == index)
    units = tap.units[channels, 1]
    square = np.full((size, size), np.nan)
    square[np.ix_(units, units)] = squareform(distance)[np.ix_(channels, channels)]
    return square


def _mean(tables: list[Array]) -> Array:
    """Elementwise mean over the tables that contain a number; NaN where none does."""
    if len(tables) == 1:
        return tables[0]
    stacked = np.stack(tables)
    valid = ~np.isnan(stacked)
    count = valid.sum(axis=0).astype(float)
    count[count == 0] = np.nan
    mean: Array = np.where(valid, stacked, 0.0).sum(axis=0) / count
    return mean
