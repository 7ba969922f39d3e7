"""Operators that sum over channels and make new ones: convolution, transposed convolution, linear."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.fx import Node
from torch.nn import functional

from cfp_cli.graph.labels import Labels, Value, along_only
from cfp_cli.graph.operators.operator import OperatorCall, Result, operator
from cfp_cli.graph.trace import arguments_of, shape_of

ALL_ROWS = "each row of its weight is computed from all rows, as by spectral norm"
SEVERAL = "its weight is computed from several tensors"
COMPUTED = "its weight is computed, not a parameter"
ELSEWHERE = "channels are not on the channel dimension of this layer"
UNKNOWN_INPUT = "part of its input is not made by any layer"


def _channels(call: OperatorCall, value: Value, dim: int) -> Labels:
    """Labels of the input along its channel dimension; frozen where they also lie along another one."""
    if any(other != dim for other in value.varying):
        call.freeze([value], ELSEWHERE)
        return np.full(value.shape[dim], -1)
    return value.along(dim)


def _convolve(call: OperatorCall, transposed: bool) -> Result:
    x, weight = call.value("input"), call.parameter("weight")
    if weight is None:
        return _with_computed_weight(call, 1)
    shape = call.value("weight").shape
    if len(x.shape) != len(shape):
        return call.refuse("its input has no batch dimension")
    groups = int(call.args["groups"])
    incoming = _channels(call, x, 1)
    call.masked = ("input",)
    facts, reason = call.facts, call.reason(UNKNOWN_INPUT)
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    channels, made = x.shape[1], shape[out_dim] * (groups if transposed else 1)
    facts.consumers.append((call.module, incoming, call.node.name))
    facts.readers[weight.name, in_dim] = call.args["input"]
    if groups == 1:
        facts.unite(facts.atoms(weight.name, in_dim, (channels,)), incoming, reason)
        outgoing = facts.atoms(weight.name, out_dim, (made,))
        facts.mapped.append((incoming, outgoing))
        facts.producers.append((call.module, weight.name, outgoing))
    elif groups == channels:
        # Depthwise: each channel makes `made / channels` channels by itself, which are kept or dropped with it.
        for vector in (weight, call.parameter("bias")):
            if vector is not None:
                facts.readers[vector.name, 0] = call.args["input"]
        if transposed:
            facts.unite(facts.atoms(weight.name, 0, (channels,)), incoming, reason)
            outgoing = np.repeat(incoming, made // channels)
        else:
            outgoing = facts.atoms(weight.name, 0, (made,))
            facts.unite(outgoing.reshape(channels, -1), incoming[:, None], reason)
    else:
        per_group = incoming.reshape(groups, -1)
        # Each group has its own channels behind the same weight positions, on the side that the weight shares.
        if transposed:
            facts.unite(facts.atoms(weight.name, 0, (channels,)), incoming, reason)
            outgoing = facts.atoms(weight.name, 1, (groups, shape[1])).reshape(-1)
        else:
            facts.unite(facts.atoms(weight.name, 1, per_group.shape), per_group, reason)
            outgoing = facts.atoms(weight.name, 0, (made,))
        facts.balance(per_group, tuple(lane.reshape(groups, -1) for lane in x.lanes))
        facts.balance(outgoing.reshape(groups, -1))
        facts.producers.append((call.module, weight.name, outgoing))
    call.tie("bias", outgoing)
    call.tie_rows("weight", outgoing)
    return _made(call, x, call.output(outgoing.reshape(along_only(made, len(x.shape), 1))))


def _with_computed_weight(call: OperatorCall, dim: int) -> Result:
    """The result of a layer whose weight is no parameter: its channels lie on `dim`, are listed and frozen."""
    blank = call.refuse(COMPUTED)
    assert isinstance(blank, Value)
    dim %= len(blank.shape)
    if blank.dynamic[dim]:
        return blank
    made = call.facts.new((blank.shape[dim],))
    call.facts.producers.append((call.module, call.node.name, made))
    call.facts.freeze(made, call.reason(COMPUTED))
    return call.output(made.reshape(along_only(len(made), len(blank.shape), dim)))


def _made(call: OperatorCall, x: Value, result: Value) -> Value:
    """The result of a layer; it and the input are frozen if the rows of the weight cannot be computed alone."""
    computed = call.computed("weight")
    if computed is not None and not (computed.sliceable and computed.by_row):
        call.freeze([result] if computed.sliceable else [x, result], SEVERAL if computed.by_row else ALL_ROWS)
    return result


def _output_positions(node: Node) -> int:
    """Pixels of a convolution's output."""
    shape = shape_of(node)
    return shape[0] * math.prod(shape[2:])


def _input_positions(node: Node) -> int:
    """Pixels of a transposed convolution's input."""
    shape = shape_of(arguments_of(node)["input"])
    return shape[0] * math.prod(shape[2:])


def _rows(node: Node) -> int:
    """Rows that a linear layer maps; they may lie in the first dimension beside the images."""
    return math.prod(shape_of(node)[:-1])


@operator(
    *("conv1d", "conv2d", "conv3d"),
    functions={"conv1d": torch.conv1d, "conv2d": torch.conv2d, "conv3d": torch.conv3d},
    positions=_output_positions,
)
def convolution(call: OperatorCall) -> Result:
    """Convolution: grouped, depthwise, dilated."""
    return _convolve(call, transposed=False)


@operator(
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
    functions={
        "conv_transpose1d": torch.conv_transpose1d,
        "conv_transpose2d": torch.conv_transpose2d,
        "conv_transpose3d": torch.conv_transpose3d,
    },
    positions=_input_positions,
)
def transposed_convolution(call: OperatorCall) -> Result:
    """Transposed convolution; its weight is [in, out / groups, ...]."""
    return _convolve(call, transposed=True)


@operator("convolution", functions={"convolution": torch.convolution}, positions=_output_positions)
def any_convolution(call: OperatorCall) -> Result:
    """The general convolution that some code calls directly."""
    return _convolve(call, transposed=bool(call.args["transposed"]))


@operator("linear", functions={"linear": functional.linear}, positions=_rows)
def linear(call: OperatorCall) -> Result:
    """Linear layer over the last dimension."""
    x, weight = call.value("input"), call.parameter("weight")
    if weight is None:
        return _with_computed_weight(call, -1)
    shape = call.value("weight").shape
    last = len(x.shape) - 1
    facts = call.facts
    made = facts.atoms(weight.name, 0, (shape[0],))
    if x.varying and last not in x.varying:
        # It mixes positions, not channels: channels pass through along their own dimension.
        facts.freeze(made, call.reason(ELSEWHERE))
        facts.freeze(facts.atoms(weight.name, 1, (shape[1],)), call.reason(ELSEWHERE))
        return call.output(x.labels)
    incoming = _channels(call, x, last)
    call.masked = ("input",)
    facts.consumers.append((call.module, incoming, call.node.name))
    facts.readers[weight.name, 1] = call.args["input"]
    facts.unite(facts.atoms(weight.name, 1, (shape[1],)), incoming, call.reason(UNKNOWN_INPUT))
    facts.producers.append((call.module, weight.name, made))
    facts.mapped.append((incoming, made))
    if weight.name.endswith("in_proj_weight") and shape[0] == 3 * shape[1]:
        # nn.MultiheadAttention makes queries, keys and values of as many channels as it reads.
        facts.balances.append(([incoming, *made.reshape(3, -1)], 0))
    call.tie("bias", made)
    call.tie_rows("weight", made)
    return _made(call, x, call.output(made.reshape(along_only(shape[0], len(x.shape), last))))
