from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy import optimize
from small_nets import NETS, Net, conv, randomised
from torch import nn

from cfp_cli.foundation.errors import GraphError, TargetError
from cfp_cli.graph import ChannelGraph, Selection, channel_sets
from cfp_cli.graph.solve import DEVIATION, constrained_sets, nearest
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def _graph(name: str) -> ChannelGraph:
    return channel_sets(randomised(NETS[name][0]()), IMAGES[:1])


def _allowed(graph: ChannelGraph, mask: np.ndarray) -> bool:
    """The constraints as their documentation states them."""
    offsets = graph.offsets

    def count(units: np.ndarray) -> int:
        return int(mask[offsets[units[:, 0]] + units[:, 1]].sum())

    for balance in graph.balances:
        counts = [count(group) for group in balance.blocks]
        if any(not 0 <= a - b <= balance.slack for i, a in enumerate(counts) for b in counts[i + 1 :]):
            return False
    return all(count(floor.units) for floor in graph.floors)


@pytest.mark.parametrize(
    ("name", "seed"), [("equal chunks", 0), ("equal chunks", 1), ("half by share", 2), ("halves after a shuffle", 0)]
)
def test_no_allowed_selection_is_nearer(name: str, seed: int) -> None:
    graph = _graph(name)
    (linked,) = constrained_sets(graph)
    names = [graph.sets[index].name for index in linked]
    sizes = [graph.sets[index].size for index in linked]
    rng = np.random.default_rng(seed)
    worth = {name: rng.random(size) for name, size in zip(names, sizes, strict=True)}
    kept = {name: rng.permutation(size)[: 1 + rng.integers(size)] for name, size in zip(names, sizes, strict=True)}

    def value(selection: dict[str, np.ndarray]) -> float:
        worths = sum(float(worth[name][units].sum()) for name, units in selection.items())
        return worths - DEVIATION * sum(abs(len(units) - len(kept[name])) for name, units in selection.items())

    best = -np.inf
    for bits in product((False, True), repeat=sum(sizes)):
        parts = np.split(np.array(bits), np.cumsum(sizes)[:-1])
        if all(part.any() for part in parts):
            selection = {name: np.flatnonzero(part) for name, part in zip(names, parts, strict=True)}
            if value(selection) > best and _allowed(graph, Selection(graph, selection).mask):
                best = value(selection)
    found = nearest(Selection(graph, kept), worth, free=names)
    assert _allowed(graph, found.mask)
    # One set with a single partition takes the nearest count a group, where two are equally near either is right.
    assert value({name: found[name] for name in names}) >= best - 0.02 - (4.0 if len(linked) == 1 else 0.0)


