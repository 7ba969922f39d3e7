from __future__ import annotations

import torch
from small_nets import CLASSES, conv, randomised
from torch import Tensor, nn

from cfp_cli.graph import Selection, channel_sets

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))


class Auxiliary(nn.Module):
    """A network with a head that only training uses, one whose result is dropped, and a weight without any use."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.auxiliary, self.dropped = conv(3, 8), conv(8, 6), conv(8, 4), conv(8, 5)
        self.extra, self.row = nn.Parameter(torch.rand(7)), nn.Parameter(torch.rand(1, 1, 16))
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = self.a(x).relu()
        self.dropped(y)
        z = self.b(y)
        # Written through a view, and read as `z`.
        z[:, :, 3].add_(self.row[0, 0])
        logits = self.head(z.mean((2, 3)))
        return (logits, self.auxiliary(y)) if self.training else logits


def test_parameters_that_no_output_needs_are_reported_and_not_counted() -> None:
    model = randomised(Auxiliary())
    graph = channel_sets(model, IMAGES[:1])
    assert {name.partition(".")[0] for name in graph.unneeded} == {"auxiliary", "dropped", "extra"}
    counted = sum(each.numel() for name, each in model.named_parameters() if name not in graph.unneeded)
    assert Selection(graph).parameters == counted
    assert Selection(graph).macs == 256 * 9 * (3 * 8 + 8 * 6) + 6 * CLASSES
    total = sum(graph.unneeded.values())
    assert graph.left_alone[-1].endswith(f"no output needs these {total} parameters")


def test_every_parameter_of_a_plain_network_is_needed() -> None:
    model = randomised(
        nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    )
    graph = channel_sets(model, IMAGES[:1])
    assert graph.unneeded == {}
    assert not any("not counted" in line for line in graph.left_alone)
