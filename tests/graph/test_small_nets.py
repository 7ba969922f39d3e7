from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_nets import CLASSES, NETS, Net, conv, randomised
from torch import nn

from cfp_cli.foundation.errors import GraphError, ProofError
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.random_selection import random_selection
from cfp_cli.models.resize import resize_tensors
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.reconstruct import reconstruct
from cfp_cli.pruning.verify import verify

IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NETS)
def test_every_way_of_tying_channels(name: str) -> None:
    build, sizes, frozen = NETS[name]
    torch.manual_seed(0)
    model = randomised(build())
    graph = channel_sets(model, IMAGES[:1])
    assert {group.name: group.size for group in graph.sets} == sizes
    assert {group.name for group in graph.sets if group.frozen} == frozen | {"head"}
    assert graph.sets[-1].frozen == ("logits",)
    for group in graph.prunable:
        assert group.taps, f"{group.name} has no tap"
    _holds_at_random(model, graph)


@pytest.mark.parametrize("name", NETS)
def test_fitting_layers_that_lost_nothing_changes_nothing(name: str) -> None:
    torch.manual_seed(0)
    model = randomised(NETS[name][0]())
    graph = channel_sets(model, IMAGES[:1])
    whole = rebuild(model, Selection(graph))
    reconstruct(whole, model, Selection(graph), [(IMAGES, torch.zeros(len(IMAGES)))], positions=10_000)
    with torch.no_grad():
        torch.testing.assert_close(whole(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-4)
    kept, _ = random_selection(graph, 0.5, np.random.default_rng(0))
    pruned = rebuild(model, kept)
    shapes = {key: value.shape for key, value in pruned.state_dict().items()}
    reconstruct(pruned, model, kept, [(IMAGES, torch.zeros(len(IMAGES)))])
    assert {key: value.shape for key, value in pruned.state_dict().items()} == shapes
    assert all(bool(value.isfinite().all()) for value in pruned.state_dict().values())


def _holds_at_random(model: nn.Module, graph) -> None:
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert Selection(graph).parameters == sum(p.numel() for p in model.parameters())
    for seed, fraction in enumerate((0.7, 0.5, 0.2)):
        kept, stuck = random_selection(graph, fraction, np.random.default_rng(seed))
        assert not stuck
        rebuilt = rebuild(model, kept)
        assert verify(model, rebuilt, kept, IMAGES) < 1e-4
        assert kept.parameters == sum(p.numel() for p in rebuilt.parameters())
    after = model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    "name",
    [
        "depthwise with multiplier",
        "grouped",
        "transposed",
        "channels last",
        "shared layer",
        "fixed filter that no state dict holds",
        "fixed filter that state dicts hold",
        "fixed scale that no state dict holds",
    ],
)
def test_a_fresh_network_takes_the_tensors_of_its_pruned_self(name: str) -> None:
    build, *_ = NETS[name]
    model = randomised(build())
    graph = channel_sets(model, IMAGES[:1])
    kept, _ = random_selection(graph, 0.5, np.random.default_rng(0))
    rebuilt = rebuild(model, kept)
    state = rebuilt.state_dict()
    fresh = build().eval()
    resize_tensors(fresh, {key: tuple(value.shape) for key, value in state.items()})
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh(IMAGES), rebuilt(IMAGES), rtol=0, atol=0)


class Forms:
    """One network written four ways."""

    @staticmethod
    def modules(m, x):
        return m.c(m.flat(m.pool(m.relu(m.bn(m.a(x)) + m.relu(m.b(x))))))

    @staticmethod
    def functions(m, x):
        y = F.batch_norm(
            F.conv2d(x, m.a.weight, m.a.bias, padding=1), m.bn.running_mean, m.bn.running_var, m.bn.weight, m.bn.bias
        )
        z = F.relu(F.conv2d(x, m.b.weight, m.b.bias, padding=1))
        pooled = F.adaptive_avg_pool2d(F.relu(torch.add(y, z)), 2)
        return F.linear(torch.flatten(pooled, 1), m.c.weight, m.c.bias)

    @staticmethod
    def methods(m, x):
        return m.c(m.pool((m.bn(m.a(x)).add(m.b(x).relu())).relu()).reshape(x.shape[0], -1))

    @staticmethod
    def in_place(m, x):
        y = m.bn(m.a(x))
        z = m.b(x)
        z.relu_()
        y += z
        F.relu_(y)
        return m.c(m.pool(y).view(x.size(0), -1))


