"""Folds the batch norms of an exported program into the layers before them."""

from __future__ import annotations

from operator import attrgetter

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from cfp_cli.graph.folding import BATCH_NORM, fold


def fold_batch_norms(module: GraphModule) -> int:
    """Fold what can be folded, in place.

    Args:
        module: an exported program's module, in which weights are attributes.

    Returns:
        How many batch norms are gone.
    """
    count = 0
    for norm in module.graph.find_nodes(op="call_function", target=BATCH_NORM):
        found = fold(norm, lambda node: _constant(module, node))
        if found is None:
            continue
        layer, parts = found.layer, {"weight": found.weight, "bias": found.bias}
        names = {part: f"folded_{count}_{part}" for part in parts}
        for part, value in parts.items():
            module.register_parameter(names[part], nn.Parameter(value, requires_grad=False))
        with module.graph.inserting_before(layer):
            nodes = [module.graph.get_attr(name) for name in names.values()]
        layer.args = (layer.args[0], *nodes, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        module.graph.erase_node(norm)
        count += 1
    _drop_unused(module)
    module.recompile()
    return count


def _constant(module: GraphModule, node: Node) -> Tensor | None:
    """The weight that a node reads, or None where there is none or it is computed."""
    if node.op != "get_attr":
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
