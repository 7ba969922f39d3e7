"""Weights that a network computes from a parameter in each pass, such as those of weight standardisation.

Weight standardisation and weight norm compute each row of the weight, which makes one output channel, from the same row
of a parameter. Rebuilding slices that parameter. The rows of the smaller network are computed from the kept inputs, so
the replay computes them from the kept inputs too. The trial rebuild finds code that computes rows from other rows.

Spectral norm computes each row from all rows, so its channels are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.trace import Source, TracedGraph, arguments_of, operator_of, shape_of

_LAYERS = ("conv1d", "conv2d", "conv3d", "linear")


@dataclass(frozen=True)
class ComputedWeight:
    """A weight that is computed from one parameter of its shape.

    Attributes:
        parameter: that parameter.
        placeholder: the node that reads it.
        nodes: the calls that compute the weight, in order; the last one returns it.
        vectors: further parameters and buffers that it is computed from, by name, with the dimension that has an entry
            for each output channel.
        sliceable: whether the other tensors that it is computed from have a value for all rows, or one for each row.
        by_row: whether each row is computed without the others.
    """

    parameter: Source
    placeholder: Node
    nodes: tuple[Node, ...]
    vectors: tuple[tuple[str, int], ...]
    sliceable: bool
    by_row: bool


def computed_weights(traced: TracedGraph) -> dict[Node, ComputedWeight]:
    """The weights of convolutions and linear layers that are computed from one parameter, by the node of the weight."""
    found: dict[Node, ComputedWeight] = {}
    for layer in traced.nodes:
        if layer.op != "call_function" or operator_of(layer) not in _LAYERS:
            continue
        weight = arguments_of(layer)["weight"]
        if isinstance(weight, Node) and weight.op == "call_function" and weight not in found:
            computed = _computed(traced, weight, layer)
            if computed is not None:
                found[weight] = computed
    return found


def _computed(traced: TracedGraph, weight: Node, layer: Node) -> ComputedWeight | None:
    pending, seen = [weight], {weight}
    while pending:
        for read in pending.pop().all_input_nodes:
            if read not in seen:
                seen.add(read)
                pending.append(read)
    nodes = tuple(node for node in traced.nodes if node in seen and node.op == "call_function")
    if len(nodes) + sum(node.name in traced.sources for node in seen) < len(seen):
        return None
    if any(user not in seen and not (node is weight and user is layer) for node in nodes for user in node.users):
        return None
    shape = shape_of(weight)
    rows: list[tuple[Source, Node]] = []
    vectors: list[tuple[str, int]] = []
    sliceable = True
    for node in seen - set(nodes):
        source, size = traced.sources[node.name], shape_of(node)
        large = [dim for dim, length in enumerate(size) if length > 1]
        if not large:
            continue
        if source.kind not in ("parameter", "buffer"):
            return None
        if size == shape and len(large) > 1:
            rows.append((source, node))
        elif len(large) == 1 and size[large[0]] == shape[0]:
            vectors.append((source.name, large[0]))
        else:
            sliceable = False
    by_row = not any(_reduces_rows(node, shape[0]) for node in nodes)
    return ComputedWeight(*rows[0], nodes, tuple(sorted(vectors)), sliceable, by_row) if len(rows) == 1 else None


def _reduces_rows(node: Node, rows: int) -> bool:
    """Whether a call on a way to a weight leaves no dimension for its rows, such as the largest value of all rows."""
    return rows > 1 and isinstance(node.meta.get("val"), Tensor) and rows not in shape_of(node)
