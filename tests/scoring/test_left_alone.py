from __future__ import annotations

import pytest
import torch
from lines import Lines
from torch import Tensor, nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph import channel_sets
from cfp_cli.scoring.score import score


class Sums(nn.Module):
    """An operator without a rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cummax(2)[0]


def network(*between: nn.Module) -> nn.Module:
    first, second = between
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 6), (6, 5), (5, 4))]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    return nn.Sequential(convolutions[0], first, convolutions[1], second, convolutions[2], *head).eval()


def test_scoring_reports_once_what_is_not_pruned_and_why() -> None:
    images = [(torch.rand(2, 3, 16, 16), torch.zeros(2))] * 2
    recorder = Lines()
    score(network(Sums(), Sums()), images, progress=recorder)
    assert recorder.lines == ["not pruned: 1 and 1 more: cummax: cfp has no entry for this operator"]
    one = channel_sets(network(nn.ReLU(), Sums()), images[0][0][:1])
    assert one.left_alone == ("not pruned: 3: cummax: cfp has no entry for this operator",)
    recorder = Lines()
    score(network(nn.ReLU(), nn.ReLU()), images, progress=recorder)
    assert not recorder.lines


def test_a_network_without_prunable_channels_is_refused() -> None:
    images = [(torch.rand(2, 3, 16, 16), torch.zeros(2))]
    recorder = Lines()
    with pytest.raises(GraphError, match="no channel of the network can be pruned"):
        score(
            nn.Sequential(nn.Conv2d(3, 4, 3), Sums(), nn.Flatten(), nn.Linear(4 * 14 * 14, 2)),
            images,
            progress=recorder,
        )
    assert recorder.lines == ["not pruned: 1: cummax: cfp has no entry for this operator"]
