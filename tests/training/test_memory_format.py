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
trainer = Trainer(model, TrainOptions.preset("paper"), torch.device("cpu"), Workers())
images = torch.rand(15, 3, 16, 16)
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
    assert memory_format(nn.Sequential(layer), torch.device(device)) == expected
