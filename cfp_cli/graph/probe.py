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

from cfp_cli.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.graph.compare import first_difference
from cfp_cli.graph.sample import random_kept
from cfp_cli.graph.slicing import sliced_copy

FIXED = "its code fixes the number of channels: a trial with fewer did not compute the same"
STUCK = "equal groups leave no channel that can be dropped"
FRACTION = 0.75


def probe(model: nn.Module, example: Tensor, assemble: Callable[[dict[str, str]], ChannelGraph]) -> ChannelGraph:
    """The channel graph in which every prunable set has been seen to rebuild right.

    Args:
        model: the network.
        example: images float32 [N, 3, H, W]; only shape and device count.
        assemble: makes the channel graph, given reasons to freeze sets by their names.
    """
    refused: dict[str, str] = {}
    # Noise in the range of images; the seed makes the same network give the same graph.
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *example.shape[1:], generator=generator).to(example.device, example.dtype)
    while True:
        graph = assemble(refused)
        kept, stuck = random_kept(graph, FRACTION, np.random.default_rng(0))
        if stuck:
            refused |= dict.fromkeys(stuck, STUCK)
            continue
        if not kept or _holds(model, graph, kept, x):
            return graph
        failing = _failing(model, graph, kept, x, _linked(graph, kept))
        refused |= dict.fromkeys(failing, FIXED)


def _linked(graph: ChannelGraph, kept: dict[str, NDArray[np.int64]]) -> list[list[str]]:
    """The sets of `kept`, those that equal counts link together in one list."""
    groups = [[graph.sets[index].name for index in indices] for indices, _ in graph.linked_balances()]
    taken = {name for group in groups for name in group}
    return groups + [[name] for name in kept if name not in taken]


def _failing(
    model: nn.Module, graph: ChannelGraph, kept: dict[str, NDArray[np.int64]], x: Tensor, groups: list[list[str]]
) -> list[str]:
    """Names of sets in the groups that fail by themselves, found by halving; all, where only their union fails."""
    if len(groups) == 1:
        return groups[0]
    half = len(groups) // 2
    found: list[str] = []
    for part in (groups[:half], groups[half:]):
        names = [name for group in part for name in group]
        if not _holds(model, graph, {name: kept[name] for name in names}, x):
            found += _failing(model, graph, kept, x, part)
    return found or [name for group in groups for name in group]


def _holds(model: nn.Module, graph: ChannelGraph, kept: dict[str, NDArray[np.int64]], x: Tensor) -> bool:
    try:
        return first_difference(sliced_copy(model, graph, kept), graph, kept, x) is None
    except GraphError:
        return False
