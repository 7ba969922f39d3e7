"""Compare a rebuilt network with its channel-zeroed original, layer by layer, while both run side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.graph.channel_set import ChannelGraph, Kept
from cfp_cli.graph.replay import Reference
from cfp_cli.graph.trace import operator_of

# Between layers float32 rounding may add up before the logits bring it down again.
TOLERANCE = 1e-3
WHOLE = "forward"
LAYERS = {
    torch.conv1d: "conv1d",
    torch.conv2d: "conv2d",
    torch.conv3d: "conv3d",
    torch.conv_transpose1d: "conv_transpose1d",
    torch.conv_transpose2d: "conv_transpose2d",
    torch.conv_transpose3d: "conv_transpose3d",
    functional.linear: "linear",
}
_NAMES = frozenset(LAYERS.values())


@dataclass(frozen=True)
class Difference:
    """Where a rebuilt network first differs from its original.

    Attributes:
        name: the channel set that the differing layer makes, or one it reads; `forward` where no set can be named.
        sets: all sets that the layer makes and reads.
    """

    name: str
    sets: tuple[str, ...]


def first_difference(rebuilt: nn.Module, graph: ChannelGraph, kept: Kept, x: Tensor) -> Difference | None:
    """The first layer that differs between the original and its rebuild; None where all are equal.

    What every convolution and linear layer gives is compared, and the logits.

    Args:
        rebuilt: the rebuilt network.
        graph: channel sets of the original.
        kept: units that stay, by set name.
        x: images float32 [N, 3, H, W] at the traced input size.
    """
    with evaluating(graph.traced.model), evaluating(rebuilt), full_precision(), torch.no_grad():
        side = _SideBySide(Reference(graph, kept), x)
        try:
            with side:
                logits = rebuilt(x)
        except _Found:
            return side.found
        except Exception:
            # It cannot run: the layer that was about to be computed is the one to name.
            node = side.advance()
            return _at(graph, node)
        if side.advance() is not None:
            return _at(graph, None)
        if side.logits is None or differ(side.logits, logits):
            return _at(graph, graph.traced.output)
    return None


class _Found(Exception):  # noqa: N818
    """A layer differs."""


class _SideBySide(TorchFunctionMode):
    """Runs the reference on to its next layer whenever the watched network has computed one, and compares the two."""

    def __init__(self, reference: Reference, x: Tensor) -> None:
        super().__init__()
        self.reference = reference
        self.steps = reference.steps(x)
        self.found: Difference | None = None
        self.logits: Tensor | None = None
        self.value: Any = None

    def advance(self) -> Node | None:
        """Run the reference to its next layer; None at its end."""
        for node, value in self.steps:
            if node is self.reference.graph.traced.output:
                self.logits = value
            if operator_of(node) in _NAMES:
                self.value = value
                return node
        return None

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute a call; compare its value where it is a layer."""
        value = func(*args, **(kwargs or {}))
        name = LAYERS.get(func)
        if name is None:
            return value
        node = self.advance()
        if node is None:
            self.found = _at(self.reference.graph, None)
        elif operator_of(node) != name:
            self.found = _at(self.reference.graph, node)
        else:
            expected = self.reference.kept_part(node, self.value)
            if expected is not None and differ(expected, value):
                self.found = _at(self.reference.graph, node)
        self.value = None
        if self.found is not None:
            raise _Found
        return value


def differ(expected: Tensor, given: Any) -> bool:
    """Whether a value differs in shape, or by more than rounding; where both overflow they are equal."""
    if not isinstance(given, Tensor) or given.shape != expected.shape:
        return True
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(given)):
        return True
    if not bool(finite.any()):
        return False
    if not bool(finite.all()):
        given, expected = given[finite], expected[finite]
    # The first layers' values are by far the largest memory of a trial, so nothing is copied that need not be.
    largest = max(float(expected.max()), -float(expected.min()))
    distance = float((given - expected).abs_().max())
    return distance > TOLERANCE * largest + torch.finfo(expected.dtype).tiny


def _at(graph: ChannelGraph, node: Node | None) -> Difference:
    """The difference at a layer, or at none."""
    names: dict[str, None] = {}
    for source in () if node is None else (node, *node.all_input_nodes):
        for units in graph.labels.get(source, []):
            owners = np.searchsorted(graph.offsets, np.unique(units[units >= 0]), "right") - 1
            names.update(dict.fromkeys(graph.sets[int(index)].name for index in owners))
    return Difference(next(iter(names), WHOLE), tuple(names))
