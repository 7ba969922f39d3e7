"""The tensors that a network returns, whatever it packs them in."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def tensors_of(output: Any) -> list[Tensor]:
    """All floating-point tensors of a network's output, in order.

    Args:
        output: a tensor, or tuples, lists, mappings and dataclasses of outputs, nested in any way. None, numbers and
            text are skipped.
    """
    if isinstance(output, Tensor):
        return [output] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        output = list(output.values())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        output = [getattr(output, each.name) for each in dataclasses.fields(output)]
    if isinstance(output, list | tuple):
        return [tensor for each in output for tensor in tensors_of(each)]
    return []


class Flattened(nn.Module):
    """A network that returns the tensors of another network's output as a tuple.

    Args:
        network: the other network.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The tensors of the network's output for images float32 [N, C, H, W]."""
        return tuple(tensors_of(self.network(x)))
