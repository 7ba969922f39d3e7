"""Operators that move elements: reshape, permute, split, join, slice, repeat. They move labels in the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Value, along_only, reshape, shrink, split_groups, split_lanes
from cfp_cli.graph.operators import reorder
from cfp_cli.graph.operators.operator import EXPANDING, OperatorCall, Result, always, operator

T = TypeVar("T")
APART = "joined values have channels along different dimensions"


def _sized(call: OperatorCall, value: Value, sizes: dict[int, int]) -> Labels:
    """Labels in full size along some dimensions."""
    return np.broadcast_to(value.labels, [sizes.get(dim, size) for dim, size in enumerate(value.labels.shape)])


@operator(
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"),
    reorder=reorder.reshaped,
    moves_channels=True,
    merges_batch=True,
    transparent=always,
)
def reshaped(call: OperatorCall) -> Result:
    """Another shape for the same elements in the same order."""
    value = call.tensors()[0][1]
    shape = call.shapes()[0][0]
    for groups, group_lanes in split_groups(value, shape):
        call.facts.balance(groups, group_lanes)
    made = call.output(reshape(value, shape))
    lanes = [lane.reshape(made.labels.shape) for lane in value.lanes if lane.size == made.labels.size]
    rows = split_lanes(value, shape)
    if rows is not None:
        call.facts.rearranged = True
        lanes.insert(0, rows)
    return replace(made, lanes=tuple(lanes))


@operator(
    *("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT"),
    reorder=reorder.permuted,
    moves_channels=True,
    merges_batch=True,
    transparent=always,
)
def permuted(call: OperatorCall) -> Result:
    """Dimensions in another order, found by running the operator on a tensor of distinct sizes."""
    value = call.tensors()[0][1]
    order = reorder.dimension_order(call.node, len(value.shape))
    lanes = tuple(lane.transpose(order) for lane in value.lanes)
    return replace(call.output(value.labels.transpose(order)), lanes=lanes)


@operator(*EXPANDING)
def expanded(call: OperatorCall) -> Result:
    """Dimensions of size 1 are spread; new ones come first."""
    value = call.tensors()[0][1]
    lead = len(call.shapes()[0][0]) - len(value.shape)
    return call.output(value.labels.reshape((1,) * lead + value.labels.shape))


@operator("repeat", "tile")
def repeated(call: OperatorCall) -> Result:
    """Copies side by side."""
    value = call.tensors()[0][1]
    shape = call.shapes()[0][0]
    lead = len(shape) - len(value.shape)
    before = (1,) * lead + value.shape
    labels = value.labels.reshape((1,) * lead + value.labels.shape)
    counts = [new // old if size > 1 else 1 for new, old, size in zip(shape, before, labels.shape, strict=True)]
    return call.output(np.tile(labels, counts))


@operator("repeat_interleave")
def interleaved(call: OperatorCall) -> Result:
    """Each element several times, along one dimension."""
    if not isinstance(call.args.get("repeats"), int) or not isinstance(call.args.get("dim"), int):
        return call.refuse("channels are repeated by a tensor of counts")
    value = call.tensors()[0][1]
    dim = call.args["dim"] % len(value.shape)
    return call.output(np.repeat(value.labels, call.args["repeats"], dim) if dim in value.varying else value.labels)


@operator("flip", "roll")
def turned(call: OperatorCall) -> Result:
    """Elements in another order. Along channels, a network with fewer of them would order them differently: refused."""
    value = call.tensors()[0][1]
    dims = [int(dim) % len(value.shape) for dim in call.args["dims"]] or list(range(len(value.shape)))
    if call.operator == "flip":
        return call.output(np.flip(value.labels, tuple(dim for dim in dims if dim in value.varying)))
    if any(dim in value.varying for dim in dims):
        return call.refuse("channels are rolled by a fixed number")
    return call.output(value.labels)


@operator("cat", "concat", "concatenate", reorder=reorder.joined, moves_channels=True)
def joined(call: OperatorCall) -> Result:
    """Values side by side along a dimension; along every other dimension they have the same channels."""
    dim = int(call.args.get("dim", 0)) % len(call.shapes()[0][0])
    values = [value for value in map(call.values.__getitem__, call.args["tensors"]) if isinstance(value, Value)]
    across = {each for value in values for each in value.varying} - {dim}
    if len(across) == 1:
        values = [_sliceable(call, node, next(iter(across))) for node in call.args["tensors"]]
    return _join(call, values)


def _sliceable(call: OperatorCall, node: Node, dim: int) -> Value:
    """A joined value; a parameter, such as one with several tokens, is sliced along the dimension of the channels."""
    joined_value = call.values[node]
    assert isinstance(joined_value, Value)
    origin, value = call.before_expand(node)
    source = call.source(origin)
    own = dim - (len(joined_value.shape) - len(value.shape))
    if source is None or value.labelled or own < 0 or value.shape[own] != joined_value.shape[dim]:
        return joined_value
    atoms = call.facts.atoms(source.name, own, (value.shape[own],))
    return replace(joined_value, labels=atoms.reshape(along_only(len(atoms), len(joined_value.shape), dim)))


@operator("stack", moves_channels=True)
def stacked(call: OperatorCall) -> Result:
    """Values side by side along a new dimension."""
    dim = int(call.args.get("dim", 0)) % len(call.shapes()[0][0])
    values = []
    for value in map(call.values.__getitem__, call.args["tensors"]):
        assert isinstance(value, Value)
        values.append(
            Value(_insert(value.shape, 1, dim), np.expand_dims(value.labels, dim), _insert(value.dynamic, False, dim))
        )
    return _join(call, values)


def _insert(items: Sequence[T], item: T, dim: int) -> tuple[T, ...]:
    return (*items[:dim], item, *items[dim:])


def _join(call: OperatorCall, values: list[Value]) -> Result:
    shape, dynamic = call.shapes()[0]
    values = [value for value in values if len(value.shape) == len(shape)]
    dim = int(call.args.get("dim", 0)) % len(shape)
    others = {tuple(d for d in value.varying if d != dim) for value in values if value.varying}
    if not others:
        pieces = [np.broadcast_to(v.labels.reshape(-1), (v.shape[dim],)) for v in values]
        labels = np.concatenate(pieces)
        return call.output(shrink(labels.reshape([-1 if d == dim else 1 for d in range(len(shape))])))
    if others != {()}:
        return _join_across(call, values, dim, others)
    pieces = [_sized(call, value, {dim: value.shape[dim]}) for value in values]
    depth = max(len(value.lanes) for value in values)
    lanes = tuple(
        np.concatenate([_lane(v, piece, level) for v, piece in zip(values, pieces, strict=True)], dim)
        for level in range(depth)
    )
    return replace(call.value_of(shrink(np.concatenate(pieces, dim)), shape, dynamic), lanes=lanes)


def _lane(value: Value, labels: Labels, level: int) -> Labels:
    """One level of a value's lanes beside labels in full size; -1 where it has none."""
    if level < len(value.lanes) and value.lanes[level].shape == labels.shape:
        return value.lanes[level]
    return np.full(labels.shape, -1)


