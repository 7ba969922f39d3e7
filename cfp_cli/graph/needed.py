"""Which parameters the outputs of a network depend on."""

from __future__ import annotations

from torch.fx import Node

from cfp_cli.graph.trace import TracedGraph


def unneeded_parameters(traced: TracedGraph) -> dict[str, int]:
    """Parameters that no output depends on, such as those of heads that only training uses, with their sizes.

    Args:
        traced: the network in evaluation mode.
    """
    # What an operator changes in place may be read through another view of the same memory.
    pending = [*traced.outputs, *(node for node in traced.nodes if _changes_memory(node))]
    needed = set(pending)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    names = {traced.sources[node.name].name for node in needed if node.name in traced.sources}
    return {name: each.numel() for name, each in traced.model.named_parameters() if name not in names}


def _changes_memory(node: Node) -> bool:
    # Calls without a schema, such as those that pick one of several results, change nothing.
    return bool(node.op == "call_function" and getattr(getattr(node.target, "_schema", None), "is_mutable", False))
