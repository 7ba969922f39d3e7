"""Fit the weights of one layer to its outputs in the original.

The weights are the solution of a ridge regression. If an activation such as ReLU reads the outputs, only what passes it
has to be right: where the original is below zero, any output below zero is as good. A few steps of a convex problem, of
which the regression is the first, therefore follow.

Source: Zhang et al., Accelerating very deep convolutional networks, TPAMI 2016, section 3.2 (outputs behind the
activation); Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, SIAM J. Imaging Sciences 2009
(the acceleration).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

# Steps after the regression.
STEPS = 6
TINY = torch.finfo(torch.float32).tiny
Layer = nn.Conv2d | nn.Linear


@dataclass(frozen=True)
class Activation:
    """What reads the outputs of a layer, behind its batch norm, and changes nothing between two bounds.

    Attributes:
        low, high: smallest and largest value that it returns.
    """

    low: float
    high: float


@dataclass(frozen=True)
class _Passed:
    """What passes the activation of a layer.

    Attributes:
        scale, shift: float32 [outputs]; the input of the activation is `scale` · output + `shift`.
        activation: the activation.
    """

    scale: Tensor
    shift: Tensor
    activation: Activation

    @classmethod
    def of(cls, norm: _BatchNorm | None, activation: Activation, wanted: Tensor) -> _Passed:
        width = wanted.shape[0] * wanted.shape[-1]
        scale, shift = wanted.new_ones(width), wanted.new_zeros(width)
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = scale / (norm.running_var + norm.eps).sqrt()
            scale = scale if norm.weight is None else scale * norm.weight
            shift = -norm.running_mean * scale
            shift = shift if norm.bias is None else shift + norm.bias
        # [groups, 1, outputs of a group], beside values [groups, samples, outputs of a group].
        return cls(scale.reshape(len(wanted), 1, -1), shift.reshape(len(wanted), 1, -1), activation)

    def difference(self, wanted: Tensor, found: Tensor) -> Tensor:
        """What to add to the outputs of the original, so that outputs with the same activation are right."""
        low, high = self.activation.low, self.activation.high
        target, value = (self.scale * each + self.shift for each in (wanted, found))
        right = torch.where(target <= low, value.clamp(max=low), target)
        right = torch.where(target >= high, value.clamp(min=high), right)
        # A channel that batch norm multiplies by zero has no outputs to be right.
        return torch.where(self.scale == 0, 0.0, (right - target) / self.scale)


def fit_layer(
    module: Layer,
    samples: Iterable[tuple[Tensor, Tensor]],
    ridge: float,
    norm: _BatchNorm | None = None,
    activation: Activation | None = None,
) -> None:
    """Fit a layer in place.

    Args:
        module: the layer; its present weights are W₀.
        samples: inputs float32 [groups, samples, inputs of a group] and outputs of the original float32 [samples,
            outputs], in batches; they are read again in each step.
        ridge: weight of the distance from W₀, times the mean square of an input summed over the samples.
        norm: the only reader of the outputs, if that is a batch norm, whose mean then absorbs an offset.
        activation: the only reader of the outputs, behind the norm if there is one; None fits all outputs alike.
    """
    groups = module.groups if isinstance(module, nn.Conv2d) else 1
    offset = module.bias is not None or norm is not None

    def pairs() -> Iterable[tuple[Tensor, Tensor]]:
        for given, wanted in samples:
            ones = [given.new_ones(*given.shape[:2], 1)] if offset else []
            yield torch.cat([given, *ones], 2), wanted.reshape(len(wanted), groups, -1).transpose(0, 1)

    gram = cross = torch.zeros(())
    passed: _Passed | None = None
    for given, wanted in pairs():
        gram = gram + (given.transpose(1, 2) @ given).double()
        cross = cross + (given.transpose(1, 2) @ wanted).double()
        if activation is not None and passed is None:
            passed = _Passed.of(norm, activation, wanted)
    first = _stacked(module, groups, offset)
    squares = gram.diagonal(dim1=1, dim2=2)
    held = ridge * squares.mean(1, keepdim=True).expand_as(squares)
    # If all inputs are zero, this keeps the system solvable and the weights unchanged.
    system = torch.linalg.lu_factor(gram + torch.diag_embed(held.clamp_min(TINY)))
    rest = cross - gram @ first
    weight = first + torch.linalg.lu_solve(*system, rest)
    if passed is not None:
        momentum, moved = 1.0, weight
        for _ in range(STEPS):
            change = torch.zeros_like(cross)
            for given, wanted in pairs():
                difference = passed.difference(wanted, given @ moved.float())
                change = change + (given.transpose(1, 2) @ difference).double()
            following = first + torch.linalg.lu_solve(*system, rest + change)
            faster = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
            moved = following + (momentum - 1) / faster * (following - weight)
            weight, momentum = following, faster
    _store(module, weight, offset, norm)


def _stacked(module: Layer, groups: int, offset: bool) -> Tensor:
    """The weights, float64 [groups, inputs of a group, outputs of a group], with the offset as the last input."""
    weight = module.weight.reshape(groups, len(module.weight) // groups, -1).transpose(1, 2).double()
    if not offset:
        return weight
    bias = module.bias if module.bias is not None else torch.zeros(len(module.weight), device=weight.device)
    return torch.cat([weight, bias.double().reshape(groups, 1, -1)], 1)


def _store(module: Layer, weight: Tensor, offset: bool, norm: _BatchNorm | None) -> None:
    if offset:
        found = weight[:, -1].reshape(-1)
        weight = weight[:, :-1]
        if module.bias is not None:
            module.bias.copy_(found)
        else:
            assert norm is not None
            assert norm.running_mean is not None
            norm.running_mean.sub_(found)
    module.weight.copy_(weight.transpose(1, 2).reshape(module.weight.shape))


def patches(module: Layer, given: Tensor, positions: Tensor) -> Tensor:
    """The inputs of each sampled output, float32 [groups, N · P, inputs of a group].

    Args:
        module: the layer.
        given: its input: maps [N, C, H, W] of a convolution, or [N, ..., C] of a linear layer.
        positions: indices of the output positions, int64 [P].
    """
    if isinstance(module, nn.Linear):
        return given.reshape(len(given), -1, given.shape[-1])[:, positions].flatten(0, 1)[None]
    # The operator itself pads with zeros only; another operator before it pads in the other modes.
    zeros = module.padding_mode == "zeros"
    padded = functional.pad(given, module._reversed_padding_repeated_twice) if zeros else given
    reach = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    width = (padded.shape[3] - reach[1]) // module.stride[1] + 1
    corners = (positions // width * module.stride[0], positions % width * module.stride[1])
    steps = [
        torch.arange(k, device=positions.device) * d for k, d in zip(module.kernel_size, module.dilation, strict=True)
    ]
    rows = corners[0][:, None, None] + steps[0][:, None]
    columns = corners[1][:, None, None] + steps[1][None, :]
    # [N, C, P, kh, kw] -> [groups, N · P, C / groups · kh · kw], the order of the weights.
    found = padded[:, :, rows, columns]
    found = found.reshape(len(found), module.groups, -1, *found.shape[2:]).permute(1, 0, 3, 2, 4, 5)
    return found.flatten(3).flatten(1, 2)
