from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from cfp_cli.foundation.errors import DataError
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.trace import trace
from cfp_cli.models.registry import create
from cfp_cli.pruning import reconstruct as module
from cfp_cli.pruning.layer_fit import FitOptions
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.recalibrate import absorb_statistics, recalibrate
from cfp_cli.pruning.reconstruct import reconstruct

IMAGES = torch.rand(24, 3, 12, 12, generator=torch.Generator().manual_seed(1))
LOADER = [(images, torch.zeros(len(images))) for images in IMAGES.split(8)]
KEPT = {"first": np.array([0, 1, 2, 4])}


class Follows(nn.Module):
    """Six channels, of which the last is constant and the last but two the sum of two others, read by `rest`."""

    def __init__(self, rest: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.rest = rest
        with torch.no_grad():
            # Positive maps, so that the activation keeps sums.
            self.first.weight.abs_()
            self.first.bias.abs_()
            self.first.weight[3] = self.first.weight[0] + self.first.weight[1]
            self.first.bias[3] = self.first.bias[0] + self.first.bias[1]
            self.first.weight[5] = 0
            self.first.bias[5] = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(F.relu(self.first(x)))


def head(*layers: nn.Module, width: int) -> nn.Module:
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))


def norm(width: int) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(width)
    made.running_mean.normal_()
    made.running_var.uniform_(0.5, 2)
    return made


CONSUMERS: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: head(nn.Conv2d(6, 5, 3), width=5),
    "stride, dilation and an oblong kernel": lambda: head(nn.Conv2d(6, 5, (3, 2), stride=(2, 1), dilation=2), width=5),
    "padding by reflection": lambda: head(nn.Conv2d(6, 5, 3, padding=1, padding_mode="reflect"), width=5),
    "batch norm that takes the offset": lambda: head(nn.Conv2d(6, 5, 3, bias=False), norm(5), width=5),
    "linear behind a flatten": lambda: nn.Sequential(nn.AvgPool2d(6), nn.Flatten(), nn.Linear(24, 4)),
    "linear": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
}


