"""Build the smaller network: slice every parameter and buffer that a dropped channel touches.

Weights, biases, and the parameters and running statistics of norms are all sliced; nothing is initialised anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.graph.slicing import sliced_copy


def rebuild(model: nn.Module, graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]]) -> nn.Module:
    """A new network that has only the kept channels; the original is left as it is.

    Args:
        model: the network that `graph` was derived from.
        graph: its channel sets.
        kept: indices of the units that stay, by set name; sets left out stay whole.

    Raises:
        GraphError: the selection empties a set, cuts a frozen one, or keeps unequal numbers where they must be equal.
    """
    mask = graph.mask(kept)
    for group, start in zip(graph.sets, graph.offsets, strict=False):
        stays = mask[start : start + group.size]
        if not stays.any():
            raise GraphError(f"no channel of set {group.name} is kept; keep at least one")
        if group.frozen and not stays.all():
            raise GraphError(f"set {group.name} is frozen ({group.frozen[0]}); keep all its channels")
    for floor in graph.floors:
        if not mask[graph.offsets[floor.units[:, 0]] + floor.units[:, 1]].any():
            raise GraphError(f"'{floor.module}' would be left without channels; keep at least one of them")
    return sliced_copy(model, graph, kept)
