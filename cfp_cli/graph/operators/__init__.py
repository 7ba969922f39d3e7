"""The operator table: one entry an operator. An operator without an entry freezes the channels that it reads."""

from __future__ import annotations

from cfp_cli.graph.operators import attention, contraction, movement, norms, pointwise, reduction, spatial
from cfp_cli.graph.operators.operator import (
    BATCH,
    OPERATORS,
    Operator,
    OperatorCall,
    Result,
    entry_of,
    is_layer,
    operator,
)

__all__ = [
    "OPERATORS",
    "Operator",
    "OperatorCall",
    "Result",
    "attention",
    "contraction",
    "entry_of",
    "is_layer",
    "label",
    "movement",
    "norms",
    "operator",
    "pointwise",
    "reduction",
    "spatial",
]

# These return a size, not channels. Code that goes on to hard-code the size fails the trial rebuild.
SIZES = frozenset(["sym_size", "sym_numel", "sym_stride"])


def label(call: OperatorCall) -> Result:
    """The labels of an operator call's results, by the operator's entry."""
    if call.operator in SIZES:
        return []
    entry = entry_of(call.node)
    if any(value.on_batch for _, value in call.tensors()) and (entry is None or not entry.merges_batch):
        return call.refuse(BATCH)
    return entry.label(call) if entry is not None else call.refuse()
