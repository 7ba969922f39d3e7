"""Operators that move elements: reshape, permute, split, join, slice, repeat. They move labels in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Value, reshape, shrink, split_groups, split_lanes
from cfp_cli.graph.rules.site import Result, Site, rule

T = TypeVar("T")
UNEVEN = "channels are cut into parts without a common size"
APART = "joined values have channels along different dimensions"


def _sized(site: Site, value: Value, sizes: dict[int, int]) -> Labels:
    """Labels in full size along some dimensions."""
    return np.broadcast_to(value.labels, [sizes.get(dim, size) for dim, size in enumerate(value.labels.shape)])


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")
def reshaped(site: Site) -> Result:
    """Another shape for the same elements in the same order."""
    value = site.tensors()[0][1]
    shape = site.shapes()[0][0]
    for groups in split_groups(value, shape):
        site.ledger.balance(np.stack(groups))
    made = site.out(reshape(value, shape))
    lanes = [lane.reshape(made.labels.shape) for lane in value.lanes if lane.size == made.labels.size]
    rows = split_lanes(value, shape)
    if rows is not None:
        site.ledger.rearranged = True
        lanes.insert(0, rows)
    return replace(made, lanes=tuple(lanes))


@rule("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT")
def permuted(site: Site) -> Result:
    """Dimensions in another order, found by running the operator on a tensor of distinct sizes."""
    value = site.tensors()[0][1]
    order = dimension_order(site.node, len(value.shape))
    lanes = tuple(lane.transpose(order) for lane in value.lanes)
    return replace(site.out(value.labels.transpose(order)), lanes=lanes)


def dimension_order(node: Node, ndim: int) -> list[int]:
    """Which dimension of its argument each dimension of a permuting operator's result is."""
    sizes = torch.empty([dim + 2 for dim in range(ndim)], device="meta")
    args = tuple(sizes if isinstance(arg, Node) else arg for arg in node.args)
    assert callable(node.target)
    return [size - 2 for size in node.target(*args, **node.kwargs).shape]


@rule("expand", "expand_as", "broadcast_to")
def expanded(site: Site) -> Result:
    """Dimensions of size 1 are spread; new ones come first."""
    value = site.tensors()[0][1]
    lead = len(site.shapes()[0][0]) - len(value.shape)
    return site.out(value.labels.reshape((1,) * lead + value.labels.shape))


