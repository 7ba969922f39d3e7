"""A network that is random in eval mode is refused with the cause, and not as one whose sizes are hard-coded."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import GraphError
from cfp_cli.graph import channel_sets


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).relu()
        if self.kind == "noise":
            x = x + torch.randn_like(x)
        x = x.mean((2, 3))
        if self.kind == "dropout":
            x = nn.functional.dropout(x)
        if self.kind == "right":
            x = nn.functional.dropout(x, training=self.training)
        return self.head(x)


@pytest.mark.parametrize("kind", ["noise", "dropout"])
def test_the_message_names_the_cause(kind: str) -> None:
    network = Net(kind).eval()
    with pytest.raises(GraphError, match=r"random in eval mode.*training=self\.training to F\.dropout"):
        channel_sets(network, torch.zeros(1, 3, 12, 12))


def test_dropout_of_training_alone_is_no_problem() -> None:
    assert channel_sets(Net("right").eval(), torch.zeros(1, 3, 12, 12)).prunable
