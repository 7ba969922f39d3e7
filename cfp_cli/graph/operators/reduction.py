"""Operators that reduce dimensions: over space, or over channels."""

from __future__ import annotations

import numpy as np

from cfp_cli.graph.labels import Labels
from cfp_cli.graph.operators.operator import OperatorCall, Result, operator, with_one_input
from cfp_cli.graph.trace import operator_of

ORDER = "its result depends on the order of the channels"


@operator(
    "mean",
    "sum",
    "amax",
    "amin",
    "var",
    "std",
    "max",
    "min",
    "logsumexp",
    "linalg_vector_norm",
    "norm",
    "prod",
    "median",
    transparent=with_one_input,
)
def reduction(call: OperatorCall) -> Result:
    """Reduce some dimensions, or all; two-tensor forms of max and min are element by element."""
    if call.operator in ("max", "min") and "other" in call.args:
        from cfp_cli.graph.operators.pointwise import pointwise

        return pointwise(call)
    value = call.tensors()[0][1]
    ndim = len(value.shape)
    given = call.args.get("dim")
    dims = [given] if isinstance(given, int) else list(given) if given else list(range(ndim))
    dims = [int(dim) % ndim for dim in dims]
    labels = value.labels
    over = [dim for dim in dims if dim in value.varying]
    if over:
        if set(over) == set(value.varying):
            # Over all channels: the result has no labels, and must be computed without the dropped channels.
            if _reads_numbers(call):
                return call.refuse(ORDER)
            call.mixes = True
            labels = np.full((1,) * ndim, -1)
        else:
            for dim in over:
                first = labels.take([0], dim)
                call.facts.unite(labels, first, call.reason("channels meet values that belong to none"))
                labels = first
    if not call.args.get("keepdim", False):
        labels = labels.reshape([size for dim, size in enumerate(labels.shape) if dim not in dims])
    made: list[Labels] = [labels for _ in call.shapes()]
    outs = [call.value_of(each, *shape) for each, shape in zip(made, call.shapes(), strict=True)]
    return outs[0] if len(outs) == 1 else outs


def _reads_numbers(call: OperatorCall) -> bool:
    """Whether anything uses the indices that `max`, `min` and `median` return beside the values."""
    results = [user for user in call.node.users if operator_of(user) == "getitem"]
    return any(each.args[1] == 1 and each.users for each in results)


@operator("cumsum", "cumprod", "logcumsumexp", "sort", "argsort", "topk", "argmax", "argmin")
def along_positions(call: OperatorCall) -> Result:
    """Sums and orders along positions: every channel by itself. Along channels, they depend on all of them: refused."""
    value = call.tensors()[0][1]
    ndim, given = len(value.shape), call.args.get("dim", -1)
    if not isinstance(given, int) or given % ndim in value.varying:
        return call.refuse(ORDER)
    labels = value.labels
    if call.operator in ("argmax", "argmin") and not call.args.get("keepdim", False):
        labels = np.squeeze(labels, given % ndim)
    outs = [call.value_of(labels, *shape) for shape in call.shapes()]
    return outs[0] if len(outs) == 1 else outs
