"""A running mean of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Ema:
    """Exponential moving average of parameters and floating-point buffers, in a network of its own.

    The decay of update t (from 0) is min(decay, (1 + t) / (10 + t)): the first, poor weights are soon forgotten.

    Args:
        model: whose weights are averaged.
        decay: share of the old mean that an update keeps, 0 to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after optimiser step `step`, counted from 0 over all epochs."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        means, values = (each.state_dict(keep_vars=True).values() for each in (self.model, model))
        seen: set[int] = set()
        for mean, value in zip(means, values, strict=True):
            # A weight that several modules hold is one weight.
            if id(mean) in seen:
                continue
            seen.add(id(mean))
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)
