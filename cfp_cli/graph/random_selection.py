"""Random selections of channels that satisfy every constraint."""

from __future__ import annotations

import numpy as np

from cfp_cli.foundation.errors import TargetError
from cfp_cli.graph.channel_graph import ChannelGraph
from cfp_cli.graph.selection import Selection
from cfp_cli.graph.solve import constrained_sets, nearest

# Fractional part of the golden ratio: its multiples, modulo 1, are spread evenly and never repeat.
GOLDEN = 0.6180339887498949


def random_selection(
    graph: ChannelGraph, fraction: float, rng: np.random.Generator, *, spread: float = 0.0
) -> tuple[Selection, list[str]]:
    """Keep about `fraction` of the units of every prunable set at random: at least one, and not all where possible.

    Args:
        graph: the channel graph.
        fraction: part of every set to keep, in (0, 1).
        rng: source of randomness.
        spread: how far the fraction of a set is from `fraction` at most. With a spread, sets of the same size keep
            different numbers of units, unless a constraint links them.

    Returns:
        The selection, and the names of sets that could not lose any unit; the selection keeps those in full.
    """
    values = {each.name: rng.random(each.size) for each in graph.prunable}
    sizes = {each.name: each.size for each in graph.prunable}
    counts = {}
    for index, (name, size) in enumerate(sizes.items()):
        own = fraction + spread * (2 * (index * GOLDEN % 1) - 1)
        counts[name] = min(max(round(own * size), 1), max(size - 1, 1))
    while True:
        best = {name: np.argsort(-values[name])[:count] for name, count in counts.items()}
        try:
            selection = nearest(Selection(graph, best), values, free=sizes)
        except TargetError:
            return Selection(graph), [graph.sets[index].name for sets in constrained_sets(graph) for index in sets]
        stuck = [name for name, size in sizes.items() if len(selection[name]) == size > 1]
        if not any(counts[name] > 1 for name in stuck):
            return selection, stuck
        # Equal blocks round up to the full set; ask for less of it.
        counts |= {name: max(counts[name] // 2, 1) for name in stuck}
