from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import CLASSES, randomised
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised and scaled in each pass, as in NFNet."""

    def __init__(self, a: int, b: int, groups: int = 1) -> None:
        super().__init__(a, b, 3, padding=1, groups=groups)
        self.gain = nn.Parameter(torch.rand(b, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(rows, None, None, weight=(self.gain * 0.3).view(-1), training=True, momentum=0.0)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, padding=1, groups=self.groups)


class ByMean(nn.Conv2d):
    """Standardised by hand, as in BiT."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return self._conv_forward(x, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias)


class Quantised(nn.Conv2d):
    """A weight in steps of its largest value."""

    def forward(self, x: Tensor) -> Tensor:
        step = self.weight.abs().max() / 127
        return self._conv_forward(x, (self.weight / step).round() * step, self.bias)


class TwoParameters(nn.Conv2d):
    """A weight that is the product of two parameters of its shape."""

    def __init__(self, a: int, b: int, size: int) -> None:
        super().__init__(a, b, size)
        self.gate = nn.Parameter(torch.rand(b, a, size, size))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.gate, self.bias)


class LowRank(nn.Linear):
    """A weight with a product of two small ones added to it."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.down, self.up = nn.Parameter(torch.rand(2, a)), nn.Parameter(torch.rand(b, 2))

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x.movedim(1, -1), self.weight + self.up @ self.down, self.bias)
        return y.movedim(-1, 1)


class Mixed(nn.Conv2d):
    """A weight whose rows depend on each other."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / self.weight.norm(), self.bias)


def network(*layers: nn.Module) -> nn.Module:
    return randomised(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)))


def rebuilt_rightly(model: nn.Module) -> ChannelGraph:
    graph = channel_sets(model, IMAGES[:1])
    for seed, fraction in enumerate((0.8, 0.5, 0.2)):
        selection, stuck = random_selection(graph, fraction, np.random.default_rng(seed), spread=0.1)
        assert not stuck
        verify(model, rebuild(model, selection), selection, IMAGES)
    return graph


def plain(a: int, b: int) -> nn.Conv2d:
    return nn.Conv2d(a, b, 3)


NETWORKS = {
    "standardised": lambda: (Standardised(3, 12), nn.ReLU(), Standardised(12, 8)),
    "grouped": lambda: (Standardised(3, 12), nn.ReLU(), Standardised(12, 16, groups=4), nn.ReLU(), plain(16, 8)),
    "depthwise": lambda: (plain(3, 12), Standardised(12, 12, groups=12), nn.ReLU(), plain(12, 8)),
    "by mean": lambda: (ByMean(3, 12, 3), nn.ReLU(), ByMean(12, 8, 3)),
    "weight norm": lambda: (weight_norm(plain(3, 12)), nn.ReLU(), weight_norm(plain(12, 8))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_of_computed_weights_are_pruned(name: str) -> None:
    graph = rebuilt_rightly(network(*NETWORKS[name]()))
    assert [each.size for each in graph.sets if each.frozen] == [CLASSES]
    assert graph.computed


@pytest.mark.parametrize("norm", [spectral_norm, nn.utils.spectral_norm])
def test_channels_of_weights_whose_rows_depend_on_each_other_are_named_with_the_reason(norm: Any) -> None:
    layers = norm(plain(3, 12)), nn.ReLU(), norm(plain(12, 16)), nn.ReLU(), norm(nn.Conv2d(16, 8, 3, groups=2))
    graph = rebuilt_rightly(network(*layers))
    assert [each.size for each in graph.sets] == [12, 16, 8, CLASSES]
    assert all("spectral norm" in each.frozen[0] for each in graph.sets[:3])


@pytest.mark.parametrize("norm", [spectral_norm, weight_norm])
def test_multiply_adds_of_computed_weights_are_counted(norm: Any) -> None:
    def macs(wrap: Any) -> int:
        graph = rebuilt_rightly(network(wrap(plain(3, 12)), nn.ReLU(), wrap(plain(12, 8))))
        return Selection(graph).macs

    assert macs(norm) == macs(lambda layer: layer)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: TwoParameters(12, 8, 3), "its weight is computed, not a parameter"),
        (lambda: LowRank(12, 8), "its weight is computed from several tensors"),
        (lambda: Quantised(12, 8, 3), "each row of its weight is computed from all rows, as by spectral norm"),
        (lambda: Mixed(12, 8, 3), "each row of its weight is computed from all rows, as by spectral norm"),
    ],
)
def test_channels_of_all_other_computed_weights_are_listed_with_the_true_reason(layer: Any, reason: str) -> None:
    graph = rebuilt_rightly(network(plain(3, 12), nn.ReLU(), layer()))
    assert [each.size for each in graph.sets] == [12, 8, CLASSES]
    assert graph.sets[1].frozen[0].endswith(reason)


@pytest.mark.parametrize("layer", [lambda: Mixed(12, 8, 3), lambda: spectral_norm(plain(12, 8))])
def test_rows_that_depend_on_each_other_are_frozen(layer: type[nn.Module]) -> None:
    graph = rebuilt_rightly(network(plain(3, 12), nn.ReLU(), layer()))
    assert {each.name for each in graph.prunable} <= {"0"}
