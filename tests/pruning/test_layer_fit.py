"""The fit of one layer: with an activation behind it, only what passes the activation has to be right."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from cfp_cli.graph import Selection, channel_sets
from cfp_cli.pruning import layer_fit
from cfp_cli.pruning.layer_fit import BEST_FIT, Activation, FitOptions, Layer, fit_layer
from cfp_cli.pruning.reconstruct import RecordedOutputs, reconstruct

RELU = Activation(0.0, math.inf)
RIDGE = 1e-3


def samples(seed: int = 0, inputs: int = 5, outputs: int = 3) -> list[tuple[Tensor, Tensor]]:
    """Two batches whose outputs the inputs cannot predict alone."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(2, 1, 200, inputs, generator=generator)
    mixing = torch.randn(inputs + 3, outputs, generator=generator)
    hidden = torch.randn(2, 200, 3, generator=generator)
    return [(x, torch.cat([x[0], h], 1) @ mixing) for x, h in zip(given, hidden, strict=True)]


def linear(bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(5, 3, bias=bias).requires_grad_(False)


def error(layer: nn.Linear, activation: Activation, norms: tuple[nn.Module, nn.Module] | None = None) -> float:
    """Mean squared error behind the activation, with the norms of the fitted layer and of the original."""
    fitted, original = norms or (nn.Identity(), nn.Identity())

    def passed(value: Tensor) -> Tensor:
        return value.clamp(activation.low, activation.high)

    pairs = [(passed(fitted(layer(x[0]))), passed(original(y))) for x, y in samples()]
    return float(sum((found - wanted).square().mean() for found, wanted in pairs))


def test_the_steps_reach_the_minimum_of_the_convex_problem() -> None:
    given = torch.cat([x[0] for x, _ in samples()]).double()
    target = torch.cat([y for _, y in samples()]).double()
    given = torch.cat([given, torch.ones(len(given), 1)], 1)
    layer = linear()
    first = torch.cat([layer.weight, layer.bias[:, None]], 1).double()
    held = RIDGE * float((given**2).sum(0).mean())

    def loss(flat):
        weight = torch.from_numpy(flat).view(3, 6).requires_grad_()
        found = given @ weight.T
        wrong = torch.where(target <= 0, found.clamp(min=0), found - target)
        total = (wrong**2).sum() + held * ((weight - first)[:, :-1] ** 2).sum()
        total.backward()
        return float(total.detach()), weight.grad.numpy().ravel()

    best = minimize(loss, first.numpy().ravel(), jac=True, options={"maxiter": 500, "gtol": 1e-8})
    fit_layer(Layer(layer.weight, layer.bias), samples(), None, RELU, FitOptions([RIDGE], steps=60))
    found = torch.cat([layer.weight, layer.bias[:, None]], 1).double().numpy().ravel()
    assert loss(found)[0] == pytest.approx(best.fun, rel=1e-4)


@pytest.mark.parametrize("activation", [RELU, Activation(0.0, 1.0), Activation(-1.0, 1.0)])
@pytest.mark.parametrize("normed", [False, True])
def test_the_error_behind_the_activation_falls(activation: Activation, normed: bool) -> None:
    errors = []
    for fitted_to in (None, activation):
        layer, norm = linear(bias=not normed), None
        if normed:
            torch.manual_seed(2)
            norm = nn.BatchNorm1d(3).eval().requires_grad_(False)
            norm.running_mean.fill_(0.3)
            norm.running_var.fill_(4.0)
            norm.weight.copy_(3 * torch.randn(3))
            norm.bias.copy_(torch.randn(3))
        original = copy.deepcopy(norm)
        fit_layer(Layer(layer.weight, layer.bias), samples(), norm, fitted_to)
        errors.append(error(layer, activation, (norm, original) if norm is not None and original is not None else None))
    assert errors[1] < 0.97 * errors[0]


def noisy(count: int, weights: Tensor, noise: float, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Two batches of `count` samples whose outputs are those of weights and an offset of 2, with noise."""
    generator = torch.Generator().manual_seed(seed)
    given = torch.randn(2, 1, count, weights.shape[1], generator=generator)
    return [(x, x[0] @ weights.T + 2 + noise * torch.randn(count, len(weights), generator=generator)) for x in given]


@pytest.mark.parametrize("seed", range(5))
def test_few_samples_keep_the_weights_near_where_they_were(seed: int) -> None:
    """With fewer samples than inputs a plain regression fits the noise, and is worse on new samples than no fit."""
    torch.manual_seed(seed)
    sliced = nn.Linear(40, 4).requires_grad_(False)
    truth = sliced.weight + 0.02 * torch.randn(4, 40)
    errors = {}
    for name, ridges in (("plain", BEST_FIT.ridges[:1]), ("chosen", BEST_FIT.ridges)):
        layer = copy.deepcopy(sliced)
        fit_layer(Layer(layer.weight, layer.bias), noisy(16, truth, 1.0, seed), options=FitOptions(ridges))
        errors[name] = sum(float((layer(x[0]) - y).square().mean()) for x, y in noisy(500, truth, 0.0, seed + 100))
    assert errors["chosen"] < 0.25 * errors["plain"]


def test_many_samples_choose_the_regression() -> None:
    truth = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    layers = [nn.Linear(6, 4).requires_grad_(False)]
    layers.append(copy.deepcopy(layers[0]))
    for layer, ridges in zip(layers, (BEST_FIT.ridges, BEST_FIT.ridges[:1]), strict=True):
        fit_layer(Layer(layer.weight, layer.bias), noisy(2000, truth, 0.1, 1), options=FitOptions(ridges))
    assert torch.equal(layers[0].weight, layers[1].weight)
    torch.testing.assert_close(layers[0].weight, truth, rtol=0, atol=0.02)


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("ridge", [1e-3, 1e6])
def test_an_offset_is_fitted_however_near_the_weights_stay(ridge: float, normed: bool) -> None:
    """Where an offset is free, the mean error of each output is zero."""
    layer = linear(bias=not normed)
    norm = nn.BatchNorm1d(3, affine=False).eval().requires_grad_(False) if normed else None
    fit_layer(Layer(layer.weight, layer.bias), noisy(50, torch.ones(3, 5), 0.5, 2), norm, options=FitOptions([ridge]))
    moved = torch.zeros(3) if norm is None else norm.running_mean
    mean = sum((layer(x[0]) - moved - y).mean(0) for x, y in noisy(50, torch.ones(3, 5), 0.5, 2))
    torch.testing.assert_close(mean, torch.zeros(3), rtol=0, atol=1e-4)


def test_what_can_be_met_exactly_stays_the_regression() -> None:
    """Where inputs predict the outputs, the regression is right behind any activation too."""
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    exact = [(x, x[0] @ weights) for x, _ in samples()]
    layer = linear()
    fit_layer(Layer(layer.weight, layer.bias), exact, None, RELU, FitOptions([1e-9]))
    torch.testing.assert_close(layer.weight, weights.T, rtol=1e-4, atol=1e-4)
    dead = nn.BatchNorm1d(3).eval().requires_grad_(False)
    dead.weight[1] = 0
    layer = linear(bias=False)
    fit_layer(Layer(layer.weight, layer.bias), samples(), dead, RELU)
    assert torch.isfinite(layer.weight).all()


class Read(nn.Module):
    """A convolution that a ReLU reads, alone or beside a sum."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 3, padding=1)
        self.alone = alone
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu())
        z = y.relu() if self.alone else y.relu() + y
        return self.head(z.mean((2, 3)))


@pytest.mark.parametrize("alone", [True, False])
def test_only_an_activation_that_alone_reads_a_layer_counts(alone: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Read(alone).eval()
    images = torch.rand(12, 3, 8, 8)
    graph = channel_sets(network, images[:1])
    seen: dict[int, Activation | None] = {}
    original = layer_fit.fit_layer

    def record(layer, samples, norm, activation, *fit):
        seen[len(layer.weight)] = activation
        original(layer, samples, norm, activation, *fit)

    monkeypatch.setattr("cfp_cli.pruning.reconstruct.fit_layer", record)
    RecordedOutputs.of(network, graph, [images]).fit(network, Selection(graph))
    assert seen == {8: RELU, 6: RELU if alone else None, 3: None}


def test_samples_that_take_too_much_memory_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network, loader = Read(True).eval(), [(torch.rand(6, 3, 8, 8), torch.zeros(6)) for _ in range(3)]
    selection = Selection(channel_sets(network, loader[0][0][:1]))
    found = []
    for size in (1 << 29, 0):
        monkeypatch.setattr("cfp_cli.pruning.reconstruct.SAMPLES", size)
        torch.manual_seed(1)
        pruned = Read(True).eval()
        reconstruct(pruned, network, selection, loader)
        found.append(pruned.state_dict())
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, msg=name)
