"""An exponential moving average of the weights of a network."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Exponential moving average of parameters and floating-point buffers, stored in a copy of the network.

    The decay of update t (from 0) is min(decay, (1 + t) / (10 + t)), so that the average soon drops the first weights.

    Args:
        model: the network whose weights are averaged.
        decay: weight of the old average in an update, 0 to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add the weights after optimiser step `step`, counted from 0 over all epochs, to the average."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        averages, values = (network.state_dict(keep_vars=True).values() for network in (self.model, model))
        seen: set[int] = set()
        for average, value in zip(averages, values, strict=True):
            # The state dict lists a weight once for each module that shares it; update it once.
            if id(average) in seen:
                continue
            seen.add(id(average))
            if average.is_floating_point():
                average.lerp_(value, weight)
            else:
                average.copy_(value)
