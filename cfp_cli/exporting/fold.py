"""Batch norms of a network in eval mode, folded into the convolution or linear layer before them.

With running mean m, variance v, scale g and shift b, batch norm makes of w * x + c the value (w * x + c - m) f + b with
f = g / sqrt(v + eps): again a convolution, of weight w f and bias (c - m) f + b.
"""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

_LINEAR = torch.ops.aten.linear.default
_BEFORE = (torch.ops.aten.conv2d.default, torch.ops.aten.conv1d.default, _LINEAR)
_BATCH_NORM = torch.ops.aten.batch_norm.default


def fold_batch_norms(module: GraphModule) -> int:
    """Fold what can be folded, in place.

    Args:
        module: an exported program's module, in which weights are attributes.

    Returns:
        How many batch norms are gone.
    """
    folded = 0
    for norm in module.graph.find_nodes(op="call_function", target=_BATCH_NORM):
        layer = norm.args[0]
        if not isinstance(layer, Node) or layer.target not in _BEFORE or len(layer.users) > 1 or norm.args[5]:
            continue
        # After a linear layer of several places, channels are the last dimension and batch norm takes the second.
        if layer.target is _LINEAR and layer.meta["val"].dim() != 2:
            continue
        weight, bias = (
            _constant(module, layer.args[1]),
            _constant(module, layer.args[2] if len(layer.args) > 2 else None),
        )
        scale, shift, mean, variance = (_constant(module, argument) for argument in norm.args[1:5])
        if weight is None or mean is None or variance is None:
            continue
        with torch.no_grad():
            factor = torch.rsqrt(variance.double() + norm.args[7])
            factor = factor if scale is None else factor * scale
            offset = ((0 if bias is None else bias) - mean.double()) * factor + (0 if shift is None else shift)
            parts = {
                "weight": (weight * factor.view(-1, *[1] * (weight.dim() - 1))).to(weight.dtype),
                "bias": offset.to(weight.dtype),
            }
        names = {part: f"folded_{folded}_{part}" for part in parts}
        for part, value in parts.items():
            module.register_parameter(names[part], nn.Parameter(value, requires_grad=False))
        with module.graph.inserting_before(layer):
            nodes = [module.graph.get_attr(name) for name in names.values()]
        layer.args = (layer.args[0], *nodes, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
        folded += 1
    _drop_unused(module)
    module.recompile()
    return folded


def _constant(module: GraphModule, node: object) -> Tensor | None:
    """The weight that a node reads, or None where there is none or it is computed."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value = attrgetter(str(node.target))(module)
    return value if isinstance(value, Tensor) else None


def _drop_unused(module: GraphModule) -> None:
    """Take out weights that nothing reads any longer."""
    for node in reversed(module.graph.find_nodes(op="get_attr", sort=True)):
        if not node.users:
            module.graph.erase_node(node)
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    for name, _ in (*list(module.named_parameters()), *list(module.named_buffers())):
        if name not in read:
            path, _, leaf = name.rpartition(".")
            delattr(module.get_submodule(path), leaf)
