"""Export `nn.MultiheadAttention` without its attention weights where nothing reads them.

With `need_weights=True`, its default, it computes products of [images * heads, ...], in which heads and images share a
dimension. Without, it calls `scaled_dot_product_attention`, whose heads have a dimension of their own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch.fx import Graph
from torch.nn import functional

_forward: Any = functional.multi_head_attention_forward
# Positional arguments up to `need_weights`, which `nn.MultiheadAttention` passes by name.
_BEFORE = 15


@contextmanager
def separate_attention_weights() -> Generator[None]:
    """Run an export inside in which each attention computes outputs and weights apart; unread nodes are left out."""
    before = functional.multi_head_attention_forward
    functional.multi_head_attention_forward = _apart
    try:
        yield
    finally:
        functional.multi_head_attention_forward = before


def erase_unread_attention(graph: Graph) -> None:
    """Remove the calls of attention modules that nothing reads: outputs computed beside weights, or weights."""
    for node in reversed(graph.nodes):
        stack = node.meta.get("nn_module_stack") or {}
        inside = bool(stack) and "MultiheadAttention" in str(list(stack.values())[-1][1])
        if node.op == "call_function" and inside and not node.users:
            graph.erase_node(node)


def _apart(*args: Any, need_weights: bool = True, **options: Any) -> Any:
    if not need_weights or len(args) > _BEFORE:
        return _forward(*args, **({} if len(args) > _BEFORE else {"need_weights": need_weights}), **options)
    # The weights come first: the comparison of layers goes on from the output layer of the attention.
    weights = _forward(*args, need_weights=True, **options)[1]
    return _forward(*args, need_weights=False, **options)[0], weights
