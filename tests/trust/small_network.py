"""Small networks, so that a command of a test takes a fraction of a second, as built-in architectures.

Code that a checkpoint names runs only with `--arch`; checkpoints of built-in architectures need no such option.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from cfp_cli.models import registry
from cfp_cli.models.repvgg import FusedBlock, RepVGGBlock

ARCH = "small"
# A network that `cfp fuse` takes.
FUSIBLE = "small_repvgg"


class Small(nn.Module):
    """Two convolutions and a residual block: float32 [N, 3, H, W] to logits [N, classes].

    It has enough channels for every ratio, each of which must be met within 0.5 %.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = self._layer(3, 40)
        self.block = self._layer(40, 40)
        self.last = self._layer(40, 64, 2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(64, classes)

    @staticmethod
    def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.last(x + self.block(x))
        return self.head(torch.flatten(self.pool(x), 1))


class SmallRepVGG(nn.Module):
    """Two RepVGG blocks: float32 [N, 3, H, W] to logits [N, classes]."""

    def __init__(self, classes: int, *, fused: bool = False) -> None:
        super().__init__()
        block = FusedBlock if fused else RepVGGBlock
        self.stages = nn.Sequential(block(3, 8, 2), block(8, 8, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x))


@contextmanager
def small_architectures() -> Iterator[None]:
    """Make the networks built-in architectures of this process and of its children."""
    original = registry._built_in
    registry._built_in = lambda: original() | {ARCH: Small, FUSIBLE: SmallRepVGG}
    try:
        yield
    finally:
        registry._built_in = original
