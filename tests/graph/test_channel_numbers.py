"""Outputs that depend on the numbers of channels, or that are parameters, stay those of the original."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from small_nets import randomised
from torch import Tensor, nn

from cfp_cli.graph import channel_sets

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(6))


class Returning(nn.Module):
    """Two layers; it also returns what a function makes of the maps between them."""

    def __init__(self, extra: Callable[[Returning, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.extra = extra

    def forward(self, x: Tensor) -> Any:
        y = self.a(x).relu()
        return self.b(y), self.extra(self, y)


KEPT: dict[str, Callable[[Returning, Tensor], Any]] = {
    "index of the largest": lambda m, y: y.max(1).indices,
    "index of the smallest": lambda m, y: y.min(1).indices,
    "index of the median": lambda m, y: y.median(1).indices,
    "argmax": lambda m, y: y.argmax(1),
    "topk": lambda m, y: y.topk(3, 1),
    "order": lambda m, y: y.sort(1).values,
    "sums": lambda m, y: y.cumsum(1),
    "weight": lambda m, y: m.b.weight,
    "numbers of all channels": lambda m, y: torch.arange(y.shape[1]),
}
PRUNED: dict[str, Callable[[Returning, Tensor], Any]] = {
    "largest": lambda m, y: y.max(1).values,
    "count of active channels": lambda m, y: (y > 0).sum(1),
    "shape": lambda m, y: y.shape[2:],
    "other weight": lambda m, y: m.b.bias,
}


@pytest.mark.parametrize("name", KEPT)
def test_channels_whose_numbers_or_weights_are_returned_are_frozen(name: str) -> None:
    graph = channel_sets(randomised(Returning(KEPT[name])), IMAGES[:1])
    assert not graph.prunable
    assert all(each.frozen for each in graph.sets)


@pytest.mark.parametrize("name", PRUNED)
def test_channels_are_pruned_where_their_numbers_do_not_matter(name: str) -> None:
    graph = channel_sets(randomised(Returning(PRUNED[name])), IMAGES[:1])
    assert [each.name for each in graph.prunable] == ["a"]
