"""Follow the channels through a traced network, operator by operator."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from torch.fx import Node

from cfp_cli.graph.labels import Ledger, Reason, Value, along_only, unlabelled
from cfp_cli.graph.rules import apply
from cfp_cli.graph.rules.site import Result, Site
from cfp_cli.graph.trace import Source, TracedGraph, is_dynamic, operator_of, shape_of

# Operators that move channels say themselves where lanes go.
MOVES = frozenset(
    [
        *("cat", "stack", "permute", "transpose", "view", "reshape", "flatten", "channel_shuffle", "slice"),
        *("chunk", "split", "split_with_sizes", "getitem"),
    ]
)
LOGITS: Reason = ("", "output", "logits")


@dataclass(frozen=True)
class Followed:
    """What following the channels gave.

    Attributes:
        values: labels of every value, by node.
        ledger: the facts about atoms.
        masked: by node, the names of arguments that a consumer of channels reads.
        mixing: nodes that compute over channels.
        made: nodes that make new channels.
    """

    values: dict[Node, Result]
    ledger: Ledger
    masked: dict[Node, tuple[str, ...]]
    mixing: frozenset[Node]
    made: frozenset[Node]


def propagate(traced: TracedGraph) -> Followed:
    """Follow the channels of a traced network; its logits are frozen."""
    ledger = Ledger()
    values: dict[Node, Result] = {}
    masked: dict[Node, tuple[str, ...]] = {}
    mixing: set[Node] = set()
    made: set[Node] = set()
    sources = dict(traced.sources)
    for node in traced.nodes:
        if node.op == "placeholder":
            values[node] = _placed(node, sources[node.name], ledger)
        elif node.op == "call_function":
            site = Site(node, values, ledger, sources)
            before = len(ledger.producers)
            values[node] = apply(site)
            if len(ledger.producers) > before:
                made.add(node)
            else:
                values[node] = _with_lanes(site, values[node])
            if site.masked:
                masked[node] = site.masked
            if site.mixes:
                mixing.add(node)
    logits = values[traced.output]
    assert isinstance(logits, Value)
    ledger.freeze(logits.labels, LOGITS)
    return Followed(values, ledger, masked, frozenset(mixing), frozenset(made))


def _with_lanes(site: Site, result: Result) -> Result:
    """Carry lanes through operators that leave channels where they are, or make several of each in a row."""
    source = next((value for _, value in site.tensors() if value.lanes), None)
    if source is None or not isinstance(result, Value) or result.lanes or operator_of(site.node) in MOVES:
        return result
    times, rest = divmod(result.labels.size, source.lanes[0].size)
    if rest or times == 0:
        return result
    lanes = tuple(np.repeat(lane.reshape(-1), times).reshape(result.labels.shape) for lane in source.lanes)
    return replace(result, lanes=lanes)


def _placed(node: Node, source: Source, ledger: Ledger) -> Value:
    """Labels of an input: atoms for parameters and buffers that are vectors, in whatever direction."""
    shape = shape_of(node)
    large = [dim for dim, size in enumerate(shape) if size > 1]
    if source.kind in ("parameter", "buffer") and len(large) == 1:
        (dim,) = large
        atoms = ledger.of(source.name, dim, (shape[dim],))
        return Value(shape, atoms.reshape(along_only(shape[dim], len(shape), dim)), is_dynamic(node.meta["val"]))
    return unlabelled(shape, is_dynamic(node.meta["val"]))
