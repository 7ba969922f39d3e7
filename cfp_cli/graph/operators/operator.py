"""The operator table, and one operator call as an entry of the table sees it.

Everything that the channel graph has to know about an operator is in its entry: which labels its results have, how it
reorders kept channels, whether feature maps pass through it unchanged in kind, and whether it is a layer with weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.computed import ComputedWeight
from cfp_cli.graph.labels import Facts, Labels, Reason, Value, unlabelled
from cfp_cli.graph.operators.reorder import Reorder
from cfp_cli.graph.trace import Source, arguments_of, is_dynamic, is_pointwise, module_of, operator_of, shape_of_value

UNKNOWN = "cfp has no entry for this operator"
BATCH = "channels are mixed with the batch"
EXPANDING = ("expand", "expand_as", "broadcast_to")

Result = Value | list[Value]
Label = Callable[["OperatorCall"], Result]


def never(_: Node) -> bool:
    """Feature maps change their kind at this operator."""
    return False


def always(_: Node) -> bool:
    """Feature maps keep their kind at this operator."""
    return True


def with_one_input(node: Node) -> bool:
    """Feature maps keep their kind where the operator reads nothing else."""
    return len(node.all_input_nodes) == 1


@dataclass(frozen=True)
class Operator:
    """An entry of the operator table.

    Attributes:
        label: returns the labels of the results.
        reorder: moves the order of kept channels from the arguments to the results. None: the order stays, or each
            channel is repeated several times in a row.
        moves_channels: whether `label` itself says where lanes go; else lanes stay where they are.
        merges_batch: whether it follows channels on a dimension that they share with the batch.
        transparent: whether the maps behind a call show the same as those before it: pooled, reshaped, or with each
            element changed by itself. A tap may be read before it.
        functions: for a layer with weights, the functions of torch that compute it.
        positions: for a layer with weights, the number of positions that one image multiplies each weight element by,
            times the traced batch size.
    """

    label: Label
    reorder: Reorder | None = None
    moves_channels: bool = False
    merges_batch: bool = False
    transparent: Callable[[Node], bool] = never
    functions: tuple[Callable[..., Any], ...] = ()
    positions: Callable[[Node], int] | None = None


OPERATORS: dict[str, Operator] = {}


def operator(
    *names: str,
    reorder: Reorder | None = None,
    moves_channels: bool = False,
    merges_batch: bool = False,
    transparent: Callable[[Node], bool] = never,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    positions: Callable[[Node], int] | None = None,
) -> Callable[[Label], Label]:
    """Enter a labelling function into the operator table.

    Args:
        names: operators, without overload and in-place mark: `relu`, or `namespace.name` outside of PyTorch.
        reorder: see `Operator`, as are the following.
        moves_channels: see `Operator`.
        merges_batch: see `Operator`.
        transparent: see `Operator`.
        functions: for layers, the function of torch by operator name.
        positions: see `Operator`.
    """

    def enter(label: Label) -> Label:
        for name in names:
            layer = (functions[name],) if functions and name in functions else ()
            OPERATORS[name] = Operator(label, reorder, moves_channels, merges_batch, transparent, layer, positions)
        return label

    return enter


def entry_of(node: Node) -> Operator | None:
    """The entry of a node's operator; operators that PyTorch tags as pointwise share one. None where there is none."""
    found = OPERATORS.get(operator_of(node))
    return OPERATORS["pointwise"] if found is None and is_pointwise(node) else found


def is_layer(node: Node) -> bool:
    """Whether a node computes a convolution or a linear layer."""
    found = OPERATORS.get(operator_of(node)) if node.op == "call_function" else None
    return found is not None and found.positions is not None


