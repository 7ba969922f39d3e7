"""Products of two values: matrix products, einsum and scaled dot product attention.

In attention the channels of queries, keys and values lie on two dimensions: the heads, and the channels of a head. The
heads are a batch dimension of the product. Whole heads are kept or dropped, so the number of channels of a head and
with it the scale of the scores stay the same. Products without heads sum over channels or keep those of one operand.
"""

from __future__ import annotations

from string import ascii_letters

import numpy as np
import torch
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Value, unlabelled
from cfp_cli.graph.operators import reorder
from cfp_cli.graph.operators.operator import OperatorCall, Result, operator

FIXED = "channels are multiplied by a tensor that cannot be sliced"
PICKED = "channels are picked by numbers"
MIXED = "its operands have channels on dimensions that cfp cannot follow"


@operator("matmul", "bmm", "mm", reorder=reorder.anew)
def product(call: OperatorCall) -> Result:
    """Matrix product of two values; leading dimensions are broadcast."""
    names = ("self", "other" if call.operator == "matmul" else "mat2")
    first, second = (call.value(name) for name in names)
    if min(len(first.shape), len(second.shape)) < 2:
        return call.refuse(MIXED)
    lead = ascii_letters[3 : len(call.shapes()[0][0]) + 1]
    letters = tuple(lead[len(lead) - len(value.shape) + 2 :] + ends for value, ends in ((first, "ac"), (second, "cb")))
    return _contract(call, (first, second), letters, lead + "ab", names[:1])


@operator("einsum", reorder=reorder.anew)
def einsum(call: OperatorCall) -> Result:
    """Einstein sums of two operands, in which each letter occurs once an operand."""
    equation, nodes = str(call.args["equation"]).replace(" ", ""), call.args["tensors"]
    values = [call.values[node] for node in nodes]
    inputs, arrow, output = equation.partition("->")
    letters = tuple(inputs.split(","))
    if len(letters) != 2 or not arrow or "." in equation or any(len(set(each)) < len(each) for each in letters):
        return call.refuse("only sums of two operands with letters for all dimensions are followed")
    first, second = values
    assert isinstance(first, Value)
    assert isinstance(second, Value)
    return _contract(call, (first, second), letters, output, ())


@operator("scaled_dot_product_attention", reorder=reorder.anew)
def scaled_dot_product_attention(call: OperatorCall) -> Result:
    """softmax(q k^T / sqrt(d) + mask) v over [..., heads, positions, d]."""
    query, key, value = (call.value(name) for name in ("query", "key", "value"))
    mask = call.args.get("attn_mask")
    last = len(query.shape) - 1
    shapes = {len(each.shape) for each in (query, key, value)}
    if len(shapes) > 1 or call.args.get("enable_gqa"):
        return call.refuse(MIXED)
    if any(dim < last - 1 for each in (query, key, value) for dim in each.varying):
        call.facts.heads.append(query.labels)
        heads = _united(call, [call.together(each.labels, (last - 1, last)) for each in (query, key, value)])
        return call.output(_with_bias(call, heads, mask))
    bias = call.values[mask] if isinstance(mask, Node) else None
    if any(each.varying not in ((), (last,)) for each in (query, key, value)) or (
        isinstance(bias, Value) and bias.labelled
    ):
        return call.refuse(MIXED)
    # The scale depends on the number of channels, so the replay computes it for the kept ones.
    call.facts.heads += [query.labels, value.labels]
    call.facts.unite(query.labels, key.labels, call.reason(FIXED))
    call.mixes = True
    return call.output(value.labels)


def _with_bias(call: OperatorCall, heads: Labels, mask: object) -> Labels:
    """The heads, united with those of a mask or bias that has them too."""
    if not isinstance(mask, Node):
        return heads
    bias = call.values[mask]
    assert isinstance(bias, Value)
    lead = heads.ndim - len(bias.shape)
    labels = bias.labels.reshape((1,) * lead + bias.labels.shape)
    sizes = (1,) * lead + bias.shape
    if labels.ndim != heads.ndim or any(size > 1 for size in labels.shape[-2:]):
        call.freeze([bias], MIXED)
        return heads
    if bias.labelled or any(size > 1 for size, each in zip(sizes, heads.shape, strict=True) if each > 1):
        return _united(call, [heads, labels])
    return heads


