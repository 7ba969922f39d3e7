"""Which layers are fitted: operators count, whatever modules call them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from cfp_cli.foundation.progress import Silent
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.trace import arguments_of, operator_of, trace
from cfp_cli.pruning import reconstruct as module
from cfp_cli.pruning.fitted_layers import fitted_layers
from cfp_cli.pruning.layer_fit import FitOptions, Layer, patches
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.reconstruct import RecordedOutputs, reconstruct
from cfp_cli.pruning.refit import Refit

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LOADER = [(images, torch.zeros(len(images))) for images in IMAGES.split(8)]


class SamePadding(nn.Conv2d):
    """Pads its input by itself, as the convolutions of EfficientNet in TensorFlow's manner do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Doubled(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


class Uncalled(nn.Module):
    """Reads the weight of a module that it never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.held = nn.Conv2d(8, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.held.weight, self.held.bias, padding=1)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x).relu())[:, :6]


class Tied(nn.Module):
    """Two modules with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.Conv2d(8, 6, 3, padding=1, bias=False)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).relu() - self.two(x.relu())


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.rand(9, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.rows[:6])


class ReadElsewhere(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 6, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.layer.bias.mean()


class OfParameter(nn.Module):
    """Scales its maps by layers that read parameters without a dimension of images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.map = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(5, 6), nn.Conv2d(2, 6, 3, padding=1)
        self.vector, self.image = nn.Parameter(torch.rand(5)), nn.Parameter(torch.rand(2, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.gate(self.vector)[:, None, None].sigmoid() * self.map(self.image).sigmoid()


def flattened(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(2), layer, nn.Unflatten(2, (8, 8)))


FITTED: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(8, 6, 3, padding=1),
    "pads by itself": lambda: SamePadding(8, 6, 2),
    "doubles its output": lambda: Doubled(8, 6, 3, padding=1),
    "never called": Uncalled,
}
LEFT: dict[str, Callable[[], nn.Module]] = {
    "computed weight": lambda: Standardised(8, 6, 3),
    "runs twice": Twice,
    "tied weights": Tied,
    "spectral norm": lambda: spectral_norm(nn.Conv2d(8, 6, 3, padding=1)),
    "slice of a parameter": Sliced,
    "1-d": lambda: flattened(nn.Conv1d(8, 6, 3, padding=1)),
    "transposed": lambda: nn.ConvTranspose2d(8, 6, 2),
    "bias that other code reads": ReadElsewhere,
}


class Around(nn.Module):
    """A first convolution whose eighth channel is the sum of two others, and a layer that reads it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.head = nn.Conv2d(3, 8, 1), layer, nn.Linear(6, 4)
        with torch.no_grad():
            self.first.weight.abs_()
            self.first.bias.abs_()
            self.first.weight[7] = self.first.weight[0] + self.first.weight[1]
            self.first.bias[7] = self.first.bias[0] + self.first.bias[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.first(x).relu()).relu().mean((2, 3)))


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def around(layer: Callable[[], nn.Module]) -> tuple[nn.Module, Selection]:
    torch.manual_seed(0)
    network = Around(layer()).eval()
    graph = channel_sets(network, IMAGES[:1])
    name = next(each.name for each in graph.sets if "first" in each.producers)
    return network, Selection(graph, {name: np.arange(7)} if not graph.sets[0].frozen else {})


@pytest.mark.parametrize("name", FITTED)
@torch.no_grad()
def test_a_dropped_channel_is_made_up_for(name: str) -> None:
    network, selection = around(FITTED[name])
    pruned, heard = rebuild(network, selection), Heard()
    assert float((pruned(IMAGES) - network(IMAGES)).abs().max()) > 1e-3
    assert reconstruct(pruned, network, selection, LOADER, options=FitOptions([1e-9]), progress=heard) == 3
    torch.testing.assert_close(pruned(IMAGES), network(IMAGES), rtol=1e-3, atol=1e-3)
    assert not heard.lines


@pytest.mark.parametrize("name", LEFT)
@torch.no_grad()
def test_layers_that_keep_their_weights_are_reported(name: str) -> None:
    network, selection = around(LEFT[name])
    pruned, heard = rebuild(network, selection), Heard()
    before = {key: value.clone() for key, value in pruned.layer.state_dict().items()}
    assert reconstruct(pruned, network, selection, LOADER, progress=heard) == 2
    assert all(torch.equal(value, before[key]) for key, value in pruned.layer.state_dict().items())
    assert len(heard.lines) == 1
    assert "keep their sliced weights" in heard.lines[0]
    names = heard.lines[0].rpartition(": ")[2].split(", ")
    assert len(names) == len(set(names))
    assert set(names) <= dict(network.named_parameters()).keys()
    assert all(each.startswith("layer.") for each in names)
    recorded = Heard()
    RecordedOutputs.of(network, selection.graph, [images for images, _ in LOADER], progress=recorded)
    assert heard.lines == recorded.lines


