"""Batch norms in evaluation mode, folded into the convolution or linear layer before them.

With running mean m, variance v, scale g and shift b, batch norm turns w * x + c into (w * x + c - m) f + b with
f = g / sqrt(v + eps): again a convolution, of weight w f and bias (c - m) f + b.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.trace import TracedGraph, run_node, shape_of

_LINEAR = torch.ops.aten.linear.default
_LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv1d.default, _LINEAR)
BATCH_NORM = torch.ops.aten.batch_norm.default


@dataclass(frozen=True)
class FoldedLayer:
    """A convolution or linear layer that includes the batch norm after it.

    Attributes:
        layer: the layer's operator call.
        weight: weight [C, ...].
        bias: bias [C].
    """

    layer: Node
    weight: Tensor
    bias: Tensor


def fold(norm: Node, constant: Callable[[Node], Tensor | None]) -> FoldedLayer | None:
    """Fold a call of batch norm into the layer before it, in float64.

    Args:
        norm: the call of batch norm.
        constant: the tensor of a node that reads a parameter or buffer; None for a computed value.

    Returns:
        The new layer, or None if the batch norm cannot be folded: another node reads the layer, the statistics are
        those of the batch, or a parameter is computed.
    """
    layer = norm.args[0]
    if not isinstance(layer, Node) or layer.target not in _LAYERS or len(layer.users) > 1 or norm.args[5]:
        return None
    # The channels of a linear layer of several positions are the last dimension, and batch norm uses the second.
    if layer.target is _LINEAR and len(shape_of(layer)) != 2:
        return None
    read = (layer.args[1], layer.args[2] if len(layer.args) > 2 else None, *norm.args[1:5])
    values = [constant(node) if isinstance(node, Node) else None for node in read]
    if any(isinstance(node, Node) and value is None for node, value in zip(read, values, strict=True)):
        return None
    weight, bias, scale, shift, mean, variance = values
    epsilon = norm.args[7]
    if weight is None or mean is None or variance is None or not isinstance(epsilon, float):
        return None
    with torch.no_grad():
        factor = torch.rsqrt(variance.double() + epsilon)
        factor = factor if scale is None else factor * scale
        offset = ((0 if bias is None else bias) - mean.double()) * factor + (0 if shift is None else shift)
        product = weight * factor.view(-1, *[1] * (weight.dim() - 1))
        return FoldedLayer(layer, product.to(weight.dtype), offset.to(weight.dtype))


class FoldedRun:
    """Runs the operator calls of a traced network, with its batch norms folded.

    The values are those of the network up to rounding. Folding saves reading and writing the maps of each batch norm.
    """

    def __init__(self, traced: TracedGraph, shown: Container[str] = ()) -> None:
        """Fold the parameters, as they are now, of every batch norm for which this is possible.

        Args:
            traced: the network.
            shown: names of nodes whose values must stay those of the network.
        """
        self._weights: dict[Node, tuple[Tensor, Tensor]] = {}
        self._norms: set[Node] = set()
        for norm in traced.nodes:
            if norm.op == "call_function" and norm.target is BATCH_NORM:
                found = fold(norm, lambda node: _constant(traced, node))
                if found is not None and found.layer not in traced.outputs and found.layer.name not in shown:
                    self._weights[found.layer] = (found.weight, found.bias)
                    self._norms.add(norm)

    def __call__(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a node's operator."""
        if node in self._norms:
            return args[0]
        if node in self._weights:
            return run_node(node, (args[0], *self._weights[node], *args[3:]), kwargs)
        return run_node(node, args, kwargs)


def _constant(traced: TracedGraph, node: Node) -> Tensor | None:
    """The parameter or buffer that a node reads; None if its value is computed."""
    if node.op != "placeholder":
        return None
    source = traced.sources[node.name]
    if source.kind == "parameter":
        return traced.model.get_parameter(source.name)
    return traced.model.get_buffer(source.name) if source.kind == "buffer" else None
