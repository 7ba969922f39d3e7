"""The proof of a rebuild: the original with dropped channels zeroed at every consumer computes the same logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Node

from cfp_cli.errors import GraphError, ProofError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.graph.reference import Reference
from cfp_cli.graph.trace import trace

TOLERANCE = 1e-4
# Between layers float32 rounding may add up before the logits bring it down again.
LAYER_TOLERANCE = 1e-3


def verify(
    model: nn.Module, rebuilt: nn.Module, graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]], x: Tensor
) -> float:
    """Prove that a rebuilt network computes what the channel-zeroed original computes, in evaluation mode.

    Args:
        model: the original that `graph` was derived from.
        rebuilt: what `rebuild` made of it.
        graph: channel sets of the original.
        kept: units that stay, by set name.
        x: images float32 [N, 3, H, W] at the traced input size.

    Returns:
        The largest absolute difference of the logits.

    Raises:
        ProofError: it exceeds 1e-4 of the largest logit, or the rebuilt network cannot run; the message names the first
            set whose rebuild differs.
    """
    assert model is graph.traced.model
    with _evaluating(model), _evaluating(rebuilt), _full_precision(), torch.no_grad():
        expected = reference_logits(graph, kept, x)
        try:
            given = rebuilt(x)
        except Exception as error:
            where = first_difference(rebuilt, graph, kept, x)
            raise ProofError(
                f"the rebuilt network cannot run ({type(error).__name__}: {_line(error)}); {_blame(where)}"
            ) from error
        scale = float(expected.abs().max())
        failure = float((given - expected).abs().max()) if given.shape == expected.shape else float("inf")
        if not failure <= TOLERANCE * scale:
            where = first_difference(rebuilt, graph, kept, x)
            raise ProofError(
                f"the rebuilt network differs from the channel-zeroed original by {failure:.3g} "
                f"(largest logit {scale:.3g}); {_blame(where)}"
            )
    return failure


def reference_logits(graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]], x: Tensor) -> Tensor:
    """Logits of the original with dropped channels zeroed at every consumer's input."""
    logits = None
    for node, value in Reference(graph, kept).steps(x):
        if node is graph.traced.output:
            logits = value
    assert isinstance(logits, Tensor)
    return logits


def first_difference(
    rebuilt: nn.Module, graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]], x: Tensor
) -> str | None:
    """Name of the first channel set whose maps differ between the original and its rebuild; None where all are equal.

    Gives `forward` where the rebuilt network does not make the same operator calls.
    """
    try:
        traced = trace(rebuilt, x)
    except GraphError:
        return "forward"
    reference = Reference(graph, kept)
    ours, theirs = reference.steps(x), traced.steps(x)
    while True:
        try:
            node, value = next(ours)
        except StopIteration:
            return None
        try:
            other, given = next(theirs)
        except (StopIteration, RuntimeError):
            return _set_of(graph, node)
        if node.target != other.target:
            return _set_of(graph, node)
        expected = reference.kept_part(node, value)
        if expected is not None and _differ(expected, given):
            return _set_of(graph, node)


def _differ(expected: Tensor, given: Any) -> bool:
    if not isinstance(given, Tensor) or given.shape != expected.shape:
        return True
    if not expected.is_floating_point() or expected.numel() == 0:
        return False
    return not float((given - expected).abs().max()) <= LAYER_TOLERANCE * float(expected.abs().max()) + 1e-30


def _set_of(graph: ChannelGraph, node: Node) -> str:
    """The set that a node's value belongs to, or one that it reads."""
    offsets = graph.offsets
    for source in (node, *node.all_input_nodes):
        for units in graph.labels.get(source, []):
            found = units[units >= 0]
            if found.size:
                return graph.sets[int(np.searchsorted(offsets, found.reshape(-1)[0], "right")) - 1].name
    return "forward"


def _blame(name: str | None) -> str:
    return f"the first set that differs is {name}; leave it whole with --keep" if name else "no single set differs"


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:160]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _full_precision() -> Iterator[None]:
    """Convolutions and products in full float32, without the shortened mantissa that some GPUs use."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled, allow_tf32=False):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
