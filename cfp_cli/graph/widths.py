"""Channel counts that modules keep in attributes of their own, such as `self.width`, and use to split or reshape.

A rebuilt network must have the new counts in these attributes. The trace shows which sizes of values change at the
calls of a module. An integer attribute of that module with the old size gets the new one. Whether that was right is
decided by the trial rebuild and the proof.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from cfp_cli.graph.selection import Selection
from cfp_cli.graph.trace import TracedGraph, module_of, operator_of, shape_of_value
from cfp_cli.models.attributes import is_counts, is_foreign, keeps_widths

_NORMS = (torch.ops.aten.instance_norm.default,)

_CUTS = ("split", "split_with_sizes", "chunk", "slice", "narrow")
_SIZED = ("split", "split_with_sizes", "view", "reshape", "unflatten", "expand")

Attributes = dict[str, dict[str, Any]]


def new_widths(model: nn.Module, selection: Selection) -> Attributes:
    """New values of attributes that hold channel counts, by module and attribute.

    Only attributes of modules outside of `torch.nn` and of norms without tensors are considered, and only sizes with a
    single new size.

    Args:
        model: the original network.
        selection: the kept units.
    """
    found: Attributes = {}
    changes = _size_changes(selection)
    for path, module in model.named_modules():
        # The code of other modules may not use these attributes, so they change only where a trial needs it.
        if not keeps_widths(module) or (is_foreign(module) and not selection.graph.widths):
            continue
        change = changes.get(path) or _of_caller(path, changes)
        sizes = {old: next(iter(new)) for old, new in change.sizes.items() if len(new) == 1}
        for name, value in vars(module).items():
            if not is_counts(value):
                continue
            # A list holds channel counts only if a call takes all of it as sizes, as a split does.
            if isinstance(value, list | tuple) and tuple(value) not in change.lists:
                continue
            new = _replaced(value, sizes)
            if new is not value and new != value:
                found.setdefault(path, {})[name] = new
    return found


def keeps_part_sizes(traced: TracedGraph) -> bool:
    """Whether a module cuts into equal parts and has an integer attribute of their size.

    Such a module may have another forward pass that cuts at this size. Ultralytics uses one in exports.
    """
    modules = dict(traced.model.named_modules())
    for node in traced.nodes:
        module = modules.get(module_of(node))
        if node.op != "call_function" or operator_of(node) != "chunk" or module is None:
            continue
        sizes = {size for part in node.meta["val"] for size in shape_of_value(part)[1:]}
        if any(type(value) is int and value in sizes for value in vars(module).values()):
            return True
    return False


def changed_attributes(model: nn.Module, rebuilt: nn.Module, *, foreign: bool) -> Attributes:
    """Integer attributes that a rebuild changed, by module and attribute.

    Args:
        model: the original network.
        rebuilt: the rebuilt network.
        foreign: also those of modules outside of `torch.nn`.
    """
    found: Attributes = {}
    rebuilt_modules = dict(rebuilt.named_modules())
    for path, module in model.named_modules():
        other = rebuilt_modules.get(path)
        if other is None or not keeps_widths(module) or (is_foreign(module) and not foreign):
            continue
        for name, value in vars(module).items():
            new = vars(other).get(name)
            if is_counts(value) and is_counts(new) and new != value:
                found.setdefault(path, {})[name] = new
    return found


@dataclass
class _Change:
    """Sizes that the calls of a module take as numbers.

    Attributes:
        sizes: each with its new sizes.
        lists: lists of sizes that a call takes, such as those of a split.
    """

    sizes: dict[int, set[int]] = field(default_factory=dict)
    lists: set[tuple[int, ...]] = field(default_factory=set)


def _of_caller(path: str, changes: dict[str, _Change]) -> _Change:
    """The changes of the module around one that is not called itself: only its methods or attributes are used."""
    while path:
        path = path.rpartition(".")[0]
        if path in changes:
            return changes[path]
    return _Change()


def _size_changes(selection: Selection) -> dict[str, _Change]:
    """The sizes that the calls of each module take as numbers, by module."""
    graph = selection.graph
    changes: dict[str, _Change] = {}
    for node in graph.traced.nodes:
        if node.op != "call_function":
            continue
        own = changes.setdefault(module_of(node), _Change())
        if node in graph.producing:
            continue
        numbers = {each for each in tree_leaves((node.args, node.kwargs)) if type(each) is int}
        if node.target in _NORMS:
            numbers.add(shape_of_value(node.all_input_nodes[0].meta.get("val"))[1])
        if operator_of(node) in _CUTS:
            # Code may cut at a part of the size that it keeps, such as its half.
            numbers |= {old for source in node.all_input_nodes for old, _ in _sizes(selection, source)}
        if operator_of(node) == "chunk":
            numbers |= {old for old, _ in _sizes(selection, node)}
        if operator_of(node) in _SIZED:
            lists: list[Any] = [tuple(each) for each in node.args if isinstance(each, list | tuple)]
            own.lists |= {each for each in lists if is_counts(each)}
        for each in (node, *node.all_input_nodes) if numbers else ():
            for old, new in _sizes(selection, each):
                if old in numbers:
                    own.sizes.setdefault(old, set()).add(new)
    return changes


def _sizes(selection: Selection, node: Any) -> Iterator[tuple[int, int]]:
    """Old and new sizes of the dimensions of a node's values that channels lie on."""
    value = node.meta.get("val")
    values = list(value) if isinstance(value, tuple | list) else [value]
    for each, units in zip(values, selection.graph.labels.get(node, []), strict=False):
        varying = [dim for dim, size in enumerate(units.shape) if size > 1]
        kept = selection.mask[units]
        for dim in varying:
            counts = kept.sum(axis=dim)
            largest, size = int(counts.max()), shape_of_value(each)[dim]
            # Of several dimensions, the one whose lines are all equal or empty shrinks.
            if np.isin(counts, (0, largest)).all() and (len(varying) == 1 or largest < size):
                yield size, largest


def _replaced(value: Any, sizes: Mapping[int, int]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(sizes.get(each, each) for each in value)
    return sizes.get(value, value)
