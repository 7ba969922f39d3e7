"""Operators that work element by element, with broadcasting, and operators that return their input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Value, along_only, unlabelled
from cfp_cli.graph.operators.operator import OperatorCall, Result, operator, with_one_input

FIXED = "is combined with a constant tensor that cannot be sliced"
OUTER = "the operands have their channels on different dimensions"
SINGLE = "a single channel is broadcast over all channels"


@operator(
    # Every operator that PyTorch tags as pointwise uses this entry.
    "pointwise",
    # PyTorch does not tag these as pointwise, or did not in earlier releases.
    *("hardswish", "leaky_relu", "log_sigmoid", "copy", "floor_divide", "where"),
    transparent=with_one_input,
)
def pointwise(call: OperatorCall) -> Result:
    """Unite the channels of all operands where they meet; an operand of size 1 is broadcast and never coupled."""
    shape, dynamic = call.shapes()[0]
    operands = [_operand(call, node, value, len(shape)) for node, value in call.tensors()]
    dims = sorted({dim for _, value in operands for dim in value.varying})
    if not dims:
        return call.output(_without_channels(call, [value for _, value in operands], len(shape)))
    merged: Labels | None = None
    for node, value in operands:
        spread = [dim for dim in dims if value.shape[dim] == 1 < shape[dim]]
        if len(spread) == len(dims):
            call.freeze([value], SINGLE)
            continue
        if spread and value.labelled:
            call.freeze((each for _, each in operands), OUTER)
            return unlabelled(shape, dynamic)
        labels = _labels(call, node, value, len(shape), dims)
        if merged is not None:
            call.facts.unite(merged, labels, call.reason(FIXED))
            labels = np.maximum(merged, labels)
        merged = labels
    assert merged is not None
    return call.output(merged)


def _operand(call: OperatorCall, node: Node, value: Value, ndim: int) -> tuple[Node, Value]:
    """An operand before it was expanded: a norm that `normalize` expands to all channels, or a parameter."""
    if isinstance(call.values[node], Value):
        node, value = call.before_expand(node)
    return node, _aligned(value, ndim)


def _aligned(value: Value, ndim: int) -> Value:
    """The value with leading dimensions of size 1, as broadcasting sees it."""
    lead = ndim - len(value.shape)
    if lead <= 0:
        return value
    return Value(
        (1,) * lead + value.shape,
        value.labels.reshape((1,) * lead + value.labels.shape),
        (False,) * lead + value.dynamic,
    )


def _without_channels(call: OperatorCall, values: list[Value], ndim: int) -> Labels:
    """Labels where no operand has channels that differ: at most one atom each."""
    labelled = [value for value in values if value.labelled]
    blank = np.full((1,) * ndim, -1)
    if not labelled:
        return blank
    if len({value.shape for value in values}) > 1:
        # A constant of one element changes nothing; anything else is spread.
        if len(labelled) == 1 and all(np.prod(value.shape) == 1 for value in values if not value.labelled):
            return labelled[0].labels
        call.freeze(labelled, SINGLE)
        return blank
    if len(labelled) < len(values):
        call.freeze(labelled, FIXED)
    for other in labelled[1:]:
        call.facts.unite(labelled[0].labels, other.labels, call.reason(FIXED))
    return labelled[0].labels


def _labels(call: OperatorCall, node: Node, value: Value, ndim: int, dims: list[int]) -> Labels:
    """Labels of an operand beside others whose labels change along `dims`.

    A parameter of several dimensions that is used directly is sliced along the one that channels lie on.
    """
    source = call.source(node)
    if source is None or len(dims) != 1 or value.labelled:
        return value.labels
    lead = ndim - node.meta["val"].dim()
    atoms = call.facts.atoms(source.name, dims[0] - lead, (value.shape[dims[0]],))
    return atoms.reshape(along_only(len(atoms), ndim, dims[0]))


@operator(
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "to", "_to_copy", "clone", "contiguous"),
    *(
        "detach",
        "alias",
        "lift_fresh_copy",
        "type_as",
        "zero",
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "native_dropout",
    ),
    transparent=with_one_input,
)
def same(call: OperatorCall) -> Result:
    """The same elements, or others at the same indices."""
    value = call.tensors()[0][1]
    if len(call.shapes()) != 1:
        return call.refuse()
    return replace(call.output(value.labels), lanes=value.lanes)
