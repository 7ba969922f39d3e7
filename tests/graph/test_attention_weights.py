"""`nn.MultiheadAttention` as most code calls it: with `need_weights=True`, its default."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CLASSES, randomised
from torch import Tensor, nn

from cfp_cli.graph import channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(8))


class Attentive(nn.Module):
    """Patches, one attention, and a head."""

    def __init__(self, batch_first: bool, uses_weights: bool) -> None:
        super().__init__()
        self.patches, self.head = nn.Conv2d(3, 16, 4, 4), nn.Linear(16, CLASSES)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=batch_first)
        self.batch_first, self.uses_weights = batch_first, uses_weights

    def forward(self, x: Tensor) -> Tensor:
        y = self.patches(x).flatten(2)
        y = y.transpose(1, 2) if self.batch_first else y.permute(2, 0, 1)
        z, weights = self.attention(y, y, y)
        if self.uses_weights:
            z = z * weights.mean(1)[..., None]
        return self.head((y + z).mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("batch_first", [True, False])
def test_heads_and_channels_are_pruned_where_nothing_reads_the_weights(batch_first: bool) -> None:
    model = randomised(Attentive(batch_first, uses_weights=False))
    graph = channel_sets(model, IMAGES[:1])
    assert {each.name: each.size for each in graph.prunable} == {"patches": 16, "attention": 4}
    for seed, fraction in enumerate((0.75, 0.5)):
        selection, _ = random_selection(graph, fraction, np.random.default_rng(seed))
        verify(model, rebuild(model, selection), selection, IMAGES)


def test_channels_of_weights_that_are_read_are_frozen_with_the_reason() -> None:
    graph = channel_sets(randomised(Attentive(batch_first=True, uses_weights=True)), IMAGES[:1])
    assert any("mixed with the batch" in reason for each in graph.sets for reason in each.frozen)
