"""Run the original network as if its dropped channels did not exist: what a rebuilt network must compute.

Dropped channels are zeroed wherever a convolution or linear layer reads them. Operators that compute over channels,
such as a layer norm or a softmax, run on the kept channels alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from cfp_cli.graph.computed import ComputedWeight
from cfp_cli.graph.constraints import Units
from cfp_cli.graph.selection import Selection
from cfp_cli.graph.slicing import sliced
from cfp_cli.graph.trace import run_node


class Replay:
    """Runs the traced original without the dropped channels.

    Args:
        selection: the kept units.
    """

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.graph = selection.graph

    def values(self, x: Tensor) -> Iterator[tuple[Node, Any]]:
        """Operator calls and their values in full size; nothing uses the values of dropped channels."""
        return self.graph.traced.values(x, self._execute)

    def kept_part(self, node: Node, value: Any) -> Tensor | None:
        """The part of a node's value that a rebuilt network has; None where its channels lie on several dimensions."""
        if not isinstance(value, Tensor) or len(self.graph.labels[node]) != 1:
            return None
        (units,) = self.graph.labels[node]
        order = self.selection.orders.get(node, [None])[0]
        varying = [dim for dim, size in enumerate(units.shape) if size > 1]
        if len(varying) > 1:
            return None
        if order is not None and len(varying) == 1:
            return value.index_select(varying[0], torch.from_numpy(order.reshape(-1)).to(value.device))
        return self._without_dropped(value, units)

    def _keeps(self, units: Units) -> NDArray[np.bool_]:
        return self.selection.mask[units]

    def _execute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node in self.graph.mixing:
            return self._run_on_kept(node, args, kwargs)
        computed = self.graph.computed.get(node)
        groups = self.selection.slices.get((computed.parameter.name, 1)) if computed is not None else None
        if computed is not None and groups is not None:
            return self._weight(computed, groups)
        names = self.graph.masked.get(node)
        if names is not None:
            args, kwargs = self._zeroed(node, args, kwargs, names)
        return run_node(node, args, kwargs)

    def _weight(self, computed: ComputedWeight, groups: list[NDArray[np.int64]]) -> Tensor:
        """A weight in full size, computed from the kept inputs of its parameter and zero at the others."""
        traced = self.graph.traced
        parameter: Tensor = traced.source(computed.placeholder, torch.empty(0))
        values: dict[Node, Any] = {computed.placeholder: sliced(parameter, 1, groups, computed.parameter.name)}
        for node in computed.nodes:
            for source in node.all_input_nodes:
                if source not in values:
                    values[source] = traced.source(source, torch.empty(0))
            args, kwargs = map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = run_node(node, args, kwargs)
        weight: Tensor = values[computed.nodes[-1]]
        full = weight.new_zeros(parameter.shape)
        for part, kept, indices in zip(full.chunk(len(groups)), weight.chunk(len(groups)), groups, strict=True):
            part.index_copy_(1, torch.from_numpy(indices).to(weight.device), kept)
        return full

    def _zeroed(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with dropped channels zeroed in those that are named."""
        by_index, by_name = list(args), dict(kwargs)
        schema = node.target._schema  # type: ignore[union-attr]
        for index, argument in enumerate(schema.arguments):
            if argument.name not in names:
                continue
            named = argument.name in by_name
            source = node.kwargs[argument.name] if named else node.args[index]
            assert isinstance(source, Node)
            value = by_name[argument.name] if named else by_index[index]
            keeps = self._keeps(self.graph.labels[source][0])
            if not keeps.all():
                value = torch.where(torch.from_numpy(keeps).to(value.device), value, value.new_zeros(()))
            if named:
                by_name[argument.name] = value
            else:
                by_index[index] = value
        return tuple(by_index), by_name

    def _without_dropped(self, value: Tensor, units: Units) -> Tensor:
        """A value without its dropped channels, along the one dimension that they lie on."""
        for dim, size in enumerate(units.shape):
            if size > 1:
                kept = np.flatnonzero(self._keeps(units.reshape(-1)))
                return value.index_select(dim, torch.from_numpy(kept).to(value.device))
        return value

    def _run_on_kept(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on kept channels alone and return its result in full size, zero at dropped channels."""

        def kept_part(source: Any, value: Any) -> Any:
            if not isinstance(source, Node) or not isinstance(value, Tensor):
                return value
            origin = self.graph.traced.sources.get(source.name)
            dims = self.graph.parameters.get(origin.name, {}) if origin is not None else {}
            for dim, units in dims.items():
                kept = np.flatnonzero(self._keeps(units))
                value = value.index_select(dim, torch.from_numpy(kept).to(value.device))
            return value if origin is not None else self._without_dropped(value, self.graph.labels[source][0])

        by_index = [kept_part(source, value) for source, value in zip(node.args, args, strict=True)]
        by_name = {key: kept_part(node.kwargs[key], value) for key, value in kwargs.items()}
        schema = node.target._schema  # type: ignore[union-attr]
        for index, argument in enumerate(schema.arguments):
            if argument.name == "normalized_shape" and index < len(by_index):
                by_index[index] = list(by_index[0].shape[by_index[0].dim() - len(by_index[index]) :])
        result = run_node(node, tuple(by_index), by_name)
        results = result if isinstance(result, tuple | list) else [result]
        full = [self._in_full_size(each, units) for each, units in zip(results, self.graph.labels[node], strict=True)]
        return full if isinstance(result, tuple | list) else full[0]

    def _in_full_size(self, value: Tensor, units: Units) -> Tensor:
        for dim, size in enumerate(units.shape):
            if size > 1:
                kept = torch.from_numpy(np.flatnonzero(self._keeps(units.reshape(-1)))).to(value.device)
                shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
                return value.new_zeros(shape).index_copy(dim, kept, value)
        return value
