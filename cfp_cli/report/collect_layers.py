"""Scores, plan and feature maps of each channel set, collected for the page."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfp_cli.graph import ChannelGraph, Tap
from cfp_cli.pruning.plan import Plan, SetPlan
from cfp_cli.report.page_data import Layer, Width
from cfp_cli.scoring.clusters import ClusterRule, labels
from cfp_cli.scoring.scores import Scores, SetScores


def collect_layers(scores: Scores, plan: Plan | None, graph: ChannelGraph, image: Tensor) -> tuple[Layer, ...]:
    """Collect every scored channel set, with its feature maps in the original network on one image.

    Args:
        scores: scores of the network.
        plan: plan of the prune; without one, the default rule makes the clusters.
        graph: channel sets of the network.
        image: preprocessed image, float32 [1, 3, H, W], on the device of the network.
    """
    plans = {each.name: each for each in plan.sets} if plan is not None else {}
    rule = ClusterRule.parse(str(plan.options.get("clusters", ClusterRule()))) if plan is not None else ClusterRule()
    saturated = {tap.name: tap.saturated for tap in scores.taps}
    scored = scores.by_set()
    shown = {index: _tap(graph, index) for index, channel_set in enumerate(graph.sets) if channel_set.name in scored}
    maps = _maps(graph, shown, image)
    return tuple(
        _layer(
            scored[channel_set.name],
            plans.get(channel_set.name),
            rule,
            channel_set.producers,
            tuple(
                f"{name} ({graph.taps[tap].name})"
                for tap in channel_set.taps
                for name in saturated[graph.taps[tap].name]
            ),
            maps[index],
        )
        for index, channel_set in enumerate(graph.sets)
        if channel_set.name in scored
    )


def set_widths(plan: Plan) -> tuple[Width, ...]:
    """Return the number of channels of each set before and after pruning."""
    return tuple(Width(each.name, each.channels, len(each.kept), "; ".join(each.frozen)) for each in plan.sets)


def _layer(
    scores: SetScores,
    set_plan: SetPlan | None,
    rule: ClusterRule,
    modules: tuple[str, ...],
    saturated: tuple[str, ...],
    maps: NDArray[np.float32],
) -> Layer:
    clusters = np.array(set_plan.clusters, np.int32) if set_plan is not None and set_plan.clusters else None
    clusters = labels(scores.distance, rule) if clusters is None else clusters
    kept = None
    if set_plan is not None:
        kept = np.zeros(scores.channels, bool)
        kept[list(set_plan.kept)] = True
    first = np.zeros(scores.channels, bool) if kept is None else kept
    # Kept channels come first. They are not always the richest: sets that are coupled may constrain each other.
    order = np.lexsort((np.arange(scores.channels), -scores.norm, -scores.richness, ~first, clusters))
    return Layer(
        name=scores.name,
        modules=modules,
        clusters=clusters,
        order=order,
        richness=scores.richness,
        distance=scores.distance,
        kept=kept,
        saturated=saturated,
        maps=maps,
    )


def _tap(graph: ChannelGraph, index: int) -> Tap:
    """Return the tap that contains most units of a set; the first of equals, because its maps are the largest."""
    taps = [tap for tap in graph.taps if bool((tap.units[:, 0] == index).any())]
    return max(taps, key=lambda tap: len(np.unique(tap.units[tap.units[:, 0] == index, 1])))


def _maps(graph: ChannelGraph, shown: dict[int, Tap], image: Tensor) -> dict[int, NDArray[np.float32]]:
    """Return the maps [C, H, W] of each set; a unit that the tap does not contain stays blank."""
    by_node: dict[str, list[int]] = {}
    for index, tap in shown.items():
        by_node.setdefault(tap.node, []).append(index)
    maps_of_set: dict[int, NDArray[np.float32]] = {}

    def take(tap: Tap, value: Tensor) -> None:
        values = value[0].detach().float().cpu().numpy()
        for index in by_node.get(tap.node, ()):
            units = shown[index].units
            channels = np.flatnonzero(units[:, 0] == index)
            maps = np.zeros((graph.sets[index].size, *values.shape[1:]), np.float32)
            # Backwards, so that the first of a unit's channels is shown.
            maps[units[channels[::-1], 1]] = values[channels[::-1]]
            maps_of_set[index] = maps

    with torch.inference_mode():
        graph.read_taps(image, take)
    return maps_of_set
