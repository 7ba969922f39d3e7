"""Fit the weights of one layer to its outputs in the original.

The weights are the solution of a ridge regression, whose ridge is chosen by the error on samples that were not fitted.
If an activation such as ReLU reads the outputs, only what passes it has to be right: where the original is below zero,
any output below zero is as good. A few steps of a convex problem, of which the regression is the first, therefore
follow.

Source: Zhang et al., Accelerating very deep convolutional networks, TPAMI 2016, section 3.2 (outputs behind the
activation); Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm, SIAM J. Imaging Sciences 2009
(the acceleration).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

ROUNDING = 1e-6
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class FitOptions:
    """How a layer is fitted.

    Attributes:
        ridges: weights of the distance from W₀ that are tried, times the mean square of an input summed over the
            samples. The smallest is best where there are many samples; with the largest the weights stay almost as they
            are.
        near: an error on samples that were not fitted is as good as the best one if it is larger by at most this part.
        steps: steps after the regression, if there is an activation.
    """

    ridges: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    near: float = 0.1
    steps: int = 6


BEST_FIT = FitOptions()


@dataclass(frozen=True)
class Layer:
    """A call of the operator `conv2d` or `linear`.

    Attributes:
        weight: float32 [outputs, inputs of a group, kernel height, kernel width], or [outputs, inputs]; it is changed.
        bias: float32 [outputs], or None; it is changed.
        stride, dilation: of the kernel, vertical and horizontal.
        padding: zeros left, right, above and below.
        groups: the groups of the convolution.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    groups: int = 1

    @classmethod
    def of(cls, arguments: Mapping[str, Any], weight: Tensor, bias: Tensor | None) -> Layer:
        """The layer of an operator call.

        Args:
            arguments: arguments of the call by name; those of `linear` have no stride.
            weight: its weight.
            bias: its bias.
        """
        if "stride" not in arguments:
            return cls(weight, bias)
        stride, dilation = (_pair(arguments[name]) for name in ("stride", "dilation"))
        given = arguments["padding"]
        if given == "same":
            reach = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
            (above, left), (below, right) = ([each // 2 for each in reach], [each - each // 2 for each in reach])
        else:
            above, left = below, right = (0, 0) if given == "valid" else _pair(given)
        return cls(weight, bias, stride, dilation, (left, right, above, below), int(arguments["groups"]))


def _pair(given: int | Sequence[int]) -> tuple[int, int]:
    """One number for both dimensions, or one for each."""
    numbers = [given] if isinstance(given, int) else [int(each) for each in given]
    return numbers[0], numbers[-1]


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
            scale = scale / (norm.running_var + norm.eps).sqrt().to(scale)
            scale = scale if norm.weight is None else scale * norm.weight.to(scale)
            shift = -norm.running_mean.to(scale) * scale
            shift = shift if norm.bias is None else shift + norm.bias.to(scale)
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


class _Sums:
    """Sums over samples: XᵀX [groups, inputs, inputs], XᵀY [groups, inputs, outputs], both float64, and Y's squares.

    Args:
        offset: whether X has a last input that is one.
    """

    def __init__(self, offset: bool) -> None:
        self._offset = offset
        self.gram = self.cross = torch.zeros(())
        self.squares = 0.0

    def add(self, given: Tensor, wanted: Tensor) -> None:
        """Add samples, float32 [groups, samples, inputs] and [groups, samples, outputs]."""
        gram = _products(given, given, self._offset)
        if self._offset:
            ones = gram.new_full((len(given), 1, 1), given.shape[1])
            gram = torch.cat([gram, torch.cat([gram[:, -1:].transpose(1, 2), ones], 1)], 2)
        self.gram = self.gram + gram
        self.cross = self.cross + _products(given, wanted, self._offset)
        self.squares += float(wanted.double().square().sum())

    def error(self, weight: Tensor) -> float:
        """Squared error of weights on the samples; infinite where it is no number."""
        found = self.squares + float((weight * (self.gram @ weight - 2 * self.cross)).sum())
        return found if math.isfinite(found) else math.inf


def _products(given: Tensor, values: Tensor, offset: bool) -> Tensor:
    """XᵀV for values [groups, samples, columns], float64; with an offset, the last row sums the values."""
    products = (given.transpose(1, 2) @ values).double()
    return torch.cat([products, values.sum(1, keepdim=True, dtype=torch.float64)], 1) if offset else products


def _outputs(given: Tensor, weight: Tensor, offset: bool) -> Tensor:
    """The outputs of weights [groups, inputs, outputs], whose last row is the offset if there is one."""
    return torch.baddbmm(weight[:, -1:], given, weight[:, :-1]) if offset else given @ weight


def _penalty(gram: Tensor, ridge: float, offset: bool) -> Tensor:
    """What is added to XᵀX for the distance from W₀, [groups, inputs, inputs]; an offset, the last input, has none."""
    squares = gram.diagonal(dim1=1, dim2=2)
    held = ridge * squares.mean(1, keepdim=True).repeat(1, squares.shape[1])
    if offset:
        held[:, -1] = 0
    # If all inputs are zero, this keeps the system solvable and the weights unchanged.
    return torch.diag_embed(held.clamp_min(TINY))


def _choose(halves: tuple[_Sums, _Sums], first: Tensor, options: FitOptions, offset: bool) -> float:
    """The smallest of the ridges whose error is near the smallest error, on samples that were not fitted.

    The weights of a half of the samples need a larger ridge than those of all, so a small difference does not count.
    """
    errors = dict.fromkeys(options.ridges, 0.0)
    for fitted, unused in (halves, halves[::-1]):
        rest = fitted.cross - fitted.gram @ first
        for ridge in options.ridges:
            factor, failed = torch.linalg.cholesky_ex(fitted.gram + _penalty(fitted.gram, ridge, offset))
            weight = first + torch.cholesky_solve(rest, factor)
            errors[ridge] += math.inf if failed.any() else unused.error(weight)
    # Sums of squares in float32 are no more exact.
    rounding = ROUNDING * sum(each.squares for each in halves)
    best = min(errors.values())
    return min(ridge for ridge, error in errors.items() if error <= (1 + options.near) * max(best, 0.0) + rounding)


def fit_layer(
    layer: Layer,
    samples: Iterable[tuple[Tensor, Tensor]],
    norm: _BatchNorm | None = None,
    activation: Activation | None = None,
    options: FitOptions = BEST_FIT,
) -> None:
    """Fit a layer in place.

    Args:
        layer: the layer; its present weights are W₀.
        samples: inputs float32 [groups, samples, inputs of a group] and outputs of the original float32 [samples,
            outputs], in batches; they are read again in each step.
        norm: the only reader of the outputs, if that is a batch norm, whose mean then absorbs an offset.
        activation: the only reader of the outputs, behind the norm if there is one; None fits all outputs alike.
        options: the ridges and the steps. An offset may be at any distance from W₀. Each ridge is fitted to one half of
            each batch and measured on the other, and the smallest one is taken whose error is near the smallest error.
    """
    groups, offset = layer.groups, layer.bias is not None or norm is not None

    def pairs() -> Iterable[tuple[Tensor, Tensor]]:
        for given, wanted in samples:
            yield given, wanted.reshape(len(wanted), groups, -1).transpose(0, 1)

    halves = (_Sums(offset), _Sums(offset))
    passed: _Passed | None = None
    for given, wanted in pairs():
        middle = given.shape[1] // 2
        halves[0].add(given[:, :middle], wanted[:, :middle])
        halves[1].add(given[:, middle:], wanted[:, middle:])
        if activation is not None and passed is None:
            passed = _Passed.of(norm, activation, wanted)
    first = _stacked(layer, offset)
    ridge = options.ridges[0] if len(options.ridges) == 1 else _choose(halves, first, options, offset)
    gram, cross = halves[0].gram + halves[1].gram, halves[0].cross + halves[1].cross
    system = torch.linalg.lu_factor(gram + _penalty(gram, ridge, offset))
    rest = cross - gram @ first
    weight = first + torch.linalg.lu_solve(*system, rest)
    if passed is not None:
        momentum, moved = 1.0, weight
        for _ in range(options.steps):
            change = torch.zeros_like(cross)
            for given, wanted in pairs():
                difference = passed.difference(wanted, _outputs(given, moved.float(), offset))
                change = change + _products(given, difference, offset)
            following = first + torch.linalg.lu_solve(*system, rest + change)
            faster = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
            moved = following + (momentum - 1) / faster * (following - weight)
            weight, momentum = following, faster
    # Inputs whose squares exceed the range of float32 have no solution.
    weight = torch.where(weight.to(layer.weight.dtype).isfinite().all(), weight, first)
    _store(layer, weight, offset, norm)


def _stacked(layer: Layer, offset: bool) -> Tensor:
    """The weights, float64 [groups, inputs of a group, outputs of a group], with the offset as the last input."""
    weight = layer.weight.reshape(layer.groups, len(layer.weight) // layer.groups, -1).transpose(1, 2).double()
    if not offset:
        return weight
    bias = layer.bias if layer.bias is not None else torch.zeros(len(layer.weight), device=weight.device)
    return torch.cat([weight, bias.double().reshape(layer.groups, 1, -1)], 1)


def _store(layer: Layer, weight: Tensor, offset: bool, norm: _BatchNorm | None) -> None:
    if offset:
        found = weight[:, -1].reshape(-1)
        weight = weight[:, :-1]
        if layer.bias is not None:
            layer.bias.copy_(found)
        else:
            assert norm is not None
            assert norm.running_mean is not None
            norm.running_mean.sub_(found)
    layer.weight.copy_(weight.transpose(1, 2).reshape(layer.weight.shape))


def patches(layer: Layer, given: Tensor, positions: Tensor) -> Tensor:
    """The inputs of each sampled output, float32 [groups, N · P, inputs of a group].

    Args:
        layer: the layer.
        given: its input: maps [N, C, H, W] of a convolution, or [N, ..., C] of a linear layer; N may be missing.
        positions: indices of the output positions, int64 [P].
    """
    given = with_images(given, layer.weight.ndim).float()
    if layer.weight.ndim == 2:
        return given.reshape(len(given), -1, given.shape[-1])[:, positions].flatten(0, 1)[None]
    padded = functional.pad(given, layer.padding)
    kernel = layer.weight.shape[2:]
    reach = [step * (size - 1) + 1 for step, size in zip(layer.dilation, kernel, strict=True)]
    width = (padded.shape[3] - reach[1]) // layer.stride[1] + 1
    corners = (positions // width * layer.stride[0], positions % width * layer.stride[1])
    steps = [torch.arange(k, device=positions.device) * d for k, d in zip(kernel, layer.dilation, strict=True)]
    rows = corners[0][:, None, None] + steps[0][:, None]
    columns = corners[1][:, None, None] + steps[1][None, :]
    # [N, C, P, kh, kw] -> [groups, N · P, C / groups · kh · kw], the order of the weights.
    found = padded[:, :, rows, columns]
    found = found.reshape(len(found), layer.groups, -1, *found.shape[2:]).permute(1, 0, 3, 2, 4, 5)
    return found.flatten(3).flatten(1, 2)


def with_images(value: Tensor, dimensions: int) -> Tensor:
    """A value with a dimension of images in front, if it has fewer than `dimensions`.

    A layer that reads a parameter, not the images, may have none.
    """
    return value if value.ndim >= dimensions else value[None]