@dataclass
class OperatorCall:
    """An operator call: its arguments by schema name, their labels, and what is known about the results.

    Attributes:
        node: the call.
        values: labels of all values so far, by node.
        facts: where facts about atoms are recorded.
        sources: where placeholders come from, by node name.
        args: arguments by their schema names; tensors are nodes.
        masked: names of the arguments through which the call reads channels. The replay zeroes dropped channels there.
        mixes: whether the operator computes over channels. The replay then runs it on the kept channels alone.
    """

    node: Node
    values: dict[Node, Result]
    facts: Facts
    sources: Mapping[str, Source]
    args: dict[str, Any] = field(init=False)
    masked: tuple[str, ...] = ()
    mixes: bool = False

    def __post_init__(self) -> None:
        """Name the arguments."""
        self.args = arguments_of(self.node)

    @property
    def module(self) -> str:
        """Full name of the module that calls the operator."""
        return module_of(self.node)

    @property
    def operator(self) -> str:
        """Name of the operator."""
        return operator_of(self.node)

    def reason(self, text: str) -> Reason:
        """A reason to freeze channels at this call."""
        return self.module, self.operator, text

    def value(self, name: str) -> Value:
        """Labels of the tensor argument `name`."""
        value = self.values[self.args[name]]
        assert isinstance(value, Value)
        return value

    def tensors(self) -> list[tuple[Node, Value]]:
        """All tensor arguments, including those in lists."""
        found: list[tuple[Node, Value]] = []
        for node in self.node.all_input_nodes:
            value = self.values.get(node)
            found.extend((node, each) for each in (value if isinstance(value, list) else [value]) if each is not None)
        return found

    def parameter(self, name: str) -> Source | None:
        """The parameter or buffer that argument `name` is, or that it is computed from as a weight; else None."""
        computed = self.computed(name)
        return computed.parameter if computed is not None else self.source(self.args.get(name))

    def computed(self, name: str) -> ComputedWeight | None:
        """How the argument `name` is computed from a parameter, if it is a weight of that kind."""
        node = self.args.get(name)
        return self.facts.computed.get(node) if isinstance(node, Node) else None

    def before_expand(self, node: Node) -> tuple[Node, Value]:
        """The value of a node before it was expanded, if its labels do not vary; broadcasting expands it anyway."""
        while node.op == "call_function" and operator_of(node) in EXPANDING and isinstance(node.args[0], Node):
            before = self.values[node.args[0]]
            if not isinstance(before, Value) or before.varying:
                break
            node = node.args[0]
        value = self.values[node]
        assert isinstance(value, Value)
        return node, value

    def source(self, node: Any) -> Source | None:
        """The parameter or buffer that a node is; None for computed tensors."""
        found = self.sources.get(node.name) if isinstance(node, Node) else None
        return found if found is not None and found.kind in ("parameter", "buffer") else None

    def freeze(self, values: Iterable[Value], text: str) -> None:
        """Freeze all atoms of some values."""
        for value in values:
            self.facts.freeze(value.labels, self.reason(text))

    def shapes(self) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
        """Shape and dynamic dimensions of every tensor that the call returns."""
        result = self.node.meta.get("val")
        values = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, tuple | list) else []
        return [(shape_of_value(v, self.node.name), is_dynamic(v)) for v in values if isinstance(v, Tensor)]

    def output(self, labels: Labels) -> Value:
        """The single result, with labels; they may not vary along the batch."""
        ((shape, dynamic),) = self.shapes()[:1]
        return self.value_of(labels, shape, dynamic)

    def value_of(self, labels: Labels, shape: tuple[int, ...], dynamic: tuple[bool, ...]) -> Value:
        """A value with labels; frozen where they vary along the batch, unless the operator merges both."""
        assert labels.ndim == len(shape), (self.node, labels.shape, shape)
        value = Value(shape, labels, dynamic)
        entry = entry_of(self.node)
        if value.on_batch and not (entry is not None and entry.merges_batch):
            self.facts.freeze(labels, self.reason(BATCH))
            return unlabelled(shape, dynamic)
        return value

    def together(self, labels: Labels, dims: Iterable[int]) -> Labels:
        """Keep or drop all channels along some dimensions together; these dimensions of the labels get size 1."""
        for dim in dims:
            first = labels.take([0], dim)
            self.facts.unite(labels, first, self.reason("channels meet values that belong to none"))
            labels = first
        return labels

    def refuse(self, text: str = UNKNOWN) -> Result:
        """Freeze everything that the operator reads, and return results without labels."""
        self.freeze((value for _, value in self.tensors()), text)
        results = [unlabelled(shape, dynamic) for shape, dynamic in self.shapes()]
        return results[0] if isinstance(self.node.meta.get("val"), Tensor) else results

    def tie_rows(self, name: str, labels: Labels) -> None:
        """Slice the vectors that the weight `name` is computed from with its output channels `labels` [C]."""
        computed = self.computed(name)
        for vector, dim in computed.vectors if computed is not None else ():
            atoms = self.facts.atoms(vector, dim, (len(labels),))
            self.facts.unite(atoms, labels, self.reason(f"its {name} cannot be sliced with the channels"))

    def tie(self, name: str, labels: Labels) -> None:
        """Slice a vector argument, such as a bias or a running mean, with the channels `labels` [C]."""
        node = self.args.get(name)
        if node is None:
            return
        source = self.source(node)
        if source is not None:
            vector = self.facts.atoms(source.name, 0, (len(labels),))
        else:
            value = self.values[node]
            assert isinstance(value, Value)
            vector = np.broadcast_to(value.labels.reshape(-1), labels.shape)
        self.facts.unite(vector, labels, self.reason(f"its {name} cannot be sliced with the channels"))
