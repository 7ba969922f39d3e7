"""Chooses the memory format of images for forward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.outputs import all_tensors_of
from cfp_cli.foundation.failures import exhausted

_TOLERANCE = 1e-3


def faster_format(
    model: nn.Module, images: Tensor, forward: Callable[[nn.Module, Tensor], Any] = nn.Module.__call__
) -> torch.memory_format:
    """Return channels-last on CPUs if a network takes such images, because convolutions then run faster.

    Forward passes of torchvision's convolutional networks take 0.52 to 0.85 of the time (two threads with AVX2, 64 and
    224 pixels), those of ConvNeXt and ViT about the same. The weights keep their format. The speed is not measured
    here: a network of instance norms, for example, may take longer.

    A copy of the network runs twice on two images, in eval mode. This finds networks that cannot use the format, such
    as those that flatten with `x.view`, and networks that compute something else, such as those that read the memory of
    a tensor directly.

    Args:
        model: the network; it is not changed.
        images: float32 [n, C, H, W] on the device of the network; the first two are used.
        forward: runs the network on images.
    """
    if images.device.type != "cpu" or images.dim() != 4 or not len(images):
        return torch.contiguous_format
    # A single image would not show that larger batches fail.
    trial = torch.cat([images, images])[:2] if len(images) == 1 else images[:2]
    try:
        network = copy.deepcopy(model)
        with torch.no_grad(), evaluating(network):
            found = all_tensors_of(forward(network, trial.clone(memory_format=torch.channels_last)))
            network = copy.deepcopy(model)
        with torch.no_grad(), evaluating(network):
            expected = all_tensors_of(forward(network, trial.clone(memory_format=torch.contiguous_format)))
        same = len(found) == len(expected) > 0 and all(map(_close, found, expected))
    except Exception as error:
        if exhausted(error):
            raise
        return torch.contiguous_format
    return torch.channels_last if same else torch.contiguous_format


def _close(found: Tensor, expected: Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    if found.shape != expected.shape:
        return False
    scale = float(expected.double().abs().amax()) if expected.numel() else 0.0
    return bool((found.double() - expected.double()).abs().le(_TOLERANCE * scale).all())