def test_module_function_method_and_in_place_forms_give_the_same_sets() -> None:
    seen = []
    for form in (Forms.modules, Forms.functions, Forms.methods, Forms.in_place):
        torch.manual_seed(0)
        layers = {"a": conv(3, 8), "bn": nn.BatchNorm2d(8), "b": conv(3, 8), "c": nn.Linear(32, 6)}
        model = randomised(Net(form, 6, **layers, relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(2), flat=nn.Flatten()))
        graph = channel_sets(model, IMAGES[:1])
        named = {tap.node: tap.units.tolist() for tap in graph.taps}
        shown = {}
        graph.read_taps(IMAGES, lambda tap, maps, shown=shown: shown.__setitem__(tap.node, maps.clone()))
        parameters = {(d.name, d.dim): d.units.tolist() for d in graph.dimensions}
        seen.append(
            (
                [(s.name.split("#")[0], s.size, bool(s.frozen)) for s in graph.sets],
                parameters,
                list(named.values()),
                list(shown.values()),
            )
        )
    assert [name for name, *_ in seen[0][0]] == ["a", "c", "head"]
    for sets, parameters, units, maps in seen[1:]:
        assert [each[1:] for each in sets] == [each[1:] for each in seen[0][0]]
        assert parameters == seen[0][1]
        assert units == seen[0][2]
        for ours, theirs in zip(maps, seen[0][3], strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_tap_shows_maps_after_activation_pool_and_sum() -> None:
    model = randomised(
        Net(
            lambda m, x: (lambda y: F.relu(y + m.b(y)))(F.max_pool2d(F.relu(m.a(x)), 2)),
            8,
            a=conv(3, 8),
            b=conv(8, 8),
        )
    )
    graph = channel_sets(model, IMAGES[:1])
    shown = {}
    graph.read_taps(IMAGES, lambda tap, maps: shown.__setitem__(tap.node, maps.clone()))
    with torch.no_grad():
        first = F.max_pool2d(F.relu(model.a(IMAGES)), 2)
        second = F.relu(first + model.b(first))
    assert [tap.channels for tap in graph.taps] == [8, 8]
    torch.testing.assert_close(shown[graph.taps[0].node], first)
    torch.testing.assert_close(shown[graph.taps[1].node], second)
    assert all((tap.units == np.stack([np.zeros(8), np.arange(8)], 1)).all() for tap in graph.taps)


def test_taps_of_channels_last_and_hidden_layers_are_maps() -> None:
    build, *_ = NETS["channels last"]
    model = randomised(build())
    graph = channel_sets(model, IMAGES[:1])
    shapes = {}
    graph.read_taps(IMAGES, lambda tap, maps: shapes.__setitem__(tap.node, tuple(maps.shape)))
    assert [shapes[tap.node] for tap in graph.taps] == [(3, tap.channels, 16, 16) for tap in graph.taps]
    hidden = randomised(Net(lambda m, x: F.relu(m.l(m.a(x).mean((2, 3)))), 5, a=conv(3, 8), l=nn.Linear(8, 5)))
    graph = channel_sets(hidden, IMAGES[:1])
    graph.read_taps(IMAGES, lambda tap, maps: shapes.__setitem__(tap.node, tuple(maps.shape)))
    assert [shapes[tap.node] for tap in graph.taps] == [(3, 8, 16, 16), (3, 5, 1, 1)]


def test_the_interpreter_computes_what_the_module_computes_and_leaves_its_input() -> None:
    model = randomised(Net(lambda m, x: m.a(F.relu_(x.sub_(0.5))), 4, a=conv(3, 4)))
    traced = channel_sets(model, IMAGES[:1]).traced
    x = IMAGES.clone()
    (logits,) = traced.run(x)
    assert torch.equal(x, IMAGES)
    torch.testing.assert_close(logits, model(IMAGES.clone()))


def test_macs_are_those_of_convolutions_and_linear_layers() -> None:
    model = randomised(Net(lambda m, x: m.b(m.a(x)), 4, a=nn.Conv2d(3, 8, 3, stride=2), b=nn.Conv2d(8, 4, 1)))
    graph = channel_sets(model, IMAGES[:1])
    assert Selection(graph).macs == 49 * (8 * 3 * 9) + 49 * (8 * 4) + 4 * 3
    assert Selection(graph, {"a": np.arange(5)}).macs == 49 * (5 * 3 * 9) + 49 * (5 * 4) + 4 * 3


def test_macs_of_places_that_lie_beside_the_images() -> None:
    def rows(net: Net, x: torch.Tensor) -> torch.Tensor:
        y = net.a(x).permute(0, 2, 3, 1).reshape(-1, 8)
        return F.relu(net.b(y)).view(x.shape[0], 256, 4).mean(1)

    model = randomised(Net(rows, 4, a=conv(3, 8), b=nn.Linear(8, 4)))
    assert Selection(channel_sets(model, IMAGES[:1])).macs == 256 * (8 * 27) + 256 * (4 * 8) + 12


@pytest.mark.parametrize("name", [name for name in NETS if name.startswith("fixed filter")])
def test_a_fixed_filter_counts_multiply_adds_and_no_parameters(name: str) -> None:
    build, *_ = NETS[name]
    graph = channel_sets(randomised(build()), IMAGES[:1])
    assert Selection(graph).parameters == 8 * (27 + 1) + 4 * (72 + 1) + 3 * (4 + 1)
    assert Selection(graph).macs == 256 * (8 * 27) + 196 * (8 * 9) + 196 * (4 * 72) + 12
    assert Selection(graph, {"a": np.arange(5)}).macs == 256 * (5 * 27) + 196 * (5 * 9) + 196 * (4 * 45) + 12


def test_frozen_operators_are_named_with_module_operator_and_reason() -> None:
    build, *_ = NETS["unknown operator"]
    graph = channel_sets(randomised(build()), IMAGES[:1])
    assert ("", "cummax", "cfp has no entry for this operator") in graph.frozen
    assert graph.sets[0].frozen == ("forward: cummax: cfp has no entry for this operator",)


def test_equal_groups_are_recorded_and_unequal_ones_refused() -> None:
    build, *_ = NETS["grouped"]
    model = randomised(build())
    graph = channel_sets(model, IMAGES[:1])
    assert sorted(len(balance.blocks) for balance in graph.balances) == [4, 4]
    with pytest.raises(GraphError, match=r"b\.weight.*keep different numbers"):
        rebuild(model, Selection(graph, {"a": np.array([0, 1, 2]), "b": np.arange(12)}))


def test_a_wrong_rebuild_is_named_by_its_first_set() -> None:
    model = randomised(Net(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))), 4, a=conv(3, 8), b=conv(8, 8), c=conv(8, 4)))
    graph = channel_sets(model, IMAGES[:1])
    kept = Selection(graph, {"a": np.arange(4), "b": np.arange(4)})
    wrong = rebuild(model, Selection(graph, {**kept.kept, "b": np.arange(4, 8)}))
    with pytest.raises(ProofError, match="first set that differs is b;"):
        verify(model, wrong, kept, IMAGES)
    broken = rebuild(model, kept)
    broken.c.weight = nn.Parameter(broken.c.weight[:, :3])
    with pytest.raises(ProofError, match=r"cannot run.*first set that differs is c;"):
        verify(model, broken, kept, IMAGES)


