"""Scores, plan and feature maps of a network, put together set by set."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfp_cli.graph import ChannelGraph, Tap
from cfp_cli.pruning.plan import Plan, SetPlan
from cfp_cli.report.contents import Layer, Width
from cfp_cli.scoring.clusters import ClusterRule, labels
from cfp_cli.scoring.scores import Scores, SetScores


def layers(scores: Scores, plan: Plan | None, graph: ChannelGraph, image: Tensor) -> tuple[Layer, ...]:
    """Every scored channel set, with the feature maps that the original network gives it on one image.

    Args:
        scores: of the network.
        plan: what was pruned; without one, clusters are those of the default rule.
        graph: the network's channel sets.
        image: float32 [1, 3, H, W], preprocessed, on the network's device.
    """
    plans = {group.name: group for group in plan.sets} if plan is not None else {}
    rule = ClusterRule.parse(str(plan.options.get("clusters", ClusterRule()))) if plan is not None else ClusterRule()
    saturated = {tap.name: tap.saturated for tap in scores.taps}
    scored = scores.by_set()
    shown = {index: _tap(graph, index) for index, group in enumerate(graph.sets) if group.name in scored}
    maps = _maps(graph, shown, image)
    return tuple(
        _layer(
            scored[group.name],
            plans.get(group.name),
            rule,
            group.producers,
            tuple(f"{name} ({graph.taps[tap].name})" for tap in group.taps for name in saturated[graph.taps[tap].name]),
            maps[index],
        )
        for index, group in enumerate(graph.sets)
        if group.name in scored
    )


def widths(plan: Plan) -> tuple[Width, ...]:
    """Channels of every set before and after."""
    return tuple(Width(each.name, each.channels, len(each.kept), "; ".join(each.frozen)) for each in plan.sets)


def _layer(
    scores: SetScores,
    planned: SetPlan | None,
    rule: ClusterRule,
    modules: tuple[str, ...],
    saturated: tuple[str, ...],
    maps: NDArray[np.float32],
) -> Layer:
    clusters = np.array(planned.clusters, np.int32) if planned is not None and planned.clusters else None
    clusters = labels(scores.distance, rule) if clusters is None else clusters
    kept = None
    if planned is not None:
        kept = np.zeros(scores.channels, bool)
        kept[list(planned.kept)] = True
    staying = np.zeros(scores.channels) if kept is None else kept
    # What stays comes first: a balance of coupled groups may have kept a channel that is not the richest.
    order = np.lexsort((np.arange(scores.channels), -scores.norm, -scores.richness, ~staying.astype(bool), clusters))
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
    """The tap that shows most of a set's units; the first of equals, whose maps are the largest."""
    taps = [tap for tap in graph.taps if bool((tap.units[:, 0] == index).any())]
    return max(taps, key=lambda tap: len(np.unique(tap.units[tap.units[:, 0] == index, 1])))


def _maps(graph: ChannelGraph, shown: dict[int, Tap], image: Tensor) -> dict[int, NDArray[np.float32]]:
    """Maps [C, H, W] by set; a unit that the tap does not show is blank."""
    by_node: dict[str, list[int]] = {}
    for index, tap in shown.items():
        by_node.setdefault(tap.node, []).append(index)
    found: dict[int, NDArray[np.float32]] = {}

    def take(tap: Tap, value: Tensor) -> None:
        values = value[0].detach().float().cpu().numpy()
        for index in by_node.get(tap.node, ()):
            units = shown[index].units
            channels = np.flatnonzero(units[:, 0] == index)
            maps = np.zeros((graph.sets[index].size, *values.shape[1:]), np.float32)
            # Backwards, so that of a unit's several channels the first is shown.
            maps[units[channels[::-1], 1]] = values[channels[::-1]]
            found[index] = maps

    with torch.inference_mode():
        graph.read_taps(image, take)
    return found