def _shuffled(width: int) -> ChannelGraph:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([net.a(x), net.b(x)], 1)
        n, channels, h, w = y.shape
        y = y.view(n, 2, channels // 2, h, w).transpose(1, 2).reshape(n, channels, h, w)
        first, second = y.chunk(2, 1)
        return net.d(torch.cat([first, net.c(second)], 1))

    layers = {"a": conv(3, width), "b": conv(3, width), "c": conv(width, width), "d": conv(2 * width, 4)}
    return channel_sets(randomised(Net(forward, 4, **layers)), IMAGES[:1])


def test_the_size_of_the_program_does_not_grow_with_the_channels() -> None:
    (small,), (large,) = _shuffled(8).links, _shuffled(32).links
    assert len(small.cells.sizes) == len(large.cells.sizes) <= 8
    assert small.cells.matrix.shape == large.cells.matrix.shape
    assert sum(large.cells.sizes) == sum(large.sizes) == 4 * sum(small.sizes)


def test_a_selection_never_depends_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _shuffled(32)
    given: list[dict[str, float]] = []
    solver = optimize.milp

    def recorded(*args: object, options: dict[str, float], **kwargs: object) -> object:
        given.append(dict(options))
        return solver(*args, options=options, **kwargs)

    monkeypatch.setattr(optimize, "milp", recorded)
    rng = np.random.default_rng(0)
    values = {name: rng.random(32) for name in "abc"}
    kept = {name: rng.permutation(32)[:9] for name in "abc"}
    found = [nearest(Selection(graph, kept), values, free="abc") for _ in range(2)]
    assert [options.keys() for options in given] == [{"node_limit", "mip_rel_gap"}] * 2
    assert all(np.array_equal(found[0][name], found[1][name]) for name in "abc")


def test_all_channels_are_kept_without_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _shuffled(8)
    monkeypatch.setattr(optimize, "milp", None)
    assert nearest(Selection(graph), {}, free="abc").parameters == Selection(graph).parameters


def test_a_set_that_must_stay_whole_does() -> None:
    graph = _graph("halves after a shuffle")
    found = nearest(Selection(graph, {"a": np.arange(4), "b": np.arange(8)}), {}, free="ab", full="b")
    assert len(found["a"]) == len(found["b"]) == 8
    assert len(nearest(Selection(graph, {"a": np.arange(4), "b": np.arange(4)}), {}, free="ab")["a"]) == 4


def test_no_layer_is_left_without_channels() -> None:
    build = NETS["concatenation added to a convolution"][0]
    model = randomised(build())
    graph = channel_sets(model, IMAGES[:1])
    assert len(graph.floors) == 2
    with pytest.raises(GraphError, match="would have no channels"):
        rebuild(model, Selection(graph, {"a": np.arange(4)}))
    kept = nearest(Selection(graph, {"a": np.arange(4)}), {"a": np.linspace(1, 0, 8)}, free="a")
    assert kept["a"].tolist() == [0, 1, 2, 4]
    verify(model, rebuild(model, kept), kept, IMAGES)


def test_two_blocks_of_nested_shuffles_interleave() -> None:
    def forward(net: Net, x: torch.Tensor) -> torch.Tensor:
        y = torch.cat([net.a(x), net.b(x)], 1)
        for layer in (net.c, net.d):
            n, channels, h, w = y.shape
            y = y.view(n, 2, channels // 2, h, w).transpose(1, 2).reshape(n, channels, h, w)
            first, second = y.chunk(2, 1)
            y = torch.cat([first, layer(second)], 1)
        return net.e(y)

    layers = {"a": conv(3, 8), "b": conv(3, 8), "c": conv(8, 8), "d": conv(8, 8), "e": conv(16, 4)}
    model = randomised(Net(forward, 4, **layers))
    graph = channel_sets(model, IMAGES[:1])
    assert [group.name for group in graph.prunable] == ["a", "b", "c", "d", "e"]
    rng = np.random.default_rng(0)
    for count in (7, 6, 5, 3, 2, 1):
        wanted = {name: rng.permutation(8)[:count] for name in "abcd"}
        kept = nearest(Selection(graph, wanted), {name: rng.random(8) for name in "abcd"}, free="abcd")
        assert {len(kept[name]) for name in "abcd"} == {count}
        verify(model, rebuild(model, kept), kept, IMAGES)


def test_constraints_that_cannot_be_met_are_named() -> None:
    graph = _graph("halves after a shuffle")
    clash = replace(graph, floors=())
    clash.balances = (
        *graph.balances,
        type(graph.balances[0])((np.array([[0, unit] for unit in range(8)]), np.empty((0, 2), np.int64))),
    )
    with pytest.raises(TargetError, match="no selection gives equal counts to the blocks of a, b"):
        nearest(Selection(clash, {"a": np.arange(4), "b": np.arange(4)}), {}, free="ab")


def test_a_norm_without_parameters_that_fixes_its_shape_is_frozen() -> None:
    norm = nn.LayerNorm(8, elementwise_affine=False)
    model = randomised(
        Net(
            lambda m, x: m.b(m.n(m.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), 4, a=conv(3, 8), n=norm, b=conv(8, 4)
        )
    )
    graph = channel_sets(model, IMAGES[:1])
    assert [group.name for group in graph.prunable] == ["b"]
