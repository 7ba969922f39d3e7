"""One operator call as a rule sees it, and the table of rules by operator."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from cfp_cli.graph.labels import Labels, Ledger, Reason, Value, unlabelled
from cfp_cli.graph.trace import Source, is_dynamic, module_of, operator_of, shape_of_value

NO_RULE = "no rule for this operator"

Result = Value | list[Value]
Rule = Callable[["Site"], Result]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators, named without overload and in-place mark."""

    def register(function: Rule) -> Rule:
        for name in operators:
            RULES[name] = function
        return function

    return register


@dataclass
class Site:
    """An operator call: its arguments by schema name, their labels, and what is known about the output.

    Attributes:
        node: the call.
        values: labels of all values so far, by node.
        ledger: where facts about atoms go.
        sources: where placeholders come from, by node name.
        args: arguments by their schema names; tensors are nodes.
        masked: names of arguments that must be zeroed at dropped channels to see what a rebuilt network sees.
        mixes: whether the operator computes over channels, so that dropped ones must be absent and not merely zero.
    """

    node: Node
    values: dict[Node, Result]
    ledger: Ledger
    sources: dict[str, Source]
    args: dict[str, Any] = field(init=False)
    masked: tuple[str, ...] = ()
    mixes: bool = False

    def __post_init__(self) -> None:
        """Name the arguments."""
        schema = getattr(self.node.target, "_schema", None)
        if schema is None:
            self.args = dict(enumerate(self.node.args))  # type: ignore[arg-type]
            return
        self.args = {
            argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()
        }
        self.args.update(dict(zip((argument.name for argument in schema.arguments), self.node.args, strict=False)))
        self.args.update(self.node.kwargs)

    @property
    def module(self) -> str:
        """Full name of the module that calls the operator."""
        return module_of(self.node)

    @property
    def operator(self) -> str:
        """Name of the operator."""
        return operator_of(self.node)

    def reason(self, text: str) -> Reason:
        """A reason to leave something alone, at this call."""
        return self.module, self.operator, text

    def value(self, name: str) -> Value:
        """Labels of the tensor argument `name`."""
        value = self.values[self.args[name]]
        assert isinstance(value, Value)
        return value

    def tensors(self) -> list[tuple[Node, Value]]:
        """All tensor arguments, those in lists too."""
        found: list[tuple[Node, Value]] = []
        for node in self.node.all_input_nodes:
            value = self.values.get(node)
            found.extend((node, each) for each in (value if isinstance(value, list) else [value]) if each is not None)
        return found

    def parameter(self, name: str) -> Source | None:
        """The parameter or buffer that argument `name` is; None for computed tensors."""
        return self.source(self.args.get(name))

    def source(self, node: Any) -> Source | None:
        """The parameter or buffer that a node is; None for computed tensors."""
        found = self.sources.get(node.name) if isinstance(node, Node) else None
        return found if found is not None and found.kind in ("parameter", "buffer") else None

    def freeze(self, values: Iterable[Value], text: str) -> None:
        """Freeze all atoms of some values."""
        for value in values:
            self.ledger.freeze(value.labels, self.reason(text))

    def shapes(self) -> list[tuple[tuple[int, ...], tuple[bool, ...]]]:
        """Shape and dynamic dimensions of every tensor that the call gives."""
        result = self.node.meta.get("val")
        values = [result] if isinstance(result, Tensor) else list(result) if isinstance(result, tuple | list) else []
        return [(shape_of_value(v, self.node.name), is_dynamic(v)) for v in values if isinstance(v, Tensor)]

    def out(self, labels: Labels) -> Value:
        """The one output, with labels; they may not follow the batch."""
        ((shape, dynamic),) = self.shapes()[:1]
        return self.made(labels, shape, dynamic)

    def made(self, labels: Labels, shape: tuple[int, ...], dynamic: tuple[bool, ...]) -> Value:
        """A value with labels, frozen where they follow the batch."""
        assert labels.ndim == len(shape), (self.node, labels.shape, shape)
        if any(labels.shape[dim] > 1 and dynamic[dim] for dim in range(len(shape))):
            self.ledger.freeze(labels, self.reason("channels are mixed with the batch"))
            return unlabelled(shape, dynamic)
        return Value(shape, labels, dynamic)

    def refuse(self, text: str = NO_RULE) -> Result:
        """Freeze everything the operator reads and leave its outputs without labels."""
        self.freeze((value for _, value in self.tensors()), text)
        made = [unlabelled(shape, dynamic) for shape, dynamic in self.shapes()]
        return made[0] if isinstance(self.node.meta.get("val"), Tensor) else made

    def tie(self, name: str, labels: Labels) -> None:
        """Tie a vector argument, such as a bias or a running mean, to channel labels [C]."""
        node = self.args.get(name)
        if node is None:
            return
        source = self.source(node)
        if source is not None:
            vector = self.ledger.of(source.name, 0, (len(labels),))
        else:
            value = self.values[node]
            assert isinstance(value, Value)
            vector = np.broadcast_to(value.labels.reshape(-1), labels.shape)
        self.ledger.unite(vector, labels, self.reason(f"its {name} cannot be sliced with the channels"))