def _join_across(call: OperatorCall, values: list[Value], dim: int, others: set[tuple[int, ...]]) -> Result:
    """Join along a dimension that is not the channels': all values must keep the same channels."""
    if len(others) > 1:
        return call.refuse(APART)
    (across,) = others
    if any(dim in value.varying for value in values):
        return call.refuse(APART)
    labels = next(value.labels for value in values if value.varying)
    assert all(size == 1 for axis, size in enumerate(labels.shape) if axis not in across)
    for value in values:
        call.facts.unite(labels, value.labels, call.reason("channels are joined with a tensor of fixed size"))
    return call.output(labels)


def _cut(call: OperatorCall, value: Value, dim: int, bounds: list[tuple[int, int]]) -> list[Labels]:
    """Labels of parts [start, end) along a dimension.

    Code that cuts by a share of the channel count goes on working when every block of the parts' common size keeps
    equally many channels; code that cuts at fixed positions does not, which the probe of the finished graph finds out.
    """
    if dim not in value.varying:
        return [value.labels for _ in bounds]
    size = value.shape[dim]
    labels = _sized(call, value, {dim: size})
    block = math.gcd(size, *(edge for pair in bounds for edge in pair))
    if block == 1 and size > 1 and value.varying == (dim,):
        # No share of the count gives these parts. The code may take their sizes from attributes, equal ones from one.
        rows = labels.reshape(-1)
        parts = [rows[start:end] for start, end in bounds]
        call.facts.parts += parts
        for length in {len(part) for part in parts}:
            call.facts.balance(np.stack([part for part in parts if len(part) == length]))
    elif block < size:
        blocks = np.moveaxis(labels, dim, 0).reshape(size // block, -1)
        lanes = tuple(np.moveaxis(lane, dim, 0).reshape(blocks.shape) for lane in value.lanes)
        call.facts.balance(blocks, lanes)
    return [shrink(labels.take(range(start, end), dim)) for start, end in bounds]


@operator(
    *("chunk", "split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split"),
    reorder=reorder.split,
    moves_channels=True,
)
def split(call: OperatorCall) -> Result:
    """Parts along a dimension."""
    value = call.tensors()[0][1]
    dim = int(call.args.get("dim", 0)) % len(value.shape)
    shapes = call.shapes()
    lengths = [shape[dim] for shape, _ in shapes]
    ends = np.cumsum(lengths).tolist()
    parts = _cut(call, value, dim, [(end - length, end) for end, length in zip(ends, lengths, strict=True)])
    made = [call.value_of(part, *shape) for part, shape in zip(parts, shapes, strict=True)]
    # The first part of an interleaved row is interleaved too; where later ones begin depends on what is kept.
    lanes = tuple(lane.take(range(lengths[0]), dim) for lane in value.lanes if lane.shape[dim] > 1)
    return [replace(made[0], lanes=lanes), *made[1:]]


@operator("unbind", reorder=reorder.unbound, moves_channels=True)
def unbound(call: OperatorCall) -> Result:
    """The single slices along a dimension, such as queries, keys and values."""
    value = call.tensors()[0][1]
    dim = int(call.args.get("dim", 0)) % len(value.shape)
    if value.varying == (dim,):
        return call.refuse("channels are picked by their number")
    varies = dim in value.varying
    parts = [np.squeeze(value.labels.take([index if varies else 0], dim), dim) for index in range(value.shape[dim])]
    return [call.value_of(shrink(part), *shape) for part, shape in zip(parts, call.shapes(), strict=True)]


@operator("slice", "narrow", reorder=reorder.anew, moves_channels=True)
def sliced(call: OperatorCall) -> Result:
    """A range along a dimension."""
    value = call.tensors()[0][1]
    dim = int(call.args.get("dim") or 0) % len(value.shape)
    if dim not in value.varying:
        return call.output(value.labels)
    size = value.shape[dim]
    if call.operator == "narrow":
        bounds = slice(call.args["start"], call.args["start"] + call.args["length"])
    else:
        bounds = slice(call.args.get("start"), call.args.get("end"), call.args.get("step", 1))
    if not all(isinstance(edge, int | None) for edge in (bounds.start, bounds.stop, bounds.step)):
        return call.refuse("channels are cut at a computed position")
    start, stop, step = bounds.indices(size)
    if step != 1:
        return call.refuse("channels are cut in steps")
    if (start, stop) == (0, size):
        return call.output(value.labels)
    return call.output(_cut(call, value, dim, [(start, stop)])[0])


@operator("select")
def selected(call: OperatorCall) -> Result:
    """One index along a dimension."""
    value = call.tensors()[0][1]
    dim = int(call.args["dim"]) % len(value.shape)
    index = call.args["index"]
    if dim not in value.varying:
        return call.output(np.squeeze(value.labels, dim))
    if not isinstance(index, int) or value.varying == (dim,):
        return call.refuse("one channel is picked by its number")
    index %= value.shape[dim]
    return call.output(shrink(np.squeeze(value.labels.take([index], dim), dim)))


@operator("getitem", reorder=reorder.picked, moves_channels=True)
def picked(call: OperatorCall) -> Result:
    """One result of an operator that returns several."""
    node, index = call.node.args
    assert isinstance(node, Node)
    results = call.values[node]
    if isinstance(results, list) and isinstance(index, int) and index < len(results):
        return results[index]
    return call.refuse()


@operator("glu")
def gated(call: OperatorCall) -> Result:
    """The first half gated by the second: their channels pair up."""
    value = call.tensors()[0][1]
    dim = int(call.args.get("dim", -1)) % len(value.shape)
    if dim not in value.varying:
        return call.output(value.labels)
    half = value.shape[dim] // 2
    first, second = (value.labels.take(range(start, start + half), dim) for start in (0, half))
    call.facts.unite(first, second, call.reason("channels are gated by values that belong to none"))
    return call.output(np.maximum(first, second))
