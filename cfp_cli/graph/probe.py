"""Try a channel graph out: rebuild the network with fewer channels in every set and compare every layer.

A trace does not show whether code that splits or reshapes channels computes its sizes or has them hard-coded, nor
whether a module keeps a channel count in an attribute of its own. A trial rebuild does: sets that fail it are frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_graph import ChannelGraph
from cfp_cli.graph.constraints import Floor
from cfp_cli.graph.difference import NETWORK, Difference, first_difference
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.graph.selection import Selection
from cfp_cli.graph.slicing import sliced_copy
from cfp_cli.graph.solve import balanced_sets

HARD_CODED = "a trial rebuild gave other outputs; the code probably hard-codes the number or order of channels"
STUCK = "its blocks must stay equal, so no channel can be dropped"
# Every set has a fraction of its own: code that confuses two sets of one size then fails.
FRACTION, SPREAD = 0.7, 0.2
# Number of random selections of which the first that shrinks every part of a split is tried.
SEEDS = 8


Assemble = Callable[[dict[str, str]], ChannelGraph]
Kept = dict[str, np.ndarray]


def passing(model: nn.Module, example: Tensor, assemble: Assemble) -> ChannelGraph | None:
    """The channel graph, if all its prunable sets pass one trial rebuild together; else None.

    Args:
        model: the network.
        example: images float32 [N, C, H, W]; only shape and device count.
        assemble: makes the channel graph from reasons to freeze sets, by set name.
    """
    graph, _, kept = _selected(assemble)
    return graph if not kept or _Trial.of(model, example).difference(Selection(graph, kept)) is None else None


def probe(model: nn.Module, example: Tensor, assemble: Assemble) -> ChannelGraph:
    """The channel graph of which every prunable set has passed a trial rebuild.

    Args:
        model: the network.
        example: images float32 [N, C, H, W]; only shape and device count.
        assemble: makes the channel graph from reasons to freeze sets, by set name.
    """
    trial = _Trial.of(model, example)
    graph, refused, kept = _selected(assemble)
    found = trial.difference(Selection(graph, kept)) if kept else None
    if found is not None:
        # Equal blocks come from splits and reshapes, where sizes are hard-coded most often.
        balanced = {graph.sets[index].name for balance in graph.balances for index in balance.sets}
        suspects = [names for names in _decisions(graph, kept) if len(names) > 1 or balanced & set(names)]
        refused |= {name: HARD_CODED for names in suspects for name in names if not trial.passes(graph, kept, [names])}
    while found is not None:
        graph = assemble(refused)
        kept = {each.name: kept[each.name] for each in graph.prunable if each.name in kept}
        found = trial.difference(Selection(graph, kept)) if kept else None
        if found is not None:
            decisions = _decisions(graph, kept)
            # The layer that differs nearly always makes or reads the sets at fault.
            near = [names for names in decisions if set(names) & set(found.sets)]
            failing = [name for names in near if not trial.passes(graph, kept, [names]) for name in names]
            refused |= dict.fromkeys(failing or trial.failing(graph, kept, decisions), HARD_CODED)
    return graph


def _selected(assemble: Assemble) -> tuple[ChannelGraph, dict[str, str], Kept]:
    """The graph without sets that cannot lose a channel, the reasons for these, and a random part of each other set."""
    refused: dict[str, str] = {}
    while True:
        graph = assemble(refused)
        for seed in range(SEEDS):
            selection, stuck = random_selection(graph, FRACTION, np.random.default_rng(seed), spread=SPREAD)
            if stuck or all(_shrinks(floor, selection) for floor in graph.floors):
                break
        if not stuck:
            break
        refused |= dict.fromkeys(stuck, STUCK)
    kept = {each.name: selection[each.name] for each in graph.prunable if len(selection[each.name]) < each.size}
    return graph, refused, kept


def _shrinks(floor: Floor, selection: Selection) -> bool:
    """Whether units of a part are dropped; code that hard-codes the size of a part passes while all are kept."""
    kept = selection.mask[selection.graph.offsets[floor.units[:, 0]] + floor.units[:, 1]]
    return len(kept) == 1 or not kept.all()


def _decisions(graph: ChannelGraph, kept: Iterable[str]) -> list[list[str]]:
    """Names of the sets in `kept`, those that equal counts link together in one list."""
    lists = [[graph.sets[index].name for index in indices] for indices in balanced_sets(graph)]
    taken = {name for names in lists for name in names}
    return lists + [[name] for name in kept if name not in taken]


class _Trial:
    """Rebuilds a network with some sets pruned and compares it with its replay."""

    def __init__(self, model: nn.Module, x: Tensor) -> None:
        self.model, self.x = model, x

    @classmethod
    def of(cls, model: nn.Module, example: Tensor) -> _Trial:
        """A trial on noise in the range of images; the seed gives the same graph for the same network."""
        x = torch.rand(2, *example.shape[1:], generator=torch.Generator().manual_seed(0))
        return cls(model, x.to(example.device, example.dtype))

    def difference(self, selection: Selection) -> Difference | None:
        """Where the rebuilt network first differs; None where it does not."""
        try:
            return first_difference(sliced_copy(self.model, selection), selection, self.x)
        except GraphError:
            return Difference(NETWORK, ())

    def passes(self, graph: ChannelGraph, kept: Kept, decisions: list[list[str]]) -> bool:
        """Whether the network rebuilds correctly when only the sets of some decisions are pruned."""
        names = [name for sets in decisions for name in sets if name in kept]
        return self.difference(Selection(graph, {name: kept[name] for name in names})) is None

    def failing(self, graph: ChannelGraph, kept: Kept, decisions: list[list[str]]) -> list[str]:
        """Names of sets that fail by themselves, found by halving; all of them where only their union fails."""
        if len(decisions) == 1:
            return decisions[0]
        half = len(decisions) // 2
        found: list[str] = []
        for part in (decisions[:half], decisions[half:]):
            if not self.passes(graph, kept, part):
                found += self.failing(graph, kept, part)
        return found or [name for names in decisions for name in names]
