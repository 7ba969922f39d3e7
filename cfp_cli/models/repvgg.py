"""RepVGG-A0: parallel branches in training, single convolutions at inference.

Source: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again" (arXiv 2101.03697), variant A0: stages of 1,
2, 4, 14 and 1 blocks, widths 48, 48, 96, 192 and 1280, the first block of each stage with stride 2.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

BLOCKS = (1, 2, 4, 14, 1)
WIDTHS = (48, 48, 96, 192, 1280)


class RepVGGBlock(nn.Module):
    """Sum of a 3x3 convolution, a 1x1 convolution and, where the shape allows it, the identity, each with batch norm.

    Input float32 [N, channels_in, H, W]; output [N, channels_out, H / stride, W / stride], after ReLU.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        stride: stride of both convolutions. Stride 1 and equal channel counts add an identity branch.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv3 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 1, stride, 0, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.identity = nn.BatchNorm2d(channels_in) if channels_in == channels_out and stride == 1 else None
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the branches after ReLU."""
        out = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        if self.identity is not None:
            out = out + self.identity(x)
        activated: Tensor = self.relu(out)
        return activated


class FusedBlock(nn.Module):
    """The inference form of a `RepVGGBlock`: one 3x3 convolution with bias, then ReLU.

    Args:
        channels_in: input channels.
        channels_out: output channels.
        stride: stride of the convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution after ReLU."""
        activated: Tensor = self.relu(self.conv(x))
        return activated


class RepVGG(nn.Module):
    """RepVGG-A0: 7,835,654 parameters at 6 classes in training form, 7,036,070 fused.

    Input float32 [N, 3, H, W]; output logits float32 [N, classes].

    Args:
        classes: number of classes.
        fused: build single convolutions instead of training blocks.
    """

    def __init__(self, classes: int, *, fused: bool = False) -> None:
        super().__init__()
        block = FusedBlock if fused else RepVGGBlock
        widths = (3, *WIDTHS)
        self.stages = nn.Sequential(
            *(
                nn.Sequential(
                    *(block(before if index == 0 else width, width, 2 if index == 0 else 1) for index in range(count))
                )
                for count, (before, width) in zip(BLOCKS, pairwise(widths), strict=True)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [N, classes] of images [N, 3, H, W]."""
        logits: Tensor = self.head(self.pool(self.stages(x)).flatten(1))
        return logits


def repvgg_a0(classes: int, *, fused: bool = False) -> nn.Module:
    """Build RepVGG-A0 for `classes` classes, in training form or fused."""
    return RepVGG(classes, fused=fused)
