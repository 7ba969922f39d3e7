"""Operators that work element by element, with broadcasting, and those that give their input back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Value, along_only, unlabelled
from cfp_cli.graph.rules.site import Result, Site, rule

FIXED = "channels meet a tensor of fixed size"
OUTER = "channels of one operand meet channels of another along another dimension"
SINGLE = "one channel is spread over all others"


@rule(
    # Those that PyTorch does not tag as pointwise, or did not in earlier releases.
    *("hardswish", "leaky_relu", "log_sigmoid", "copy", "floor_divide"),
)
def pointwise(site: Site) -> Result:
    """Unite the channels of all operands where they meet; an operand of size 1 is spread and never coupled."""
    shape, dynamic = site.shapes()[0]
    operands = [(node, _aligned(value, len(shape))) for node, value in site.tensors()]
    dims = sorted({dim for _, value in operands for dim in value.varying})
    if not dims:
        return site.out(_without_channels(site, [value for _, value in operands], len(shape)))
    merged: Labels | None = None
    for node, value in operands:
        spread = [dim for dim in dims if value.shape[dim] == 1 < shape[dim]]
        if len(spread) == len(dims):
            site.freeze([value], SINGLE)
            continue
        if spread and value.labelled:
            site.freeze((each for _, each in operands), OUTER)
            return unlabelled(shape, dynamic)
        labels = _labels(site, node, value, len(shape), dims)
        if merged is not None:
            site.ledger.unite(merged, labels, site.reason(FIXED))
            labels = np.maximum(merged, labels)
        merged = labels
    assert merged is not None
    return site.out(merged)


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


def _without_channels(site: Site, values: list[Value], ndim: int) -> Labels:
    """Labels where no operand has channels that differ: at most one atom each."""
    labelled = [value for value in values if value.labelled]
    blank = np.full((1,) * ndim, -1)
    if not labelled:
        return blank
    if len({value.shape for value in values}) > 1:
        # A constant of one element changes nothing; anything else is spread.
        if len(labelled) == 1 and all(np.prod(value.shape) == 1 for value in values if not value.labelled):
            return labelled[0].labels
        site.freeze(labelled, SINGLE)
        return blank
    if len(labelled) < len(values):
        site.freeze(labelled, FIXED)
    for other in labelled[1:]:
        site.ledger.unite(labelled[0].labels, other.labels, site.reason(FIXED))
    return labelled[0].labels


def _labels(site: Site, node: Node, value: Value, ndim: int, dims: list[int]) -> Labels:
    """Labels of an operand beside others whose labels change along `dims`.

    A parameter of several dimensions that is used directly is sliced along the one that channels lie on.
    """
    source = site.source(node)
    if source is None or len(dims) != 1 or value.labelled:
        return value.labels
    lead = ndim - node.meta["val"].dim()
    atoms = site.ledger.of(source.name, dims[0] - lead, (value.shape[dims[0]],))
    return atoms.reshape(along_only(len(atoms), ndim, dims[0]))


@rule(
    *("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "to", "_to_copy", "clone", "contiguous"),
    *(
        "detach",
        "alias",
        "lift_fresh_copy",
        "type_as",
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "native_dropout",
    ),
)
def same(site: Site) -> Result:
    """The same elements, or others in the same places."""
    value = site.tensors()[0][1]
    if len(site.shapes()) != 1:
        return site.refuse()
    return replace(site.out(value.labels), lanes=value.lanes)
