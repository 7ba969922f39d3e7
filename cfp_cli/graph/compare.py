"""Compare a rebuilt network with its channel-zeroed original, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from cfp_cli.errors import GraphError
from cfp_cli.graph.channel_set import ChannelGraph, Kept
from cfp_cli.graph.reference import Reference
from cfp_cli.graph.trace import TracedGraph, module_of, trace

# Between layers float32 rounding may add up before the logits bring it down again.
TOLERANCE = 1e-3
WHOLE = "forward"


def first_difference(rebuilt: nn.Module, graph: ChannelGraph, kept: Kept, x: Tensor) -> str | None:
    """Name of the first channel set whose values differ between the original and its rebuild; None where all are equal.

    Gives `forward` where no channel set can be named.

    Args:
        rebuilt: the rebuilt network.
        graph: channel sets of the original.
        kept: units that stay, by set name.
        x: images float32 [N, 3, H, W] at the traced input size.
    """
    with evaluating(graph.traced.model), evaluating(rebuilt), torch.no_grad():
        try:
            traced = trace(rebuilt, x)
        except GraphError:
            return _first_broken_module(rebuilt, graph, kept, x[:1])
        return _first_node(traced, graph, kept, x)


def _first_node(traced: TracedGraph, graph: ChannelGraph, kept: Kept, x: Tensor) -> str | None:
    """Run both networks side by side and compare every value."""
    reference = Reference(graph, kept)
    theirs = traced.steps(x)
    for node, value in reference.steps(x):
        try:
            other, given = next(theirs)
        except (StopIteration, RuntimeError):
            return set_of(graph, node)
        if node.target != other.target:
            return set_of(graph, node)
        expected = reference.kept_part(node, value)
        if expected is not None and differ(expected, given):
            return set_of(graph, node)
    return None


def _first_broken_module(rebuilt: nn.Module, graph: ChannelGraph, kept: Kept, x: Tensor) -> str:
    """Run a network that cannot be traced and compare what its layers give until it breaks.

    Only modules whose every call is one operator are compared: those are matched by name and number of call.
    """
    reference = Reference(graph, kept)
    expected: dict[str, list[tuple[Node, Tensor | None]]] = {}
    for node, value in reference.steps(x):
        part = reference.kept_part(node, value)
        expected.setdefault(module_of(node), []).append((node, None if part is None else part.clone()))
    names: dict[nn.Module, str] = {
        module: name
        for name, module in rebuilt.named_modules()
        if isinstance(module, nn.modules.conv._ConvNd | nn.Linear | nn.modules.batchnorm._NormBase)
    }
    found: list[str] = []
    called: dict[str, int] = {}
    entered: list[Node] = []

    def enter(module: nn.Module, _: Any) -> None:
        calls = expected.get(names[module], [])
        if called.get(names[module], 0) < len(calls):
            entered.append(calls[called.get(names[module], 0)][0])

    def leave(module: nn.Module, _: Any, given: Any) -> None:
        name = names[module]
        number = called[name] = called.get(name, 0) + 1
        if number <= len(expected.get(name, [])):
            node, part = expected[name][number - 1]
            if part is not None and differ(part, given):
                found.append(set_of(graph, node))

    handles = [module.register_forward_pre_hook(enter) for module in names]
    handles += [module.register_forward_hook(leave) for module in names]
    try:
        rebuilt(x)
    except Exception:
        found += [set_of(graph, node) for node in entered[-1:]]
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else WHOLE


def differ(expected: Tensor, given: Any) -> bool:
    """Whether a value differs in shape, or by more than rounding; where both overflow they are equal."""
    if not isinstance(given, Tensor) or given.shape != expected.shape:
        return True
    if not expected.is_floating_point() or expected.numel() == 0:
        return False
    finite = torch.isfinite(expected)
    if not torch.equal(finite, torch.isfinite(given)):
        return True
    if not bool(finite.any()):
        return False
    distance = float((given - expected)[finite].abs().max())
    return distance > TOLERANCE * float(expected[finite].abs().max()) + torch.finfo(expected.dtype).tiny


def set_of(graph: ChannelGraph, node: Node) -> str:
    """Name of the channel set that a node's value belongs to, or of one that it reads; `forward` for none."""
    offsets = graph.offsets
    for source in (node, *node.all_input_nodes):
        for units in graph.labels.get(source, []):
            found = units[units >= 0]
            if found.size:
                return graph.sets[int(np.searchsorted(offsets, found.reshape(-1)[0], "right")) - 1].name
    return WHOLE


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The network in evaluation mode for a while."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
