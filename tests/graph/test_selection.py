from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.cluster.hierarchy import DisjointSet
from small_nets import NETS, Net, conv, randomised

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.graph.components import linked
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return channel_sets(randomised(NETS["concatenation"].build()), IMAGES[:1])


@pytest.mark.parametrize(
    "units",
    [[5], [-1], [1, 1], [0.5, 1.0], [[0], [1]], ["0"], [True, False], [None], 3],
    ids=["past the end", "negative", "repeated", "fractions", "nested", "text", "flags", "null", "number"],
)
def test_units_that_no_channel_has_are_refused(graph: ChannelGraph, units: object) -> None:
    with pytest.raises(GraphError, match="'a'"):
        Selection(graph, {"a": units})


def test_a_set_that_the_network_has_not_is_refused(graph: ChannelGraph) -> None:
    with pytest.raises(GraphError, match="no channel set 'z'"):
        Selection(graph, {"z": np.arange(2)})


def test_mask_and_counts_follow_the_kept_units(graph: ChannelGraph) -> None:
    selection = Selection(graph, {"b": np.array([6, 0])})
    assert selection["b"].tolist() == [0, 6]
    assert selection["a"].tolist() == [0, 1, 2, 3, 4]
    start = graph.offsets[graph.index["b"]]
    assert selection.mask[start : start + 7].tolist() == [True, False, False, False, False, False, True]
    assert selection.mask.sum() == len(selection.mask) - 5
    assert selection.parameters == sum(p.numel() for p in rebuild(graph.traced.model, selection).parameters())


SHUFFLES = {
    "transpose": lambda y: y.transpose(1, 2),
    "swapaxes": lambda y: y.swapaxes(1, 2),
    "moveaxis": lambda y: torch.moveaxis(y, 1, 2),
    "movedim": lambda y: y.movedim(2, 1),
    "permute": lambda y: y.permute(0, 2, 1, 3, 4),
}
HALVES = {
    "chunk": lambda y: y.chunk(2, 1),
    "split": lambda y: y.split(y.shape[1] // 2, 1),
    "tensor_split": lambda y: y.tensor_split(2, 1),
    "unbind": lambda y: y.unflatten(1, (2, y.shape[1] // 2)).unbind(1),
    "slices": lambda y: (y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]),
}


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("halves", HALVES)
def test_every_way_to_shuffle_and_split_rebuilds_or_is_frozen(shuffle: str, halves: str) -> None:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([net.a(x), net.b(x)], 1)
        n, channels, h, w = y.shape
        y = SHUFFLES[shuffle](y.view(n, 2, channels // 2, h, w)).reshape(n, channels, h, w)
        first, second = HALVES[halves](y)
        return net.d(torch.cat([first, net.c(second)], 1))

    model = randomised(Net(forward, 4, a=conv(3, 8), b=conv(3, 8), c=conv(8, 8), d=conv(16, 4)))
    graph = channel_sets(model, IMAGES[:1])
    assert "d" in {each.name for each in graph.prunable}
    for seed in range(2):
        selection, stuck = random_selection(graph, 0.5, np.random.default_rng(seed))
        assert not stuck
        verify(model, rebuild(model, selection), selection, IMAGES)
    if halves in ("chunk", "split", "tensor_split"):
        assert {"a", "b", "c"} <= {each.name for each in graph.prunable}, "known operators free these sets"


@given(st.lists(st.sets(st.integers(0, 12), min_size=1, max_size=4), max_size=8))
def test_linked_items_are_the_connected_components(links: list[set[int]]) -> None:
    known = DisjointSet({item for link in links for item in link})
    for link in links:
        first, *others = link
        for other in others:
            known.merge(first, other)
    assert linked(links) == sorted(sorted(subset) for subset in known.subsets())