@pytest.mark.parametrize("size", [1.0, 1e20])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_refit_keeps_what_is_right(size: float, precision: torch.dtype) -> None:
    """Also for layers that read parameters, in float64, and for values whose squares overflow."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(6)
    norm.running_mean.normal_()
    network = Around(nn.Sequential(OfParameter(), nn.ReLU(), nn.Conv2d(6, 6, 1, bias=False), norm)).to(precision).eval()
    images = size * IMAGES.to(precision)
    loader = [(each, torch.zeros(8)) for each in images.split(8)]
    selection = Selection(channel_sets(network, images[:1]))
    pruned = rebuild(network, selection)
    Refit().apply(pruned, network, selection, loader)
    torch.testing.assert_close(pruned(images), network(images), rtol=1e-3, atol=1e-3 * size)


def test_projections_of_attention_are_fitted() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.attention, self.head = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.stem(x).flatten(2).permute(2, 0, 1)
            return self.head(self.attention(tokens, tokens, tokens)[0].mean(0))

    graph = channel_sets(Attention().eval(), IMAGES[:1])
    names = {each.weight for each in fitted_layers(Selection(graph), IMAGES.device)[0]}
    assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= names


CONVOLUTIONS: dict[str, nn.Conv2d] = {
    "same": nn.Conv2d(4, 6, 4, padding="same"),
    "same, dilated": nn.Conv2d(4, 6, (2, 3), padding="same", dilation=(3, 2), groups=2),
    "valid": nn.Conv2d(4, 6, 3, padding="valid"),
    "oblong": nn.Conv2d(4, 6, (1, 3), stride=(2, 1), padding=(0, 2)),
    "depthwise": nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=4),
}


@pytest.mark.filterwarnings("ignore:Using padding")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@torch.no_grad()
def test_patches_and_weights_give_the_outputs(name: str) -> None:
    convolution = CONVOLUTIONS[name].eval()
    x = torch.rand(3, 4, 9, 7)
    example = trace(nn.Sequential(convolution, nn.Flatten()), x)
    call = next(each for each in example.nodes if operator_of(each) == "conv2d")
    layer = Layer.of(arguments_of(call), convolution.weight, convolution.bias)
    wanted = convolution(x)
    positions = torch.randperm(wanted[0, 0].numel())[:11]
    weight = convolution.weight.reshape(layer.groups, len(convolution.weight) // layer.groups, -1)
    found = patches(layer, x, positions) @ weight.transpose(1, 2)
    found = found.transpose(0, 1).flatten(1) + convolution.bias
    torch.testing.assert_close(found, wanted.flatten(2)[..., positions].transpose(1, 2).flatten(0, 1))


@torch.no_grad()
def test_a_layer_with_few_inputs_takes_few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 4, 3))
    network = nn.Sequential(network, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(40, 3, 16, 16)
    selection = Selection(channel_sets(network, images[:1]))
    seen: dict[tuple[int, ...], int] = {}

    def count(layer, samples, *_):
        seen[tuple(layer.weight.shape)] = sum(len(wanted) for _, wanted in samples)

    monkeypatch.setattr(module, "fit_layer", count)
    reconstruct(rebuild(network, selection), network, selection, [(images, torch.zeros(40))])
    # 3 inputs and an offset need 400 samples, 9 and an offset 1,000, and 144 more than the 64 positions of an image.
    assert seen == {(16, 3, 1, 1): 400, (16, 1, 3, 3): 1000, (4, 16, 3, 3): 64 * 40}


@pytest.mark.parametrize(("images", "warned"), [(8, True), (24, False)])
def test_layers_with_few_samples_are_reported(images: int, warned: bool) -> None:
    # The head has six inputs and one output position: 8 images are fewer than two samples for each input.
    network, selection = around(next(iter(FITTED.values())))
    heard = Heard()
    reconstruct(rebuild(network, selection), network, selection, LOADER, most=images, progress=heard)
    assert [line.startswith("warning: the refit has fewer than 2 samples") for line in heard.lines] == [True] * warned
    assert all("in 1 of 3 layers" in line for line in heard.lines)
