"""Scoring runs a network with folded batch norms: the values must be those of the network, up to rounding."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cfp_cli.graph import trace
from cfp_cli.graph.folding import FoldedRun
from cfp_cli.graph.trace import run_node

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def with_statistics(model: nn.Module) -> nn.Module:
    """A network in evaluation mode whose batch norms have statistics and parameters of their own."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.normal_(module.weight, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return model.eval()


def values(model: nn.Module, folded: bool) -> tuple[dict[str, Tensor], int]:
    """The value of every node that is not inside a folded pair, and how many batch norms were called."""
    traced = trace(model, IMAGES[:1])
    execute = FoldedRun(traced) if folded else run_node
    calls: list[str] = []

    def count(node, args, kwargs):  # type: ignore[no-untyped-def]
        result = execute(node, args, kwargs)
        if "batch_norm" in str(node.target) and result is not args[0]:
            calls.append(node.name)
        return result

    shown: dict[str, Tensor] = {}
    with torch.no_grad():
        for node, value in traced.values(IMAGES, count):
            readers = [str(reader.target) for reader in node.users]
            if isinstance(value, Tensor) and "aten.batch_norm.default" not in readers:
                shown[node.name] = value.clone()
    return shown, len(calls)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_values_are_those_of_the_network(name: str) -> None:
    torch.manual_seed(0)
    model = with_statistics(torchvision.models.get_model(name))
    expected, before = values(model, False)
    found, after = values(model, True)
    assert found.keys() == expected.keys()
    for node, value in expected.items():
        scale = value.abs().max()
        torch.testing.assert_close(found[node] / scale, value / scale, rtol=0, atol=2e-5)
    assert before > 0
    assert after == 0


class Unusual(nn.Module):
    """Batch norms with a bias before them, without parameters, after a linear layer, and after a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, groups=1)
        self.plain = nn.BatchNorm2d(8, affine=False)
        self.shared = nn.Conv2d(8, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 6)
        self.last = nn.BatchNorm1d(6)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.plain(self.first(x)).relu_()
        y = self.shared(x)
        z = nn.functional.batch_norm(
            self.first(IMAGES[:1].expand(x.shape[0], -1, -1, -1)),
            self.norm.running_mean,
            self.norm.running_var,
            self.scale * 2,
        )
        return self.last(self.linear((self.norm(y) + y).mean((2, 3)) + z.mean((2, 3))))


def test_what_cannot_be_folded_is_run_as_it_is() -> None:
    torch.manual_seed(0)
    model = with_statistics(Unusual())
    expected, before = values(model, False)
    found, after = values(model, True)
    for node, value in expected.items():
        torch.testing.assert_close(found[node], value, rtol=1e-4, atol=1e-5)
    # The layer with two readers and the batch norm with a computed scale stay.
    assert (before, after) == (4, 2)


def test_a_shown_layer_is_not_folded() -> None:
    model = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2)))
    model(IMAGES)
    traced = trace(model, IMAGES[:1])
    shown: dict[str, Tensor] = {}
    traced.run(
        IMAGES, {"conv2d"}, lambda name, value: shown.update({name: value.clone()}), FoldedRun(traced, {"conv2d"})
    )
    torch.testing.assert_close(shown["conv2d"], model[0](IMAGES))