def _contract(
    call: OperatorCall,
    values: tuple[Value, Value],
    letters: tuple[str, ...],
    output: str,
    masked: tuple[str, ...],
) -> Result:
    """The labels of a sum over products.

    Args:
        call: the call.
        values: the operands.
        letters: a letter for each dimension of each operand, the same for dimensions that meet.
        output: the letters of the result.
        masked: names of arguments in which dropped channels can be zeroed, for sums over channels.
    """
    shared = set(letters[0]) & set(letters[1])
    varying = [{own[dim] for dim in value.varying} for value, own in zip(values, letters, strict=True)]
    sums = shared - set(output)
    heads = (varying[0] | varying[1]) & (shared - sums)
    if heads:
        call.facts.heads.append(values[0].labels)
        spread = [
            _spread(
                call.together(value.labels, [dim for dim, each in enumerate(own) if each not in heads]), own, output
            )
            for value, own in zip(values, letters, strict=True)
            # A matrix that is the same for all heads takes no part.
            if value.labelled or any(value.shape[own.index(each)] > 1 for each in heads)
        ]
        return call.output(_united(call, spread))
    if not varying[0] and not varying[1]:
        call.freeze([value for value in values if value.labelled], MIXED)
        return call.output(np.full((1,) * len(output), -1))
    inside = [each & sums for each in varying]
    if inside[0] or inside[1]:
        if varying[0] - sums or varying[1] - sums or not masked:
            return call.refuse(MIXED)
        order = "".join(sorted(sums))
        one, other = (_spread(value.labels, own, order) for value, own in zip(values, letters, strict=True))
        call.facts.unite(one, other, call.reason(FIXED))
        call.facts.heads.append(values[0].labels)
        call.masked = masked
        return call.output(np.full((1,) * len(output), -1))
    carrying = [index for index, each in enumerate(varying) if each]
    if len(carrying) > 1 or values[1 - carrying[0]].labelled or not varying[carrying[0]] <= set(output):
        return call.refuse(MIXED)
    call.facts.heads.append(values[carrying[0]].labels)
    return call.output(_spread(values[carrying[0]].labels, letters[carrying[0]], output))


def _spread(labels: Labels, own: str, letters: str) -> Labels:
    """Labels with a dimension for each of some letters; letters that are left out do not vary."""
    order = [own.index(each) for each in letters if each in own]
    rest = [dim for dim in range(labels.ndim) if dim not in order]
    kept = labels.transpose([*order, *rest]).reshape([labels.shape[dim] for dim in order])
    return kept.reshape([labels.shape[own.index(each)] if each in own else 1 for each in letters])


def _united(call: OperatorCall, labels: list[Labels]) -> Labels:
    """Broadcastable labels, kept or dropped together where they meet."""
    merged = labels[0]
    for other in labels[1:]:
        call.facts.unite(merged, other, call.reason(FIXED))
        merged = np.maximum(merged, other)
    return merged


@operator("new_zeros", "new_ones", "new_full", "new_empty")
def created(call: OperatorCall) -> Result:
    """A new tensor that takes only its type from the argument."""
    return unlabelled(*call.shapes()[0])


@operator("index", reorder=reorder.anew)
def looked_up(call: OperatorCall) -> Result:
    """Rows that a tensor of numbers picks along one dimension, such as the relative position bias of each head."""
    node, indices = call.args["self"], call.args["indices"]
    value = call.value("self")
    dims = [dim for dim, each in enumerate(indices) if each is not None]
    if len(dims) != 1 or dims[0] in value.varying:
        return call.refuse(PICKED) if value.labelled else unlabelled(*call.shapes()[0])
    labels, (dim,) = value.labels, dims
    # A table of positions and heads is sliced along its heads.
    source = call.source(node)
    large = [each for each, size in enumerate(value.shape) if size > 1 and each != dim]
    if source is not None and not value.labelled and len(large) == 1:
        atoms = call.facts.atoms(source.name, large[0], (value.shape[large[0]],))
        labels = atoms.reshape([-1 if each == large[0] else 1 for each in range(len(value.shape))])
    numbers = call.values[indices[dim]]
    assert isinstance(numbers, Value)
    if numbers.labelled or indices[dim].meta["val"].dtype is torch.bool:
        return call.refuse(PICKED)
    return call.output(labels.reshape((*labels.shape[:dim], *[1] * len(numbers.shape), *labels.shape[dim + 1 :])))


@operator("gather", reorder=reorder.anew)
def gathered(call: OperatorCall) -> Result:
    """Positions that numbers pick along one dimension, the same for all channels, such as those of merged tokens."""
    value, dim = call.value("self"), int(call.args["dim"]) % len(call.value("self").shape)
    _, numbers = call.before_expand(call.args["index"])
    sizes = (1,) * (len(value.shape) - len(numbers.shape)) + numbers.shape
    whole = all(call.shapes()[0][0][each] == value.shape[each] and sizes[each] == 1 for each in value.varying)
    if dim in value.varying or numbers.varying or not whole:
        return call.refuse(PICKED)
    call.freeze([numbers], PICKED)
    return call.output(value.labels)
