"""The original network as if its dropped channels did not exist: what a rebuilt network must compute.

Dropped channels are zeroed wherever a convolution or linear layer reads them. Operators that compute over channels,
such as a layer norm or a softmax, see the kept channels only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.channel_set import ChannelGraph, Kept, Units
from cfp_cli.graph.order import orders
from cfp_cli.graph.trace import call


class Reference:
    """Runs the traced original with dropped channels taken out of every computation.

    Args:
        graph: channel sets of the network.
        kept: units that stay, by set name.
    """

    def __init__(self, graph: ChannelGraph, kept: Kept) -> None:
        self.graph = graph
        self.mask = graph.mask(kept)
        self.orders = orders(graph, self.mask)

    def steps(self, x: Tensor) -> Iterator[tuple[Node, Any]]:
        """Operator calls and their values, in full size; dropped channels hold values that nothing uses."""
        return self.graph.traced.steps(x, self._execute)

    def kept_part(self, node: Node, value: Any) -> Tensor | None:
        """The part of a node's value that a rebuilt network has; None where its channels lie on several dimensions."""
        if not isinstance(value, Tensor) or len(self.graph.labels[node]) != 1:
            return None
        (units,) = self.graph.labels[node]
        order = self.orders.get(node, [None])[0]
        varying = [dim for dim, size in enumerate(units.shape) if size > 1]
        if len(varying) > 1:
            return None
        if order is not None and len(varying) == 1:
            return value.index_select(varying[0], torch.from_numpy(order.reshape(-1)).to(value.device))
        return self._compressed(value, units)

    def _stays(self, units: Units) -> NDArray[np.bool_]:
        return self.mask[units]

    def _execute(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node in self.graph.mixing:
            return self._without_dropped(node, args, kwargs)
        names = self.graph.masked.get(node)
        if names is not None:
            args, kwargs = self._masked(node, args, kwargs, names)
        return call(node, args, kwargs)

    def _masked(
        self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any], names: tuple[str, ...]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        placed = list(args)
        named = dict(kwargs)
        schema = node.target._schema  # type: ignore[union-attr]
        for place, argument in enumerate(schema.arguments):
            if argument.name not in names:
                continue
            source = node.kwargs[argument.name] if argument.name in node.kwargs else node.args[place]
            assert isinstance(source, Node)
            value = named[argument.name] if argument.name in named else placed[place]
            stays = self._stays(self.graph.labels[source][0])
            if not stays.all():
                value = torch.where(torch.from_numpy(stays).to(value.device), value, value.new_zeros(()))
            if argument.name in named:
                named[argument.name] = value
            else:
                placed[place] = value
        return tuple(placed), named

    def _compressed(self, value: Tensor, units: Units) -> Tensor:
        """Leave out dropped channels along the one dimension they lie on."""
        for dim, size in enumerate(units.shape):
            if size > 1:
                kept = np.flatnonzero(self._stays(units.reshape(-1)))
                return value.index_select(dim, torch.from_numpy(kept).to(value.device))
        return value

    def _without_dropped(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an operator on kept channels only and put its result back in full size, zero at dropped channels."""

        def compressed(source: Any, value: Any) -> Any:
            if not isinstance(source, Node) or not isinstance(value, Tensor):
                return value
            origin = self.graph.traced.sources.get(source.name)
            dims = self.graph.parameters.get(origin.name, {}) if origin is not None else {}
            for dim, units in dims.items():
                kept = np.flatnonzero(self._stays(units))
                value = value.index_select(dim, torch.from_numpy(kept).to(value.device))
            return value if origin is not None else self._compressed(value, self.graph.labels[source][0])

        inner = [compressed(source, value) for source, value in zip(node.args, args, strict=True)]
        named = {key: compressed(node.kwargs[key], value) for key, value in kwargs.items()}
        schema = node.target._schema  # type: ignore[union-attr]
        for place, argument in enumerate(schema.arguments):
            if argument.name == "normalized_shape" and place < len(inner):
                inner[place] = list(inner[0].shape[inner[0].dim() - len(inner[place]) :])
        result = call(node, tuple(inner), named)
        results = result if isinstance(result, tuple | list) else [result]
        full = [
            self._spread(each, units, node, place)
            for place, (each, units) in enumerate(zip(results, self.graph.labels[node], strict=True))
        ]
        return full if isinstance(result, tuple | list) else full[0]

    def _spread(self, value: Tensor, units: Units, node: Node, place: int) -> Tensor:
        for dim, size in enumerate(units.shape):
            if size > 1:
                kept = torch.from_numpy(np.flatnonzero(self._stays(units.reshape(-1)))).to(value.device)
                shape = (*value.shape[:dim], size, *value.shape[dim + 1 :])
                return value.new_zeros(shape).index_copy(dim, kept, value)
        return value
