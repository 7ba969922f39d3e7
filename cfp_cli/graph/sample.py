"""Random selections of channels that keep to every constraint."""

from __future__ import annotations

import numpy as np

from cfp_cli.foundation.errors import TargetError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.graph.solve import Selection, nearest


def random_kept(graph: ChannelGraph, fraction: float, rng: np.random.Generator) -> tuple[Selection, list[str]]:
    """Choose at random about `fraction` of the units of every prunable set: at least one, and not all if that can be.

    Args:
        graph: channel sets.
        fraction: part of every set to keep, in (0, 1).
        rng: source of randomness.

    Returns:
        Indices of the kept units by set name, and the names of sets that could not lose any; those are left out.
    """
    worth = {group.name: rng.random(group.size) for group in graph.prunable}
    sizes = {group.name: group.size for group in graph.prunable}
    wanted = {name: min(max(round(fraction * size), 1), max(size - 1, 1)) for name, size in sizes.items()}
    while True:
        kept = {name: np.sort(np.argsort(-worth[name])[:count]) for name, count in wanted.items()}
        try:
            kept = nearest(graph, kept, worth)
        except TargetError:
            return {}, [graph.sets[index].name for linked in graph.linked_sets() for index in linked]
        stuck = [name for name, units in kept.items() if len(units) == sizes[name] > 1]
        if not any(wanted[name] > 1 for name in stuck):
            return {name: units for name, units in kept.items() if 1 < sizes[name] != len(units)}, stuck
        # Equal groups round up to all of a set; ask for less of it.
        wanted |= {name: max(wanted[name] // 2, 1) for name in stuck}