@rule("repeat", "tile")
def repeated(site: Site) -> Result:
    """Copies side by side."""
    value = site.tensors()[0][1]
    shape = site.shapes()[0][0]
    lead = len(shape) - len(value.shape)
    before = (1,) * lead + value.shape
    labels = value.labels.reshape((1,) * lead + value.labels.shape)
    counts = [new // old if size > 1 else 1 for new, old, size in zip(shape, before, labels.shape, strict=True)]
    return site.out(np.tile(labels, counts))


@rule("repeat_interleave")
def interleaved(site: Site) -> Result:
    """Each element several times, along one dimension."""
    if not isinstance(site.args.get("repeats"), int) or not isinstance(site.args.get("dim"), int):
        return site.refuse("channels are repeated by a tensor of counts")
    value = site.tensors()[0][1]
    dim = site.args["dim"] % len(value.shape)
    return site.out(np.repeat(value.labels, site.args["repeats"], dim) if dim in value.varying else value.labels)


@rule("flip", "roll")
def turned(site: Site) -> Result:
    """Elements in another order, which a network with fewer channels would not follow: only outside channels."""
    value = site.tensors()[0][1]
    dims = [int(dim) % len(value.shape) for dim in site.args["dims"]] or list(range(len(value.shape)))
    if site.operator == "flip":
        return site.out(np.flip(value.labels, tuple(dim for dim in dims if dim in value.varying)))
    if any(dim in value.varying for dim in dims):
        return site.refuse("channels are rolled by a fixed number")
    return site.out(value.labels)


@rule("cat", "concat", "concatenate")
def joined(site: Site) -> Result:
    """Values side by side along a dimension; along every other one their channels are the same."""
    nodes = site.args["tensors"]
    return _join(site, [value for value in map(site.values.__getitem__, nodes) if isinstance(value, Value)])


@rule("stack")
def stacked(site: Site) -> Result:
    """Values side by side along a new dimension."""
    dim = int(site.args.get("dim", 0)) % len(site.shapes()[0][0])
    values = []
    for value in map(site.values.__getitem__, site.args["tensors"]):
        assert isinstance(value, Value)
        values.append(
            Value(_insert(value.shape, 1, dim), np.expand_dims(value.labels, dim), _insert(value.dynamic, False, dim))
        )
    return _join(site, values)


def _insert(items: Sequence[T], item: T, dim: int) -> tuple[T, ...]:
    return (*items[:dim], item, *items[dim:])


def _join(site: Site, values: list[Value]) -> Result:
    shape, dynamic = site.shapes()[0]
    values = [value for value in values if len(value.shape) == len(shape)]
    dim = int(site.args.get("dim", 0)) % len(shape)
    others = {tuple(d for d in value.varying if d != dim) for value in values if value.varying}
    if not others:
        pieces = [np.broadcast_to(v.labels.reshape(-1), (v.shape[dim],)) for v in values]
        labels = np.concatenate(pieces)
        return site.out(shrink(labels.reshape([-1 if d == dim else 1 for d in range(len(shape))])))
    if others != {()}:
        return _join_across(site, values, dim, others)
    pieces = [_sized(site, value, {dim: value.shape[dim]}) for value in values]
    depth = max(len(value.lanes) for value in values)
    lanes = tuple(
        np.concatenate([_lane(v, piece, level) for v, piece in zip(values, pieces, strict=True)], dim)
        for level in range(depth)
    )
    return replace(site.made(shrink(np.concatenate(pieces, dim)), shape, dynamic), lanes=lanes)


def _lane(value: Value, labels: Labels, level: int) -> Labels:
    """One level of a value's lanes beside labels in full size; -1 where it has none."""
    if level < len(value.lanes) and value.lanes[level].shape == labels.shape:
        return value.lanes[level]
    return np.full(labels.shape, -1)


def _join_across(site: Site, values: list[Value], dim: int, others: set[tuple[int, ...]]) -> Result:
    """Join along a dimension that is not the channels': all values must keep the same channels."""
    if len(others) > 1:
        return site.refuse(APART)
    (across,) = others
    if any(dim in value.varying for value in values):
        return site.refuse(APART)
    labels = next(value.labels for value in values if value.varying)
    assert all(size == 1 for place, size in enumerate(labels.shape) if place not in across)
    for value in values:
        site.ledger.unite(labels, value.labels, site.reason("channels are joined with a tensor of fixed size"))
    return site.out(labels)


def _cut(site: Site, value: Value, dim: int, bounds: list[tuple[int, int]]) -> list[Labels]:
    """Labels of parts [start, end) along a dimension.

    Code that cuts by a share of the channel count goes on working when every block of the parts' common size keeps
    equally many channels; code that cuts at fixed positions does not, which the probe of the finished graph finds out.
    """
    if dim not in value.varying:
        return [value.labels for _ in bounds]
    size = value.shape[dim]
    labels = _sized(site, value, {dim: size})
    block = math.gcd(size, *(edge for pair in bounds for edge in pair))
    if block == 1 and size > 1:
        site.freeze([value], UNEVEN)
    elif block < size:
        blocks = np.moveaxis(labels, dim, 0).reshape(size // block, -1)
        lanes = tuple(np.moveaxis(lane, dim, 0).reshape(blocks.shape) for lane in value.lanes)
        site.ledger.balance(blocks, lanes)
    return [shrink(labels.take(range(start, end), dim)) for start, end in bounds]


@rule("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unbind")
def split(site: Site) -> Result:
    """Parts along a dimension."""
    value = site.tensors()[0][1]
    dim = int(site.args.get("dim", 0)) % len(value.shape)
    shapes = site.shapes()
    unbound = site.operator == "unbind"
    lengths = [1 if unbound else shape[dim] for shape, _ in shapes]
    ends = np.cumsum(lengths).tolist()
    parts = _cut(site, value, dim, [(end - length, end) for end, length in zip(ends, lengths, strict=True)])
    if unbound:
        parts = [np.squeeze(part.take([0], dim), dim) for part in parts]
    made = [site.made(part, *shape) for part, shape in zip(parts, shapes, strict=True)]
    # The first part of an interleaved row is interleaved too; where later ones begin depends on what is kept.
    lanes = tuple(lane.take(range(lengths[0]), dim) for lane in value.lanes if lane.shape[dim] > 1 and not unbound)
    return [replace(made[0], lanes=lanes), *made[1:]]


@rule("slice", "narrow")
def sliced(site: Site) -> Result:
    """A range along a dimension."""
    value = site.tensors()[0][1]
    dim = int(site.args.get("dim") or 0) % len(value.shape)
    if dim not in value.varying:
        return site.out(value.labels)
    size = value.shape[dim]
    if site.operator == "narrow":
        bounds = slice(site.args["start"], site.args["start"] + site.args["length"])
    else:
        bounds = slice(site.args.get("start"), site.args.get("end"), site.args.get("step", 1))
    if not all(isinstance(edge, int | None) for edge in (bounds.start, bounds.stop, bounds.step)):
        return site.refuse("channels are cut at a computed position")
    start, stop, step = bounds.indices(size)
    if step != 1:
        return site.refuse("channels are cut in steps")
    if (start, stop) == (0, size):
        return site.out(value.labels)
    return site.out(_cut(site, value, dim, [(start, stop)])[0])


@rule("select")
def selected(site: Site) -> Result:
    """One position along a dimension."""
    value = site.tensors()[0][1]
    dim = int(site.args["dim"]) % len(value.shape)
    index = site.args["index"]
    if dim not in value.varying:
        return site.out(np.squeeze(value.labels, dim))
    if not isinstance(index, int) or value.varying == (dim,):
        return site.refuse("one channel is picked by its number")
    index %= value.shape[dim]
    return site.out(shrink(np.squeeze(value.labels.take([index], dim), dim)))


@rule("getitem")
def picked(site: Site) -> Result:
    """One result of an operator that gives several."""
    node, index = site.node.args
    assert isinstance(node, Node)
    results = site.values[node]
    if isinstance(results, list) and isinstance(index, int) and index < len(results):
        return results[index]
    return site.refuse()


@rule("glu")
def gated(site: Site) -> Result:
    """The first half gated by the second: their channels pair up."""
    value = site.tensors()[0][1]
    dim = int(site.args.get("dim", -1)) % len(value.shape)
    if dim not in value.varying:
        return site.out(value.labels)
    half = value.shape[dim] // 2
    first, second = (value.labels.take(range(start, start + half), dim) for start in (0, half))
    site.ledger.unite(first, second, site.reason("channels are gated by values that belong to none"))
    return site.out(np.maximum(first, second))
