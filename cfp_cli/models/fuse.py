"""Fuse RepVGG training blocks into single convolutions."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import CheckpointError
from cfp_cli.models.repvgg import FusedBlock, RepVGGBlock


def fuse(model: nn.Module) -> nn.Module:
    """Copy a network and replace every RepVGG training block of the copy by one convolution with the same output.

    Pruned networks are fused in the same way. The original network is not changed.

    Raises:
        CheckpointError: the network has no such block.
    """
    fused = copy.deepcopy(model)
    blocks = [name for name, module in fused.named_modules() if isinstance(module, RepVGGBlock)]
    if not blocks:
        raise CheckpointError("the network has no RepVGG training block to fuse; it may be fused already")
    for name in blocks:
        parent, _, child = name.rpartition(".")
        block = fused.get_submodule(name)
        assert isinstance(block, RepVGGBlock)
        setattr(fused.get_submodule(parent), child, _fuse_block(block))
    return fused


def _fuse_block(block: RepVGGBlock) -> FusedBlock:
    """Build the convolution with the output of a training block in evaluation mode.

    A branch with kernel W and norm (gamma, beta, mean, variance, eps) is the kernel W * s with bias beta - mean * s,
    where s = gamma / sqrt(variance + eps). The 1x1 kernel is padded to 3x3. The identity is a 3x3 kernel with one 1
    for each channel.
    """
    convolution = block.conv3
    fused = FusedBlock(convolution.in_channels, convolution.out_channels, int(convolution.stride[0]))
    fused = fused.to(convolution.weight.device, convolution.weight.dtype)
    branches = [(convolution.weight, block.bn3), (nn.functional.pad(block.conv1.weight, (1, 1, 1, 1)), block.bn1)]
    if block.identity is not None:
        identity = torch.zeros_like(convolution.weight)
        nn.init.dirac_(identity)
        branches.append((identity, block.identity))
    # Sum in float64, so that fusing rounds only once.
    kernels, biases = zip(*(_fold_norm(kernel, norm) for kernel, norm in branches), strict=True)
    with torch.no_grad():
        fused.conv.weight.copy_(torch.stack(kernels).sum(0))
        assert fused.conv.bias is not None
        fused.conv.bias.copy_(torch.stack(biases).sum(0))
    return fused.train(block.training)


def _fold_norm(kernel: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return kernel and bias of the convolution that replaces a convolution without bias and its batch norm."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight.detach().double() / torch.sqrt(norm.running_var.double() + norm.eps)
    folded = kernel.detach().double() * scale[:, None, None, None]
    return folded, norm.bias.detach().double() - norm.running_mean.double() * scale
