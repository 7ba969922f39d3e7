"""Chooses the memory format of images for forward passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution.differ import differ
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.outputs import all_tensors_of, is_compared
from cfp_cli.foundation.failures import exhausted


def faster_format(
    model: nn.Module, images: Tensor, forward: Callable[[nn.Module, Tensor], Any] = nn.Module.__call__
) -> torch.memory_format:
    """Return channels-last on CPUs if a network takes such images, because convolutions then run faster.

    Forward passes of torchvision's convolutional networks take 0.65 to 0.93 of the time, those of ConvNeXt about the
    same (`benchmarks/channels_last.py`, two threads with AVX2, 64 and 224 pixels). The weights keep their format. The
    speed is not measured here: a network of instance norms, for example, may take longer.

    A copy of the network runs on two images in each format, in eval mode. This finds networks that cannot use the
    format, such as those that flatten with `x.view`, and networks that compute something else, such as those that read
    the memory of a tensor directly.

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
        found = _outputs(model, trial.clone(memory_format=torch.channels_last), forward)
        expected = _outputs(model, trial.clone(memory_format=torch.contiguous_format), forward)
        same = len(found) == len(expected) > 0 and all(map(_same, expected, found))
    except Exception as error:
        if exhausted(error):
            raise
        return torch.contiguous_format
    return torch.channels_last if same else torch.contiguous_format


def _outputs(model: nn.Module, images: Tensor, forward: Callable[[nn.Module, Tensor], Any]) -> list[Tensor]:
    """The outputs of a copy of a network, whose state a run may change."""
    network = copy.deepcopy(model)
    with torch.no_grad(), evaluating(network):
        return all_tensors_of(forward(network, images))


def _same(expected: Tensor, found: Tensor) -> bool:
    """Whether two outputs are equal up to rounding; integers must be equal."""
    return not differ(expected, found) if is_compared(expected) else torch.equal(expected, found)
