"""Values that are expanded to the size of others, and operators that work along positions, tie no channels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import Net, conv, randomised
from torch import Tensor, nn

from cfp_cli.graph import channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(7))


def _normalised(m: Net, x: Tensor) -> Tensor:
    return m.b(F.normalize(m.a(x), dim=1))


def _expanded_map(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(y * y.mean(1, keepdim=True).sigmoid().expand_as(y))


def _tokens(m: Net, x: Tensor) -> Tensor:
    y = m.a(x).flatten(2).transpose(1, 2)
    y = torch.cat([m.token.expand(x.shape[0], -1, -1), y, m.registers.expand(x.shape[0], -1, -1)], 1)
    return m.b(y.transpose(1, 2)[..., None])


def _added(m: Net, x: Tensor) -> Tensor:
    y = m.a(x).flatten(2).transpose(1, 2)[:, :3]
    return m.b((y + m.registers.expand_as(y)).transpose(1, 2)[..., None])


def _sorted(m: Net, x: Tensor) -> Tensor:
    return m.b(m.a(x).flatten(2).sort(2).values[..., None])


def _largest(m: Net, x: Tensor) -> Tensor:
    return m.b(m.a(x).flatten(2).topk(9, 2).values.unflatten(2, (3, 3)))


def _summed(m: Net, x: Tensor) -> Tensor:
    return m.b(m.a(x).cumsum(3))


def _where(m: Net, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.b(torch.where(y > 0.1, y, 0))


def _gathered(m: Net, x: Tensor) -> Tensor:
    y = m.a(x).flatten(2)
    order = y.mean(1).argsort(1)[:, :9]
    return m.b(y.gather(2, order[:, None].expand(-1, y.shape[1], -1))[..., None])


CASES = (_normalised, _expanded_map, _tokens, _added, _sorted, _largest, _summed, _where, _gathered)


@pytest.mark.parametrize("forward", CASES)
def test_channels_are_pruned_and_proven(forward: Callable[[Net, Tensor], Tensor]) -> None:
    token, registers = nn.Parameter(torch.rand(1, 1, 8)), nn.Parameter(torch.rand(1, 3, 8))
    model = randomised(Net(forward, 4, a=conv(3, 8), b=conv(8, 4), token=token, registers=registers))
    graph = channel_sets(model, IMAGES[:1])
    assert [each.name for each in graph.prunable] == ["a", "b"]
    for seed, fraction in enumerate((0.7, 0.3)):
        selection, _ = random_selection(graph, fraction, np.random.default_rng(seed))
        verify(model, rebuild(model, selection), selection, IMAGES)


def test_positions_that_each_channel_picks_for_itself_are_not_followed() -> None:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = m.a(x).flatten(2)
        return m.b(y.gather(2, y.argsort(2))[..., None])

    graph = channel_sets(randomised(Net(forward, 4, a=conv(3, 8), b=conv(8, 4))), IMAGES[:1])
    assert graph.sets[0].frozen == ("forward: gather: channels are picked by numbers",)
