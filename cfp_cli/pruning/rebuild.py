"""Build the smaller network: slice every parameter and buffer that holds a dropped channel.

It slices weights, biases, and the parameters and running statistics of norms. No tensor is initialised anew.
"""

from __future__ import annotations

from torch import nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph import Selection
from cfp_cli.graph.slicing import sliced_copy


def rebuild(model: nn.Module, selection: Selection) -> nn.Module:
    """A new network that has only the kept channels; the original is not changed.

    Args:
        model: the network that the selection's graph was derived from.
        selection: the kept units.

    Raises:
        GraphError: the selection empties a set, prunes a frozen set, or keeps unequal numbers where they must be equal.
    """
    graph = selection.graph
    for each in graph.sets:
        if not len(selection[each.name]):
            raise GraphError(f"no channel of set {each.name} is kept; keep at least one")
        if each.frozen and len(selection[each.name]) < each.size:
            raise GraphError(f"set {each.name} is frozen ({each.frozen[0]}); keep all its channels")
    for floor in graph.floors:
        if not selection.mask[graph.offsets[floor.units[:, 0]] + floor.units[:, 1]].any():
            raise GraphError(f"'{floor.module}' would have no channels; keep at least one of them")
    return sliced_copy(model, selection)
