"""Find the batch norms that the refit may change: those that compute what their module says, from their own tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from torch import Tensor
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm

from cfp_cli.graph.trace import TracedGraph, arguments_of, operator_of

_TENSORS = ("running_mean", "running_var", "weight", "bias")


class Readers:
    """Which operator calls of a traced network read its parameters and buffers."""

    def __init__(self, traced: TracedGraph) -> None:
        """Count the readers of each tensor, whatever names it has."""
        self._traced = traced
        self._counts: Counter[int] = Counter()
        for node in traced.nodes:
            tensor = self.tensor(node)
            if tensor is not None:
                self._counts[id(tensor)] += len(node.users)

    def tensor(self, node: object) -> Tensor | None:
        """The parameter or buffer that a node reads; None for other nodes."""
        source = self._traced.sources.get(node.name) if isinstance(node, Node) else None
        if source is None or source.kind not in ("parameter", "buffer"):
            return None
        model = self._traced.model
        return model.get_parameter(source.name) if source.kind == "parameter" else model.get_buffer(source.name)

    def own(self, node: object) -> Tensor | None:
        """The parameter or buffer that a node reads, if a single operator call reads it; else None."""
        tensor = self.tensor(node)
        return tensor if tensor is not None and self._counts[id(tensor)] == 1 else None


def changeable_norms(traced: TracedGraph) -> Mapping[Node, str]:
    """Full names of the modules of the batch norms that may be changed, by operator call.

    The call normalises by running statistics, with the module's own tensors as they are and its `eps`, and no other
    call reads these tensors. A subclass of batch norm that computes its weight, for example, is left out.
    """
    readers = Readers(traced)
    names = {
        id(module.running_mean): (name, module)
        for name, module in traced.model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    found: dict[Node, str] = {}
    for node in traced.nodes:
        if node.op != "call_function" or operator_of(node) != "batch_norm":
            continue
        given = arguments_of(node)
        name, module = names.get(id(readers.tensor(given["running_mean"])), ("", None))
        if module is None or given["training"] or given["eps"] != module.eps:
            continue
        if all(_is_own(readers, given[each], getattr(module, each)) for each in _TENSORS):
            found[node] = name
    return found


def _is_own(readers: Readers, node: object, tensor: Tensor | None) -> bool:
    """Whether a call takes a tensor of its module as it is, and no other call does; or whether both have none."""
    return node is None if tensor is None else readers.own(node) is tensor