@pytest.fixture(params=CONSUMERS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return Follows(CONSUMERS[request.param]()).eval()


@torch.no_grad()
def test_what_the_kept_channels_tell_is_told_again(model: nn.Module) -> None:
    graph = channel_sets(model, IMAGES[:1])
    pruned = rebuild(model, Selection(graph, KEPT))
    wanted = model(IMAGES)
    assert float((pruned(IMAGES) - wanted).abs().max()) > 1e-2
    assert reconstruct(pruned, model, Selection(graph, KEPT), LOADER, options=FitOptions([1e-9])) >= 2
    torch.testing.assert_close(pruned(IMAGES), wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_weights_are_the_ridge_solution(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1, groups=2, bias=False), nn.Flatten())
    model = nn.Sequential(model, nn.Linear(6 * 25, 2)).eval()
    graph = channel_sets(model, IMAGES[:1])
    kept = {"0.0": np.array([0, 2, 5, 6])}
    found = []
    # However many layers are held at once.
    for budget in (module.BUDGET, 0):
        monkeypatch.setattr(module, "BUDGET", budget)
        pruned = rebuild(model, Selection(graph, kept))
        sliced = pruned[0][2].weight.double().clone()
        reconstruct(pruned, model, Selection(graph, kept), LOADER, positions=10_000, options=FitOptions([0.1]))
        found.append(pruned)
    assert torch.equal(found[0][0][2].weight, found[1][0][2].weight)
    given = F.relu(found[0][0][0](IMAGES)).double()
    targets = model[0][2](F.relu(model[0][0](IMAGES))).double()
    for group in range(2):
        x = (
            F.unfold(given[:, 2 * group : 2 * group + 2], 3, padding=1, stride=2)
            .transpose(1, 2)
            .reshape(-1, 18)
            .numpy()
        )
        y = targets[:, 3 * group : 3 * group + 3].flatten(2).transpose(1, 2).reshape(-1, 3).numpy()
        start = sliced[3 * group : 3 * group + 3].reshape(3, -1).T.numpy()
        held = np.sqrt(0.1 * np.square(x).sum(0).mean())
        expected = np.linalg.lstsq(np.vstack([x, held * np.eye(18)]), np.vstack([y, held * start]), rcond=None)[0]
        fitted = found[0][0][2].weight[3 * group : 3 * group + 3].reshape(3, -1).T
        np.testing.assert_allclose(fitted.numpy(), expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_a_residual_network_comes_nearer_to_its_logits() -> None:
    torch.manual_seed(0)
    model = create("torchvision:resnet18", 5).eval()
    images = torch.rand(32, 3, 32, 32)
    loader = [(images, torch.zeros(32))]
    recalibrate(model, loader)
    graph = channel_sets(model, images[:1])
    kept = {group.name: np.arange(0, group.size, 2) for group in graph.prunable}
    wanted, errors = model(images), {}
    for name in ("recalibrated", "reconstructed"):
        pruned = rebuild(model, Selection(graph, kept))
        if name == "recalibrated":
            recalibrate(pruned, loader)
        else:
            # The error is that of the fitted images, which a larger ridge does not make smallest.
            reconstruct(pruned, model, Selection(graph, kept), loader, options=FitOptions([1e-3]))
        errors[name] = float((pruned(images) - wanted).square().mean() / wanted.var())
    assert errors["reconstructed"] < 0.1 < errors["recalibrated"]


class Convolutions(TorchDispatchMode):
    """Counts the convolutions that run."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten.convolution.default and type(args[0]) is Tensor
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("budget", [module.BUDGET, 0])
@torch.no_grad()
def test_the_cost_is_linear_in_the_depth(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The maps are smaller than the images, and so fit into memory.
    monkeypatch.setattr(module, "BUDGET", budget)
    for depth in (4, 16):
        layers = [each for _ in range(depth) for each in (nn.Conv2d(2, 2, 3, padding=1), nn.ReLU(inplace=True))]
        model = nn.Sequential(nn.Conv2d(3, 2, 1), *layers, head(width=2)).eval()
        selection = Selection(channel_sets(model, IMAGES[:1]), {"1": np.array([1])})
        pruned = rebuild(model, selection)
        with Convolutions() as convolutions:
            assert reconstruct(pruned, model, selection, LOADER) == depth + 2
        # Each layer of both networks runs once for each batch, once to count its calls, twice in the trial of
        # the memory format, and once in the trace.
        assert convolutions.count <= (2 * len(LOADER) + 4) * (depth + 1)


@torch.no_grad()
def test_dead_inputs_keep_their_weights() -> None:
    torch.manual_seed(0)
    model = Follows(head(nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.Conv2d(6, 5, 1), width=5)).eval()
    model.first.weight[:2] = 0
    model.first.bias[:2] = -1
    graph = channel_sets(model, IMAGES[:1])
    pruned = rebuild(model, Selection(graph, KEPT))
    before = pruned.rest[0].weight.clone()
    reconstruct(pruned, model, Selection(graph, KEPT), LOADER)
    assert torch.equal(pruned.rest[0].weight[:2], before[:2])
    assert all(bool(value.isfinite().all()) for value in pruned.state_dict().values())


def test_a_long_loader_is_used_from_end_to_end() -> None:
    batches = [(torch.full((4, 1), float(place)), torch.zeros(4)) for place in range(100)]
    assert [int(images[0, 0]) for images in module.spread(batches, 40)] == [*range(0, 100, 10)]
    assert [int(images[0, 0]) for images in module.spread(iter(batches), 40)] == [*range(10)]
    assert len([*module.spread(batches, 1000)]) == 100
    # One and a half times as many as are wanted.
    assert [int(images[0, 0]) for images in module.spread(batches[:15], 40)] == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13]


def test_without_images_nothing_can_be_fitted() -> None:
    model = Follows(head(width=6)).eval()
    graph = channel_sets(model, IMAGES[:1])
    with pytest.raises(DataError, match="no images"):
        reconstruct(rebuild(model, Selection(graph, KEPT)), model, Selection(graph, KEPT), [])


@torch.no_grad()
def test_recalibrated_norms_compute_the_same_from_their_own_inputs() -> None:
    torch.manual_seed(0)
    plain = nn.BatchNorm2d(5, affine=False)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), norm(5), nn.ReLU(), nn.Conv2d(5, 5, 3), norm(5), plain).eval()
    before = model(IMAGES)
    assert absorb_statistics(model, trace(model, IMAGES), [(IMAGES, torch.zeros(len(IMAGES)))]) == 2, (
        "the last has no weight to take anything up"
    )
    torch.testing.assert_close(model(IMAGES), before, rtol=1e-4, atol=1e-5)
    given = model[0](IMAGES)
    torch.testing.assert_close(model[1].running_mean, given.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[1].running_var, given.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5)
    model[:5].train()
    torch.testing.assert_close(model(IMAGES), before, rtol=1e-3, atol=1e-4)
    assert float(plain.running_mean.abs().max()) == 0


@torch.no_grad()
def test_a_norm_is_recalibrated_on_every_image_alike() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1)).eval()
    absorb_statistics(
        model,
        trace(model, torch.zeros(1, 1, 2, 2)),
        [(torch.zeros(99, 1, 2, 2), torch.zeros(99)), (torch.full((1, 1, 2, 2), 100.0), torch.zeros(1))],
    )
    assert float(model[0].running_mean) == pytest.approx(1.0)
    assert float(model[0].running_var) == pytest.approx(99.0)


class TwoReaders(nn.Module):
    """Two layers without bias whose outputs one batch norm takes in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.one, self.two = nn.Conv2d(6, 5, 3, bias=False), nn.Conv2d(6, 5, 3, bias=False)
        self.norm = norm(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        return self.head((F.relu(self.norm(self.one(y))) - F.relu(self.norm(self.two(y)))).mean((2, 3)))


@torch.no_grad()
def test_a_norm_of_two_layers_keeps_its_mean() -> None:
    torch.manual_seed(0)
    model = TwoReaders().eval()
    graph = channel_sets(model, IMAGES[:1])
    pruned = rebuild(model, Selection(graph, KEPT))
    reconstruct(pruned, model, Selection(graph, KEPT), LOADER)
    assert torch.equal(pruned.norm.running_mean, model.norm.running_mean)
    assert not torch.equal(pruned.one.weight, rebuild(model, Selection(graph, KEPT)).one.weight)


class Named(nn.Module):
    """Calls its layers by the names of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 5, 3), norm(5)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(input=self.second(input=F.relu(self.first(input=x))))
        return self.head(input=F.relu(y).mean((2, 3)))


@torch.no_grad()
def test_layers_that_are_called_by_name_are_fitted_and_recalibrated() -> None:
    torch.manual_seed(0)
    model = Named().eval()
    graph = channel_sets(model, IMAGES[:1])
    pruned = rebuild(model, Selection(graph, KEPT))
    wanted = model(IMAGES)
    before = float((pruned(IMAGES) - wanted).square().mean())
    assert reconstruct(pruned, model, Selection(graph, KEPT), LOADER) == 3
    assert absorb_statistics(pruned, graph.traced, LOADER) == 1
    assert float((pruned(IMAGES) - wanted).square().mean()) < before
