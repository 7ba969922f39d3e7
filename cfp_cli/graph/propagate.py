"""Follow the channels through a traced network, operator by operator."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch.fx import Node

from cfp_cli.graph.computed import computed_weights
from cfp_cli.graph.labels import Facts, Reason, Value, along_only, unlabelled
from cfp_cli.graph.operators import OperatorCall, Result, entry_of, label
from cfp_cli.graph.trace import Source, TracedGraph, is_dynamic, shape_of

LOGITS: Reason = ("", "output", "logits")
OUTPUTS: Reason = ("", "output", "output of the network")


@dataclass(frozen=True)
class Propagation:
    """The result of following the channels.

    Attributes:
        values: labels of every value, by node.
        facts: the facts about atoms.
        masked: by node, the names of the arguments through which it reads channels.
        mixing: nodes that compute over channels.
        producing: nodes that make new channels.
    """

    values: dict[Node, Result]
    facts: Facts
    masked: dict[Node, tuple[str, ...]]
    mixing: frozenset[Node]
    producing: frozenset[Node]


def propagate(traced: TracedGraph) -> Propagation:
    """Follow the channels of a traced network; those of its outputs are frozen."""
    facts = Facts(computed=computed_weights(traced))
    inside = {node for weight in facts.computed.values() for node in weight.nodes}
    values: dict[Node, Result] = {}
    masked: dict[Node, tuple[str, ...]] = {}
    mixing: set[Node] = set()
    producing: set[Node] = set()
    for node in traced.nodes:
        if node.op == "placeholder":
            values[node] = _input_labels(node, traced.sources[node.name], facts)
        elif node in inside:
            # The layer that reads the weight labels the parameter that it is computed from.
            values[node] = _without_labels(OperatorCall(node, values, facts, traced.sources))
        elif node.op == "call_function":
            call = OperatorCall(node, values, facts, traced.sources)
            before = len(facts.producers)
            values[node] = label(call)
            if len(facts.producers) > before:
                producing.add(node)
            else:
                values[node] = _with_lanes(call, values[node])
            if call.masked:
                masked[node] = call.masked
            if call.mixes:
                mixing.add(node)
    reason = LOGITS if traced.logits_shape else OUTPUTS
    for node in (*traced.outputs, *traced.uncompared):
        value = values[node]
        assert isinstance(value, Value)
        facts.freeze(value.labels, reason)
        source = traced.sources.get(node.name)
        for (name, _), atoms in facts.dims.items():
            if source is not None and source.name == name:
                facts.freeze(atoms, reason)
    return Propagation(values, facts, masked, frozenset(mixing), frozenset(producing))


def _without_labels(call: OperatorCall) -> Result:
    results = [unlabelled(*shape) for shape in call.shapes()]
    return results[0] if len(results) == 1 else results


def _with_lanes(call: OperatorCall, result: Result) -> Result:
    """Carry lanes through operators that leave channels where they are, or repeat each of them in a row."""
    source = next((value for _, value in call.tensors() if value.lanes), None)
    entry = entry_of(call.node)
    if source is None or not isinstance(result, Value) or result.lanes or (entry is not None and entry.moves_channels):
        return result
    times, rest = divmod(result.labels.size, source.lanes[0].size)
    if rest or times == 0:
        return result
    lanes = tuple(np.repeat(lane.reshape(-1), times).reshape(result.labels.shape) for lane in source.lanes)
    return replace(result, lanes=lanes)


def _input_labels(node: Node, source: Source, facts: Facts) -> Value:
    """Labels of an input: atoms for parameters and buffers that are vectors, along whichever dimension."""
    shape = shape_of(node)
    large = [dim for dim, size in enumerate(shape) if size > 1]
    # Vectors of integers are numbers of rows or positions, not of channels.
    if source.kind in ("parameter", "buffer") and len(large) == 1 and node.meta["val"].is_floating_point():
        (dim,) = large
        atoms = facts.atoms(source.name, dim, (shape[dim],))
        return Value(shape, atoms.reshape(along_only(shape[dim], len(shape), dim)), is_dynamic(node.meta["val"]))
    return unlabelled(shape, is_dynamic(node.meta["val"]))
