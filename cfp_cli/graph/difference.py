"""Find the first layer in which a rebuilt network differs from its replay, while both run side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.functional import multi_head_attention_forward
from torch.overrides import TorchFunctionMode

from cfp_cli.execution.differ import differ
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.execution.outputs import all_tensors_of, is_compared
from cfp_cli.foundation.failures import exhausted
from cfp_cli.graph.channel_graph import ChannelGraph
from cfp_cli.graph.operators import OPERATORS, is_layer
from cfp_cli.graph.replay import Replay
from cfp_cli.graph.selection import Selection
from cfp_cli.graph.trace import arguments_of, operator_of
from cfp_cli.models.forward_pass import run_network

NETWORK = "forward"
LAYERS = {function: name for name, entry in OPERATORS.items() for function in entry.functions}


@dataclass(frozen=True)
class Difference:
    """Where a rebuilt network first differs from its replay.

    Attributes:
        name: the channel set that the differing layer makes, or one that it reads; `forward` where no set can be named.
        sets: all sets that the layer makes and reads.
    """

    name: str
    sets: tuple[str, ...]


def first_difference(rebuilt: nn.Module, selection: Selection, x: Tensor) -> Difference | None:
    """The first layer in which a rebuilt network differs from the replay of its original; None where none does.

    It compares the outputs of every convolution and linear layer, and those of the network.

    Args:
        rebuilt: the rebuilt network.
        selection: the kept units of the original.
        x: images float32 [N, C, H, W] at the traced input size.
    """
    graph = selection.graph
    with evaluating(graph.traced.model), evaluating(rebuilt), full_precision(), torch.no_grad():
        side = _SideBySide(Replay(selection), x)
        try:
            with side:
                # A network may change its input in place, and the replay still reads the images.
                returned = all_tensors_of(run_network(rebuilt, x.clone()))
        except _Found:
            return side.found
        except Exception as error:
            if exhausted(error):
                raise
            # It cannot run: name the layer that would have been next.
            return _difference_at(graph, side.advance())
        if side.advance() is not None:
            return _difference_at(graph, None)
        given = [value for value in returned if is_compared(value)]
        others = [value for value in returned if not is_compared(value)]
        traced = graph.traced
        if (len(given), len(others)) != (len(traced.outputs), len(traced.uncompared)):
            return _difference_at(graph, None)
        for node, value in zip(traced.outputs, given, strict=True):
            if node in side.outputs and differ(side.outputs[node], value):
                return _difference_at(graph, node)
        for node, value in zip(traced.uncompared, others, strict=True):
            # Integers may differ by rounding, as those of `argmax`, but there are as many.
            if node in side.outputs and side.outputs[node].shape != value.shape:
                return _difference_at(graph, node)
    return None


class _Found(Exception):  # noqa: N818
    """A layer differs."""


class _SideBySide(TorchFunctionMode):
    """Runs the replay on to its next layer whenever the rebuilt network has computed one, and compares the two."""

    def __init__(self, replay: Replay, x: Tensor) -> None:
        super().__init__()
        self.replay = replay
        self.values = replay.values(x)
        self.returned = {*replay.graph.traced.outputs, *replay.graph.traced.uncompared}
        self.found: Difference | None = None
        self.outputs: dict[Node, Tensor] = {}
        self.value: Any = None

    def advance(self) -> Node | None:
        """Run the replay to its next layer; None at its end."""
        for node, value in self.values:
            if node in self.returned:
                self.outputs[node] = value
            if is_layer(node):
                self.value = value
                return node
        return None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute a call; compare its value where it is a layer."""
        value = func(*args, **(kwargs or {}))
        if func is multi_head_attention_forward:
            # Its layers run inside of one call, so only the last of them can be compared.
            node = self.advance()
            while node is not None and not self._weight(node).endswith("out_proj.weight"):
                node = self.advance()
            self._compare(node, "linear", value[0])
        elif func in LAYERS:
            self._compare(self.advance(), LAYERS[func], value)
        if self.found is not None:
            raise _Found
        return value

    def _compare(self, node: Node | None, name: str, value: Tensor) -> None:
        """Compare the value of a layer of the rebuilt network, called `name`, with the next layer of the replay."""
        if node is None:
            self.found = _difference_at(self.replay.graph, None)
        elif operator_of(node) != name:
            self.found = _difference_at(self.replay.graph, node)
        else:
            expected = self.replay.kept_part(node, self.value)
            if expected is not None and expected.numel() == value.numel() and name == "linear":
                value = value.reshape(expected.shape)
            if expected is not None and differ(expected, value):
                self.found = _difference_at(self.replay.graph, node)
        self.value = None

    def _weight(self, node: Node) -> str:
        """Name of the weight of a layer; empty if it is computed."""
        weight = arguments_of(node).get("weight")
        source = self.replay.graph.traced.sources.get(weight.name) if isinstance(weight, Node) else None
        return source.name if source is not None else ""


def _difference_at(graph: ChannelGraph, node: Node | None) -> Difference:
    """The difference at a layer, or at none."""
    names: dict[str, None] = {}
    for source in () if node is None else (node, *node.all_input_nodes):
        for units in graph.labels.get(source, []):
            owners = np.searchsorted(graph.offsets, np.unique(units[units >= 0]), "right") - 1
            names.update(dict.fromkeys(graph.sets[int(index)].name for index in owners))
    return Difference(next(iter(names), NETWORK), tuple(names))
