"""The first layers stay in float32 in an int8 file: as many as cost little, and really in float32."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, relu

pytest.importorskip("onnxruntime")

from cfp_cli.exporting import onnx_file
from cfp_cli.exporting.float_part import prepare
from cfp_cli.exporting.quantise import quantise

SIZE = (16, 16)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Network(nn.Module):
    """A network of layers with a function as its forward pass; it ends in the mean of its maps."""

    def __init__(self, forward: Callable[[nn.ModuleList, Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.layers, self.compute = nn.ModuleList(layers), forward

    def forward(self, x: Tensor) -> Tensor:
        """Class scores."""
        return self.compute(self.layers, x).flatten(2).mean(2)


def conv(inputs: int, outputs: int, size: int = 1) -> nn.Module:
    """A convolution that keeps the size of the maps."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def residual(layers: nn.ModuleList, x: Tensor) -> Tensor:
    first, second, third, last = layers
    y = relu(first(x))
    return last(relu(third(relu(second(y))) + y))


def two_scales(layers: nn.ModuleList, x: Tensor) -> Tensor:
    first, last = layers
    return last(first(avg_pool2d(x, 4))).mean((2, 3))[:, :, None] + last(relu(first(x))).flatten(2)


def tokens(layers: nn.ModuleList, x: Tensor) -> Tensor:
    """Layers that read the positions of all images as one batch."""
    *linear, last = layers
    y = x.permute(0, 2, 3, 1).reshape(-1, 3)
    for layer in linear:
        y = relu(layer(y))
    return last(y.reshape(x.shape[0], *SIZE, -1).permute(0, 3, 1, 2))


NETWORKS: dict[str, tuple[nn.Module, int]] = {
    "chain": (Network(lambda m, x: m[2](relu(m[1](relu(m[0](x))))), conv(3, 4), conv(4, 4), conv(4, 64, 3)), 2),
    # The sum reads what the second layer reads, so only the whole block may stay in float32.
    "residual": (Network(residual, conv(3, 4), conv(4, 4), conv(4, 4, 3), conv(4, 8, 3)), 1),
    "a whole residual block": (Network(residual, conv(3, 4), conv(4, 4), conv(4, 4, 3), conv(4, 64, 3)), 3),
    "two branches": (
        Network(lambda m, x: m[2](torch.cat([relu(m[0](x)), relu(m[1](x))], 1)), conv(3, 2), conv(3, 4), conv(6, 99)),
        2,
    ),
    "a wide branch": (
        Network(lambda m, x: m[2](torch.cat([relu(m[0](x)), relu(m[1](x))], 1)), conv(3, 2), conv(3, 32), conv(34, 9)),
        0,
    ),
    "the image again": (Network(lambda m, x: m[1](torch.cat([relu(m[0](x)), x], 1)), conv(3, 2), conv(5, 32)), 1),
    "the image at the end": (Network(lambda m, x: torch.cat([m[1](relu(m[0](x))), x], 1), conv(3, 2), conv(2, 32)), 0),
    "normalisation": (Network(lambda m, x: m[1](relu(m[0]((x - 0.5) * 2))), conv(3, 2), conv(2, 10, 3)), 1),
    "a layer used twice": (Network(lambda m, x: m[1](relu(m[0](relu(m[0](x))))), conv(3, 3, 3), conv(3, 20, 3)), 0),
    "two scales": (Network(two_scales, conv(3, 4), conv(4, 64, 3)), 0),
    "transposed": (
        Network(lambda m, x: m[1](relu(m[0](x))), nn.ConvTranspose2d(3, 4, 2, 2), conv(4, 64, 3)),
        1,
    ),
    "tokens": (Network(tokens, nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 16), conv(16, 16, 3)), 2),
    "no layers": (Network(lambda _, x: x), 0),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_that_are_said_to_be_in_float32_are(name: str) -> None:
    torch.manual_seed(0)
    network, first = NETWORKS[name]
    network = network.eval()
    images = torch.rand(16, 3, *SIZE)
    made = quantise(network, onnx_file.to_bytes(network, images[:2], {}), images, {})
    assert made.float32_layers == first
    import onnx

    graph = onnx.load_from_string(made.content).graph
    makers = {output: node.op_type for node in graph.node for output in node.output}
    layers = [[makers.get(each) for each in node.input[:2]] for node in graph.node if node.op_type in LAYERS]
    assert len(layers) == made.layers
    assert sum("DequantizeLinear" not in each for each in layers) == first
    run = onnx_file.runner(made.content)
    for count in (1, 5):
        with torch.no_grad():
            expected = network(images[:count])
        assert (run(images[:count]) - expected).norm() < 0.05 * expected.norm() + 1e-6


@pytest.mark.parametrize(
    ("widths", "first"),
    [
        # Multiply-adds of one position of the layers in turn: the products of neighbouring widths.
        ((3, 4), 0),
        ((3, 4, 2), 0),
        ((3, 4, 3), 1),
        ((3, 4, 4, 4, 8), 1),
        ((3, 4, 4, 16, 16), 2),
        ((3, 2, 2, 2, 16, 32), 4),
    ],
)
@pytest.mark.parametrize("kind", ["convolutions", "linear layers", "linear layers at positions"])
def test_the_first_layers_stay_in_float32_while_they_cost_little(
    widths: tuple[int, ...], first: int, kind: str
) -> None:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 1) if kind == "convolutions" else nn.Linear(inputs, outputs), nn.ReLU()]
    body = nn.Sequential(*layers).eval()
    networks: dict[str, nn.Module] = {
        "convolutions": body,
        "linear layers": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), body),
        "linear layers at positions": Network(lambda m, x: m[0](x.permute(0, 2, 3, 1)).transpose(1, 3), body),
    }
    prepared = prepare(onnx_file.to_bytes(networks[kind].eval(), torch.rand(2, 3, *SIZE), {}))
    assert (prepared.float32_layers, prepared.layers) == (first, len(widths) - 1)
