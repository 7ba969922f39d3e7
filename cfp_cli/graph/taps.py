"""Where feature maps are scored: as the next convolution or linear layer reads them, before pooling to one pixel."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch.fx import Node

from cfp_cli.graph.channel_graph import Tap
from cfp_cli.graph.labels import Value
from cfp_cli.graph.operators import entry_of
from cfp_cli.graph.propagate import Propagation
from cfp_cli.graph.trace import BATCH, TracedGraph, arguments_of, module_of


def find_taps(
    traced: TracedGraph,
    propagation: Propagation,
    set_of: NDArray[np.int64],
    unit_of: NDArray[np.int64],
    prunable: list[bool],
) -> list[Tap]:
    """The taps that show prunable sets, in network order.

    Args:
        traced: the network.
        propagation: the result of following its channels.
        set_of: set of every atom, -1 for none.
        unit_of: unit of every atom in its set.
        prunable: whether each set may be pruned.
    """
    by_name = {node.name: node for node in traced.nodes}
    order = {node: index for index, node in enumerate(traced.nodes)}
    chosen: dict[Node, int] = {}
    for _, _, reader in propagation.facts.consumers:
        read = arguments_of(by_name[reader])["input"]
        if isinstance(read, Node):
            node, dim = _last_maps(propagation, read)
            if dim is not None:
                chosen.setdefault(node, dim)
    shown = [index for node, dim in chosen.items() for index in _sets(propagation, node, dim, set_of)]
    for index in set(np.flatnonzero(prunable).tolist()) - set(shown):
        found = _last_value(traced, propagation, set_of, int(index))
        if found is not None:
            chosen.setdefault(*found)
    taps: list[Tap] = []
    names: list[str] = []
    for node in sorted(chosen, key=order.__getitem__):
        dim = chosen[node]
        if not any(prunable[index] for index in _sets(propagation, node, dim, set_of)):
            continue
        value = propagation.values[node]
        assert isinstance(value, Value)
        atoms = value.along(dim)
        units = np.where(atoms[:, None] >= 0, np.stack([set_of[atoms], unit_of[atoms]], 1), -1)
        name = module_of(node) or node.name
        names.append(name)
        count = names.count(name)
        taps.append(
            Tap(node.name, name if count == 1 else f"{name}#{count}", len(atoms), units, dim, *_rows(propagation, node))
        )
    return taps


def _rows(propagation: Propagation, node: Node) -> tuple[int, int]:
    """How the first dimension of a value contains the batch: runs of all images, and rows of each image in a run."""
    value = propagation.values[node]
    assert isinstance(value, Value)
    times = value.shape[0] // BATCH
    before = propagation.values.get(node.args[0]) if node.args and isinstance(node.args[0], Node) else None
    # A reshape may have merged the batch with dimensions before it.
    outer = 1
    if times > 1 and isinstance(before, Value) and any(before.dynamic):
        outer = int(np.prod(before.shape[: before.dynamic.index(True)]))
    return (outer, times // outer) if times % outer == 0 else (1, times)


def _channel_dim(value: object) -> int | None:
    """The single dimension of a value that its channels lie on; None where there is no such dimension."""
    if not isinstance(value, Value) or not value.labelled or not value.dynamic[0]:
        return None
    if len(value.varying) == 1:
        return value.varying[0]
    return 1 if not value.varying and len(value.shape) > 1 and value.shape[1] == 1 else None


def _last_maps(propagation: Propagation, read: Node) -> tuple[Node, int | None]:
    """The last maps with more than one pixel before a value that a layer reads; the value itself if there are none."""
    node = read
    while True:
        value = propagation.values.get(node)
        dim = _channel_dim(value)
        if isinstance(value, Value) and dim is not None and _pixels(value, dim) > 1 and len(value.shape) >= 4:
            return node, dim
        previous = node.args[0] if node.args else None
        entry = entry_of(node) if node.op == "call_function" else None
        if not isinstance(previous, Node) or entry is None or not entry.transparent(node):
            return read, _channel_dim(propagation.values.get(read))
        node = previous


def _pixels(value: Value, dim: int) -> int:
    return int(np.prod([size for axis, size in enumerate(value.shape) if axis not in (0, dim)]))


def _sets(propagation: Propagation, node: Node, dim: int, set_of: NDArray[np.int64]) -> list[int]:
    value = propagation.values[node]
    assert isinstance(value, Value)
    atoms = value.along(dim)
    return [int(index) for index in np.unique(set_of[atoms[atoms >= 0]]) if index >= 0]


def _last_value(
    traced: TracedGraph, propagation: Propagation, set_of: NDArray[np.int64], index: int
) -> tuple[Node, int] | None:
    """The last value that shows a set which no layer reads."""
    for node in reversed(traced.nodes):
        dim = _channel_dim(propagation.values.get(node))
        if node.op == "call_function" and dim is not None and index in _sets(propagation, node, dim, set_of):
            return node, dim
    return None
