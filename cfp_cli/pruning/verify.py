"""The proof of a rebuild: the original with dropped channels zeroed at every consumer computes the same logits."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.errors import ProofError
from cfp_cli.graph.channel_set import ChannelGraph
from cfp_cli.graph.difference import first_difference
from cfp_cli.graph.replay import Reference

TOLERANCE = 1e-4


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
    if model is not graph.traced.model:
        raise ProofError("the proof needs the network that its channel graph was derived from; pass that one")
    with evaluating(model), evaluating(rebuilt), full_precision(), torch.no_grad():
        expected = reference_logits(graph, kept, x)
        try:
            given = rebuilt(x)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0][:160]
            raise ProofError(
                f"the rebuilt network cannot run ({type(error).__name__}: {first}); {_blame(rebuilt, graph, kept, x)}"
            ) from error
        scale = float(expected.abs().max())
        difference = float((given - expected).abs().max()) if given.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE * scale:
            raise ProofError(
                f"the rebuilt network differs from the channel-zeroed original by {difference:.3g} "
                f"(largest logit {scale:.3g}); {_blame(rebuilt, graph, kept, x)}"
            )
    return difference


def reference_logits(graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]], x: Tensor) -> Tensor:
    """Logits of the original with dropped channels zeroed at every consumer's input."""
    logits = None
    for node, value in Reference(graph, kept).steps(x):
        if node is graph.traced.output:
            logits = value
    assert isinstance(logits, Tensor)
    return logits


def _blame(rebuilt: nn.Module, graph: ChannelGraph, kept: Mapping[str, NDArray[np.int64]], x: Tensor) -> str:
    found = first_difference(rebuilt, graph, kept, x)
    if found is None:
        return "no layer differs by itself; this is rounding that adds up, try it in float64"
    return f"the first set that differs is {found.name}; leave it whole with --keep"
