from __future__ import annotations

import numpy as np
import pytest
import torch
from small_nets import CLASSES, conv, randomised
from torch import Tensor, nn

from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.probe import HARD_CODED
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.graph.widths import changed_attributes
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


class Split(nn.Module):
    """Splits by a count that it keeps in an attribute, as Res2Net and FasterNet do."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.a, self.b, self.c = conv(3, 12), conv(4, 4), conv(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.split(self.a(x), self.width, 1)
        y = torch.cat([first, self.b(second), third], 1)
        return self.head(self.c(y.relu()).mean((2, 3)))


class Sizes(nn.Module):
    """Splits by a list of sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = (4, 8)
        self.a, self.b, self.c = conv(3, 12), conv(8, 8), conv(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split_with_sizes(self.sizes, 1)
        return self.head(self.c(torch.cat([first, self.b(second)], 1)).mean((2, 3)))


class Flat(nn.Module):
    """Flattens to a number of channels that it keeps in an attribute, beside one of the same size that must stay."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.steps = 8, 8
        self.a, self.head = conv(3, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).mean((2, 3)).view(-1, self.features)
        return self.head(y) / self.steps


class Half(nn.Module):
    """Splits at half of a count that it keeps, as CSPNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.expanded = 12
        self.a, self.b, self.c = conv(3, 12), conv(6, 6), conv(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.a(x).split(self.expanded // 2, 1)
        return self.head(self.c(torch.cat([first, self.b(second)], 1)).mean((2, 3)))


class Partly(nn.Module):
    """Adds to a part of its channels of a size without a common divisor with the rest, as ReXNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 5
        self.a, self.b, self.c = conv(3, 5), conv(5, 12), conv(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = self.b(x)
        y = torch.cat([y[:, : self.width] + x, y[:, self.width :]], 1)
        return self.head(self.c(y.relu()).mean((2, 3)))


class Separable(nn.Module):
    """Splits into one channel and two equal parts, as the attention of MobileViTv2 does."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.a, self.b = conv(3, 13), conv(6, 6)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.a(x).split([1, self.width, self.width], 1)
        return self.head(torch.cat([q.sigmoid(), self.b(k.mean((2, 3), keepdim=True) * v.relu())], 1).mean((2, 3)))


class Parts(nn.Module):
    """Cuts into equal parts, and in exports at their size, which it keeps, as C2f of Ultralytics does."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 6
        self.a, self.b, self.c = conv(3, 12), conv(6, 6), conv(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(*self.a(x).chunk(2, 1))

    def forward_split(self, x: Tensor) -> Tensor:
        return self.join(*self.a(x).split((self.width, self.width), 1))

    def join(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head(self.c(torch.cat([first, self.b(second)], 1).relu()).mean((2, 3)))


class Steps(Parts):
    """Keeps another number, of the size of the parts, that must stay."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.width


class Inner(nn.Module):
    """The count is an attribute of a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.head = Split(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


@pytest.mark.parametrize("kind", [Split, Sizes, Half, Partly, Separable, Parts, Inner])
def test_counts_in_attributes_follow_the_kept_channels(kind: type[nn.Module]) -> None:
    model = randomised(kind())
    graph = channel_sets(model, IMAGES[:1])
    assert graph.widths
    assert [each.name.split(".")[-1] for each in graph.sets if each.frozen] == ["head"]
    for seed in range(3):
        selection, stuck = random_selection(graph, 0.5, np.random.default_rng(seed))
        assert not stuck
        rebuilt = rebuild(model, selection)
        verify(model, rebuilt, selection, IMAGES)
        assert len(changed_attributes(model, rebuilt, foreign=True)) == 1


def test_counts_that_only_another_forward_pass_uses_follow_too() -> None:
    model = randomised(Parts())
    graph = channel_sets(model, IMAGES[:1])
    for seed in range(3):
        rebuilt = rebuild(model, random_selection(graph, 0.5, np.random.default_rng(seed))[0])
        assert rebuilt.width < 6
        assert torch.equal(rebuilt.forward_split(IMAGES), rebuilt(IMAGES))


def test_a_number_of_the_size_of_the_parts_stays_and_freezes_nothing() -> None:
    model = randomised(Steps())
    graph = channel_sets(model, IMAGES[:1])
    assert not graph.widths
    assert [each.name for each in graph.sets if each.frozen] == ["head"]
    rebuilt = rebuild(model, random_selection(graph, 0.5, np.random.default_rng(0))[0])
    assert rebuilt.width == 6


class Confused(nn.Module):
    """Two sets of one size share an attribute; only one fraction for both could hide it."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.a, self.b, self.head = conv(3, 8), conv(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = self.a(x).view(x.shape[0], self.width, 16, 16)
        return self.head(self.b(first).view(x.shape[0], self.width, 16, 16).mean((2, 3)))


def test_one_attribute_for_two_sets_of_one_size_freezes_them() -> None:
    graph = channel_sets(randomised(Confused()), IMAGES[:1])
    assert {each.name: bool(each.frozen) for each in graph.sets} == {"a": True, "b": True, "head": True}


def test_an_attribute_that_only_looks_like_a_count_freezes_the_set() -> None:
    graph = channel_sets(randomised(Flat()), IMAGES[:1])
    assert graph.prunable == ()
    assert HARD_CODED in graph.sets[0].frozen


def test_a_literal_size_of_a_part_freezes_the_set() -> None:
    model = nn.Sequential(conv(3, 9), First(), conv(5, 6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, CLASSES))
    graph = channel_sets(randomised(model), IMAGES[:1])
    assert {each.name: bool(each.frozen) for each in graph.sets} == {"0": True, "2": False, "5": True}


class First(nn.Module):
    """The first five channels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :5]


def test_networks_without_such_attributes_are_not_touched() -> None:
    model = randomised(
        nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    )
    graph = channel_sets(model, IMAGES[:1])
    assert not graph.widths
    assert changed_attributes(model, rebuild(model, Selection(graph, {"0": np.arange(3)})), foreign=True) == {}
