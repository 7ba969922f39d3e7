"""Where feature maps are scored: as the next convolution or linear layer reads them, before pooling to a point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.graph.channel_set import Tap
from cfp_cli.graph.labels import Value
from cfp_cli.graph.propagate import Followed
from cfp_cli.graph.trace import TracedGraph, argument, is_pointwise, module_of, operator_of

# What may lie between a map and the point that a layer reads: reshapes, pooling, and what acts on each element alone.
THROUGH = frozenset(
    [
        *("flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "contiguous", "clone"),
        *("dropout", "feature_dropout", "mean", "amax", "batch_norm", "hardswish", "leaky_relu"),
        *("adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d"),
    ]
)


def find_taps(
    traced: TracedGraph,
    followed: Followed,
    set_of: NDArray[np.int64],
    unit_of: NDArray[np.int64],
    prunable: list[bool],
) -> list[Tap]:
    """The taps that show prunable sets, in network order; non-standard channel dimensions are noted in `traced`."""
    by_name = {node.name: node for node in traced.nodes}
    order = {node: place for place, node in enumerate(traced.nodes)}
    chosen: dict[Node, int] = {}
    for _, _, reader in followed.ledger.consumers:
        read = argument(by_name[reader], "input")
        if isinstance(read, Node):
            node, dim = _walk_back(followed, read)
            if dim is not None:
                chosen.setdefault(node, dim)
    shown = [index for node, dim in chosen.items() for index in _sets(followed, node, dim, set_of)]
    for index in set(np.flatnonzero(prunable).tolist()) - set(shown):
        found = _last_map(traced, followed, set_of, int(index))
        if found is not None:
            chosen.setdefault(*found)
    taps: list[Tap] = []
    names: list[str] = []
    for node in sorted(chosen, key=order.__getitem__):
        dim = chosen[node]
        if not any(prunable[index] for index in _sets(followed, node, dim, set_of)):
            continue
        value = followed.values[node]
        assert isinstance(value, Value)
        atoms = value.along(dim)
        units = np.where(atoms[:, None] >= 0, np.stack([set_of[atoms], unit_of[atoms]], 1), -1)
        name = module_of(node) or node.name
        names.append(name)
        count = names.count(name)
        taps.append(Tap(node.name, name if count == 1 else f"{name}#{count}", len(atoms), units))
        if dim != 1:
            traced.channel_dims[node.name] = dim
    return taps


def _channel_dim(value: object) -> int | None:
    """The one dimension of a value that its channels lie on; None where there is no such."""
    if not isinstance(value, Value) or not value.labelled or not value.dynamic[0]:
        return None
    if len(value.varying) == 1:
        return value.varying[0]
    return 1 if not value.varying and len(value.shape) > 1 and value.shape[1] == 1 else None


def _walk_back(followed: Followed, read: Node) -> tuple[Node, int | None]:
    """From what a layer reads back to the last maps with more than one pixel; itself where there are none."""
    node = read
    while True:
        value = followed.values.get(node)
        dim = _channel_dim(value)
        if isinstance(value, Value) and dim is not None and _pixels(value, dim) > 1 and len(value.shape) >= 4:
            return node, dim
        previous = node.args[0] if node.args else None
        if not isinstance(previous, Node) or not _passes(node):
            return read, _channel_dim(followed.values.get(read))
        node = previous


def _pixels(value: Value, dim: int) -> int:
    return int(np.prod([size for place, size in enumerate(value.shape) if place not in (0, dim)]))


def _passes(node: Node) -> bool:
    return operator_of(node) in THROUGH or (is_pointwise(node) and len(node.all_input_nodes) == 1)


def _sets(followed: Followed, node: Node, dim: int, set_of: NDArray[np.int64]) -> list[int]:
    value = followed.values[node]
    assert isinstance(value, Value)
    atoms = value.along(dim)
    return [int(index) for index in np.unique(set_of[atoms[atoms >= 0]]) if index >= 0]


def _last_map(
    traced: TracedGraph, followed: Followed, set_of: NDArray[np.int64], index: int
) -> tuple[Node, int] | None:
    """The last value that shows a set which no layer reads."""
    for node in reversed(traced.nodes):
        dim = _channel_dim(followed.values.get(node))
        if node.op == "call_function" and dim is not None and index in _sets(followed, node, dim, set_of):
            return node, dim
    return None
