"""New statistics of batch norm leave the outputs of a refitted network as they are, whatever its norms compute."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.trace import trace
from cfp_cli.pruning.norm_calls import changeable_norms
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.refit import Refit

IMAGES = torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))
LOADER = [(images, torch.zeros(len(images))) for images in IMAGES.split(8)]


class OnePlus(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, 1 + self.weight, self.bias, eps=self.eps)


class OtherEps(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=0.5)


class OfBatch(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, mean, variance, self.weight, self.bias, training=True)


class WithActivation(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Read(nn.BatchNorm2d):
    """Reads one of its tensors once more."""

    def __init__(self, width: int, name: str) -> None:
        super().__init__(width)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + getattr(self, self.name)[:, None, None]


def twice(*shared: str) -> nn.Module:
    """Two norms that share some of their tensors."""
    one, two = nn.BatchNorm2d(5), nn.BatchNorm2d(5)
    for name in shared:
        setattr(two, name, getattr(one, name))
    return nn.Sequential(one, nn.Conv2d(5, 5, 1, bias=False), two)


# The norm, and how many of its batch norms may be changed.
NORMS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "plain": (lambda: nn.BatchNorm2d(5), 1),
    "with an activation": (lambda: WithActivation(5), 1),
    "without weight": (lambda: nn.BatchNorm2d(5, affine=False), 1),
    "two": (twice, 2),
    "computed weight": (lambda: OnePlus(5), 0),
    "parametrised weight": (lambda: weight_norm(nn.BatchNorm2d(5), dim=0), 0),
    "another eps": (lambda: OtherEps(5), 0),
    "statistics of the batch": (lambda: OfBatch(5), 0),
    "one weight for two": (lambda: twice("weight"), 0),
    "one bias for two": (lambda: twice("bias"), 0),
    "one mean for two": (lambda: twice("running_mean"), 0),
    "one variance for two": (lambda: twice("running_var"), 0),
    **{f"{name} is read": (lambda name=name: Read(5, name), 0) for name in ("weight", "bias", "running_mean")},
}


@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_the_outputs_stay(name: str) -> None:
    torch.manual_seed(0)
    make, count = NORMS[name]
    norm = make()
    for each in norm.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean.normal_()
            each.running_var.uniform_(0.5, 2)
            if each.affine:
                each.weight.uniform_(-1, 1)
                each.bias.normal_()
    body = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), norm, nn.ReLU(), nn.Conv2d(5, 4, 1))
    network = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    assert len(changeable_norms(trace(network, IMAGES))) == count
    selection = Selection(channel_sets(network, IMAGES[:1]))
    pruned = rebuild(network, selection)
    Refit().apply(pruned, network, selection, LOADER)
    torch.testing.assert_close(pruned(IMAGES[:8]), network(IMAGES[:8]), rtol=1e-3, atol=1e-4)
