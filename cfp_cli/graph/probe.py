"""Try a channel graph out: rebuild the network with fewer channels in every set and compare every value.

A trace cannot tell whether code that splits or reshapes channels computes its sizes or has them written down, nor
whether a module keeps a channel count in an attribute of its own. The probe can: sets that do not come out right are
frozen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.graph.difference import Difference, first_difference
from cfp_cli.graph.sample import random_kept
from cfp_cli.graph.slicing import sliced_copy

Chosen = dict[str, NDArray[np.int64]]
FIXED = "a trial with fewer channels did not compute the same: code fixes their number or their order"
STUCK = "equal groups leave no channel that can be dropped"
FRACTION = 0.75


def probe(model: nn.Module, example: Tensor, assemble: Callable[[dict[str, str]], ChannelGraph]) -> ChannelGraph:
    """The channel graph in which every prunable set has been seen to rebuild right.

    Args:
        model: the network.
        example: images float32 [N, 3, H, W]; only shape and device count.
        assemble: makes the channel graph, given reasons to freeze sets by their names.
    """
    # Noise in the range of images; the seed makes the same network give the same graph.
    x = torch.rand(2, *example.shape[1:], generator=torch.Generator().manual_seed(0)).to(example.device, example.dtype)
    refused: dict[str, str] = {}
    graph = assemble(refused)
    kept, stuck = random_kept(graph, FRACTION, np.random.default_rng(0))
    while stuck:
        refused |= dict.fromkeys(stuck, STUCK)
        graph = assemble(refused)
        kept, stuck = random_kept(graph, FRACTION, np.random.default_rng(0))
    found = _difference(model, graph, kept, x)
    if found is not None:
        # Equal groups come from splits and reshapes, where counts are most often written down.
        linked = [group for group in _linked(graph, kept) if len(group) > 1 or _is_balanced(graph, group)]
        refused |= {name: FIXED for group in linked for name in group if not _holds(model, graph, kept, x, [group])}
    while found is not None:
        graph = assemble(refused)
        kept = {group.name: kept[group.name] for group in graph.prunable if group.name in kept}
        found = _difference(model, graph, kept, x)
        if found is not None:
            groups = _linked(graph, kept)
            # The layer that came out wrong makes or reads the sets at fault, nearly always.
            near = [group for group in groups if set(group) & set(found.sets)]
            failing = [name for group in near if not _holds(model, graph, kept, x, [group]) for name in group]
            refused |= dict.fromkeys(failing or _failing(model, graph, kept, x, groups), FIXED)
    return graph


def _is_balanced(graph: ChannelGraph, names: list[str]) -> bool:
    return any(graph.sets[index].name in names for balance in graph.balances for index in balance.sets)


def _linked(graph: ChannelGraph, kept: Chosen) -> list[list[str]]:
    """The sets of `kept`, those that equal counts link together in one list."""
    groups = [[graph.sets[index].name for index in indices] for indices, _ in graph.linked_balances()]
    taken = {name for group in groups for name in group}
    return groups + [[name] for name in kept if name not in taken]


def _failing(model: nn.Module, graph: ChannelGraph, kept: Chosen, x: Tensor, groups: list[list[str]]) -> list[str]:
    """Names of sets in the groups that fail by themselves, found by halving; all, where only their union fails."""
    if len(groups) == 1:
        return groups[0]
    half = len(groups) // 2
    found: list[str] = []
    for part in (groups[:half], groups[half:]):
        if not _holds(model, graph, kept, x, part):
            found += _failing(model, graph, kept, x, part)
    return found or [name for group in groups for name in group]


def _holds(model: nn.Module, graph: ChannelGraph, kept: Chosen, x: Tensor, groups: list[list[str]]) -> bool:
    """Whether the network rebuilds right when only the sets of some groups lose channels."""
    return _difference(model, graph, {name: kept[name] for group in groups for name in group}, x) is None


def _difference(model: nn.Module, graph: ChannelGraph, kept: Chosen, x: Tensor) -> Difference | None:
    try:
        return first_difference(sliced_copy(model, graph, kept), graph, kept, x) if kept else None
    except GraphError:
        return Difference("forward", ())
