"""RepVGG-A0: plain convolutions at inference, with parallel branches while it is trained.

Source: Ding et al. 2021, "RepVGG: Making VGG-style ConvNets Great Again" (arXiv 2101.03697), variant A0: stages of 1,
2, 4, 14 and 1 blocks, widths 48, 48, 96, 192 and 1280, every stage beginning with stride 2.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

BLOCKS = (1, 2, 4, 14, 1)
WIDTHS = (48, 48, 96, 192, 1280)


class RepVGGBlock(nn.Module):
    """Sum of a 3x3 convolution, a 1x1 convolution and, where the shape allows it, the identity, each with batch norm.

    Takes float32 [N, channels_in, H, W], gives [N, channels_out, H / stride, W / stride] after ReLU.

    Args:
        channels_in: channels read.
        channels_out: channels made.
        stride: stride of both convolutions; the identity branch exists only for stride 1 and equal channels.
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
        """Sum of the branches, then ReLU."""
        out = self.bn3(self.conv3(x)) + self.bn1(self.conv1(x))
        if self.identity is not None:
            out = out + self.identity(x)
        activated: Tensor = self.relu(out)
        return activated


class FusedBlock(nn.Module):
    """What a `RepVGGBlock` computes, as one 3x3 convolution with bias and ReLU.

    Args:
        channels_in: channels read.
        channels_out: channels made.
        stride: stride of the convolution.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Convolution, then ReLU."""
        activated: Tensor = self.relu(self.conv(x))
        return activated


class RepVGG(nn.Module):
    """RepVGG-A0: 7,835,654 parameters at 6 classes in training form, 7,036,070 fused.

    Takes float32 [N, 3, H, W], gives logits float32 [N, classes].

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
                    *(block(before if place == 0 else width, width, 2 if place == 0 else 1) for place in range(count))
                )
                for count, (before, width) in zip(BLOCKS, pairwise(widths), strict=True)
            )
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(WIDTHS[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, 3, H, W]."""
        logits: Tensor = self.head(self.pool(self.stages(x)).flatten(1))
        return logits


def repvgg_a0(classes: int, *, fused: bool = False) -> nn.Module:
    """RepVGG-A0 for `classes` classes, in training form or fused."""
    return RepVGG(classes, fused=fused)


def fused_block(block: RepVGGBlock) -> FusedBlock:
    """The single convolution that computes what a training block computes in evaluation mode.

    A branch with kernel W and norm (gamma, beta, mean, variance, eps) is the kernel W * s with bias beta - mean * s,
    where s = gamma / sqrt(variance + eps); the 1x1 kernel is padded to 3x3, the identity is a 3x3 kernel with one 1 a
    channel.
    """
    convolution = block.conv3
    made = FusedBlock(convolution.in_channels, convolution.out_channels, int(convolution.stride[0]))
    made = made.to(convolution.weight.device, convolution.weight.dtype)
    branches = [(convolution.weight, block.bn3), (nn.functional.pad(block.conv1.weight, (1, 1, 1, 1)), block.bn1)]
    if block.identity is not None:
        identity = torch.zeros_like(convolution.weight)
        nn.init.dirac_(identity)
        branches.append((identity, block.identity))
    # Sums in float64, so that fusing costs no more than one rounding.
    kernels, biases = zip(*(_folded(kernel, norm) for kernel, norm in branches), strict=True)
    with torch.no_grad():
        made.conv.weight.copy_(torch.stack(kernels).sum(0))
        assert made.conv.bias is not None
        made.conv.bias.copy_(torch.stack(biases).sum(0))
    return made.train(block.training)


def _folded(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias that do the work of a convolution without bias and the batch norm behind it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    folded = kernel.detach().double() * scale[:, None, None, None]
    return folded, norm.bias.detach().double() - norm.running_mean.double() * scale
