"""The shapes of the layers of a pruned network, against those of the network that is built."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cfp_cli.graph import Selection, channel_sets
from cfp_cli.graph.layer_shapes import LayerShape, layer_shapes
from cfp_cli.pruning.rebuild import rebuild


class Mixed(nn.Module):
    """Plain, strided, dilated, depthwise and grouped convolutions, a linear layer of many positions, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depth = nn.Conv2d(8, 8, (3, 5), 1, (1, 2), groups=8)
        self.point = nn.Conv2d(8, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=4)
        self.tokens = nn.Linear(16, 20)
        self.fixed = nn.ConvTranspose2d(20, 20, 2, 2)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.grouped(self.point(self.depth(self.norm(self.stem(x)).relu())).relu())
        x = self.tokens(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], 20, 6, 5)
        return self.head(self.fixed(x).mean((2, 3)))


def built(network: nn.Module, image: Tensor) -> list[LayerShape]:
    """The shapes of convolutions and linear layers as a forward pass has them."""
    found: list[LayerShape] = []

    def hook(module: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        size = tuple(inputs[0].shape)
        if isinstance(module, nn.Linear):
            positions = int(np.prod(size[1:-1]))
            found.append(LayerShape("linear", module.in_features, module.out_features, 1, (positions, 1)))
        elif isinstance(module, nn.Conv2d):
            sizes = (module.kernel_size, module.stride, module.padding, module.dilation)
            found.append(LayerShape("conv2d", module.in_channels, module.out_channels, module.groups, size[2:], *sizes))

    for module in network.modules():
        module.register_forward_hook(hook)
    network(image)
    return found


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.25])
def test_the_shapes_are_those_of_the_rebuilt_network(keep: float) -> None:
    torch.manual_seed(0)
    network, image = Mixed().eval(), torch.rand(1, 3, 12, 10)
    graph = channel_sets(network, image)
    # Every group of the grouped convolution keeps equally many.
    kept = {each.name: np.arange(0, each.size, round(1 / keep)) for each in graph.prunable}
    selection = Selection(graph, kept)
    pruned = rebuild(network, selection).eval()
    assert layer_shapes(selection) == built(pruned, image)
    for name, tensor in network.named_parameters():
        assert selection.elements(name, tensor.shape) == pruned.get_parameter(name).numel(), name