def test_an_emptied_or_frozen_set_is_refused() -> None:
    build, *_ = NETS["unknown operator"]
    model = randomised(build())
    graph = channel_sets(model, IMAGES[:1])
    with pytest.raises(GraphError, match="no channel of set b is kept"):
        rebuild(model, Selection(graph, {"b": np.array([], np.int64)}))
    with pytest.raises(GraphError, match="set a is frozen"):
        rebuild(model, Selection(graph, {"a": np.arange(4)}))


def test_networks_that_cannot_be_traced_are_refused() -> None:
    with pytest.raises(GraphError, match="cannot be traced"):
        channel_sets(Undecided(), IMAGES[:1])


def test_a_network_that_fails_is_refused_with_its_own_error() -> None:
    with pytest.raises(GraphError, match=r"fails on images of 1 x 16 x 16 \(RuntimeError.*number of channels"):
        channel_sets(Undecided(), IMAGES[:1, :1])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_parameters_of_another_precision_than_the_images(kind: torch.dtype) -> None:
    model = nn.Sequential(conv(3, 4), nn.Flatten(), nn.Linear(4 * 256, 3)).to(kind)
    name = str(kind).removeprefix("torch.")
    with pytest.raises(GraphError, match=rf"its parameters are {name} and the images float32: pass network.float\(\)"):
        channel_sets(model, torch.rand(1, 3, 16, 16))


def test_a_network_that_fixes_its_batch_size_is_refused() -> None:
    model = Net(lambda m, x: F.relu(m.a(x)).mean((2, 3)).reshape(len(x), -1), 4, a=conv(3, 4))
    with pytest.raises(GraphError, match="fixes its batch size"):
        channel_sets(model, IMAGES[:1])


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, CLASSES)

    def forward(self, x):
        y = self.a(x).mean((2, 3))
        return y if y.sum() > 0 else -y


ACTIVATIONS = [
    *(kind(inplace=True) for kind in (nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Mish)),
    *(kind(inplace=True) for kind in (nn.ELU, nn.CELU, nn.SELU, nn.LeakyReLU, nn.RReLU)),
    *(nn.LeakyReLU(), nn.ReLU6(), nn.GELU(), nn.Softplus(), nn.Softsign(), nn.Tanh(), nn.Sigmoid(), nn.LogSigmoid()),
    *(nn.Threshold(0.1, 2.0, inplace=True), nn.Hardshrink(), nn.Softshrink(), nn.Tanhshrink()),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_no_activation_freezes_its_channels(activation: nn.Module) -> None:
    torch.manual_seed(0)
    layers = [conv(3, 8), activation, conv(8, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)]
    model = nn.Sequential(*layers).eval()
    graph = channel_sets(model, IMAGES[:1])
    assert [(group.size, group.frozen) for group in graph.sets[:2]] == [(8, ()), (4, ())]
    assert not graph.frozen
    assert [tap.name for tap in graph.taps] == ["1", "2"]
    _holds_at_random(model, graph)
