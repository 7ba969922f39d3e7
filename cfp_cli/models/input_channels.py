"""The number of channels of the images that a network takes, and how to change it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.failures import exhausted
from cfp_cli.models.forward_pass import run_network

COLOURS = 3


def input_channels(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Return the number of channels of the images of a network.

    It is that of the first convolution. If that is not 3, but the network runs on images of 3 channels, it is 3: such a
    network converts colours itself. It is 3 for a network without convolutions.

    Args:
        model: the network; it is not changed.
        input_size: height and width of its images in pixels.
    """
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    if first is None or first.in_channels == COLOURS or _runs(model, COLOURS, input_size):
        return COLOURS
    return first.in_channels


def set_input_channels(model: nn.Module, channels: int, input_size: tuple[int, int]) -> None:
    """Give the convolutions that read the images fresh weights for another number of channels, where needed.

    Args:
        model: a freshly built network; changed in place.
        channels: number of channels of its images.
        input_size: height and width of its images in pixels.

    Raises:
        UsageError: the convolution that reads the images cannot be found or is grouped.
    """
    first = next((module for module in model.modules() if isinstance(module, _ConvNd)), None)
    if first is None or first.in_channels == channels or _runs(model, channels, input_size):
        return
    for convolution in _readers(model, first.in_channels, input_size):
        if convolution.groups != 1:
            raise UsageError(
                f"the first convolution has {convolution.groups} groups, so it cannot take {channels}; "
                "pass an --arch file.py:factory whose network takes them"
            )
        _set_channels(convolution, channels)


def take_input_channels(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the convolutions that read colours as many channels as their weights have in a file.

    Other tools change them so for grey images: `model.conv1 = nn.Conv2d(1, 64, ...)`, or `in_chans=1` of timm.

    Args:
        model: a freshly built network for images of 3 channels; changed in place.
        shapes: shapes of the file's tensors by name.
    """
    for name, module in model.named_modules():
        if not isinstance(module, _ConvNd) or isinstance(module, _ConvTransposeNd):
            continue
        if module.in_channels != COLOURS or module.groups != 1:
            continue
        own = tuple(module.weight.shape)
        given = tuple(shapes.get(f"{name}.weight" if name else "weight", own))
        # Only the second dimension counts channels of the input.
        if len(given) == len(own) and given[1] != own[1] and (given[0], *given[2:]) == (own[0], *own[2:]):
            _set_channels(module, given[1])


def _set_channels(convolution: _ConvNd, channels: int) -> None:
    weight = convolution.weight
    shape = (len(weight), channels, *weight.shape[2:])
    convolution.in_channels = channels
    convolution.weight = nn.Parameter(weight.new_empty(shape), requires_grad=weight.requires_grad)
    convolution.reset_parameters()


def _readers(model: nn.Module, channels: int, input_size: tuple[int, int]) -> list[_ConvNd]:
    """Return the convolutions whose input is the image itself; where there is none, the first one that runs."""
    images = torch.zeros(1, channels, *input_size)
    order: list[_ConvNd] = []
    readers: list[_ConvNd] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, _ConvNd)
        order.append(module)
        if inputs and inputs[0] is images:
            readers.append(module)

    handles = [each.register_forward_pre_hook(note) for each in model.modules() if isinstance(each, _ConvNd)]
    try:
        with evaluating(model), torch.inference_mode():
            run_network(model, images)
    except Exception as error:
        # The network is code of the user and can raise anything.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(
            f"the network fails on images of {channels} x {input_size[0]} x {input_size[1]} ({reason}); pass another "
            "--input-size"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return readers or order[:1]


def _runs(model: nn.Module, channels: int, input_size: tuple[int, int]) -> bool:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    images: Tensor = torch.zeros(1, channels, *input_size, device=device)
    try:
        with evaluating(model), torch.inference_mode():
            run_network(model, images)
    except Exception as error:
        # The network is code of the user and can raise anything.
        if exhausted(error):
            raise
        return False
    return True
