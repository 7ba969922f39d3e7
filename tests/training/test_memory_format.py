from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from cfp_cli.training.memory_format import memory_format

TRAIN = """
import torch
from torch import nn
from cfp_cli.execution.distributed import Workers
from cfp_cli.training.trainer import Trainer
from cfp_cli.training.options import TrainOptions

torch.set_num_threads(2)
model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
images = torch.rand(15, 3, 16, 16)
trainer = Trainer(model, TrainOptions.preset("paper"), torch.device("cpu"), Workers(), images)
for _ in range(60):
    logits = trainer._forward(images.to(memory_format=trainer._memory_format))
    logits.square().mean().backward()
"""


def test_a_narrow_strided_shortcut_trains_on_two_threads_without_corrupting_memory() -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("layer", "device", "expected"),
    [
        (nn.Conv2d(8, 8, 1, stride=2), "cpu", torch.contiguous_format),
        (nn.Conv2d(8, 8, 1, stride=2), "cuda", torch.channels_last),
        (nn.Conv2d(8, 8, 1), "cpu", torch.channels_last),
        (nn.Conv2d(8, 8, 3, stride=2), "cpu", torch.channels_last),
    ],
)
def test_channels_last_where_it_is_safe(layer: nn.Module, device: str, expected: torch.memory_format) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert memory_format(nn.Sequential(layer), torch.device(device), torch.rand(2, 8, 8, 8)) == expected


class Viewed(nn.Module):
    """Flattens with `view`, which channels-last maps do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8 * 64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.conv(x)).relu()
        return self.head(x.view(x.size(0), -1))


def test_a_network_that_cannot_run_in_channels_last_uses_the_default_and_is_not_changed() -> None:
    model = Viewed().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert memory_format(model, torch.device("cpu"), torch.rand(2, 3, 8, 8)) == torch.contiguous_format
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
