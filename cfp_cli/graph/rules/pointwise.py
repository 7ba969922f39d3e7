"""Operators that work element by element, with broadcasting, and those that give their input back."""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Value, along_only, unlabelled
from cfp_cli.graph.rules.site import Result, Site, rule

FIXED = "channels meet a tensor of fixed size"
OUTER = "channels of one operand meet channels of another along another dimension"
SINGLE = "one channel is spread over all others"


@rule(
    *("hardswish", "log_sigmoid", "copy", "floor_divide"),
)
def pointwise(site: Site) -> Result:
    """Unite the channels of all operands where they meet; an operand of size 1 is spread and never coupled."""
    shape, dynamic = site.shapes()[0]
    operands = [(node, _aligned(value, len(shape))) for node, value in site.tensors()]
    varying = {value.varying for _, value in operands if value.varying}
    if len(varying) > 1:
        site.freeze((value for _, value in operands), OUTER)
        return unlabelled(shape, dynamic)
    if not varying:
        return site.out(_without_channels(site, [value for _, value in operands], len(shape)))
    (dims,) = varying
    merged: Labels | None = None
    for node, value in operands:
        labels = value.labels if value.varying else _beside(site, node, value, shape, dims)
        if labels is None:
            continue
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


def _beside(site: Site, node: Node, value: Value, shape: tuple[int, ...], dims: tuple[int, ...]) -> Labels | None:
    """Labels of an operand that has no varying labels beside one that has; None where it is only spread."""
    if all(value.shape[dim] == 1 for dim in dims):
        if any(shape[dim] > 1 for dim in dims):
            site.freeze([value], SINGLE)
        return None
    source = site.source(node)
    if source is not None and len(dims) == 1 and not value.labelled:
        # A parameter of several dimensions, used directly: it is sliced along the one that channels lie on.
        lead = len(shape) - node.meta["val"].dim()
        atoms = site.ledger.of(source.name, dims[0] - lead, (value.shape[dims[0]],))
        return atoms.reshape(along_only(len(atoms), len(shape), dims[0]))
    return value.labels


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
    return site.out(value.labels)
