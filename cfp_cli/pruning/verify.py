"""The proof of a rebuild: the original with dropped channels zeroed at every consumer computes the same logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.foundation.errors import ProofError
from cfp_cli.graph import Selection
from cfp_cli.graph.difference import first_difference
from cfp_cli.graph.replay import Replay

TOLERANCE = 1e-4


def verify(model: nn.Module, rebuilt: nn.Module, selection: Selection, x: Tensor) -> float:
    """Prove that a rebuilt network computes what the channel-zeroed original computes, in evaluation mode.

    Args:
        model: the original that the selection's graph was derived from.
        rebuilt: the network that `rebuild` returned.
        selection: the kept units.
        x: images float32 [N, C, H, W] at the traced input size.

    Returns:
        The largest absolute difference of the logits.

    Raises:
        ProofError: the difference exceeds 1e-4 of the largest logit, or the rebuilt network cannot run. The message
            names the first set whose rebuild differs.
    """
    if model is not selection.graph.traced.model:
        raise ProofError("the proof needs the network that its channel graph was derived from; pass that network")
    with evaluating(model), evaluating(rebuilt), full_precision(), torch.no_grad():
        expected = replayed_logits(selection, x)
        try:
            given = rebuilt(x)
        except Exception as error:
            first = (str(error).strip().splitlines() or [""])[0][:160]
            raise ProofError(
                f"the rebuilt network cannot run ({type(error).__name__}: {first}); {_remedy(rebuilt, selection, x)}"
            ) from error
        scale = float(expected.abs().max())
        difference = float((given - expected).abs().max()) if given.shape == expected.shape else float("inf")
        if not difference <= TOLERANCE * scale:
            raise ProofError(
                f"the rebuilt network differs from the channel-zeroed original by {difference:.3g} "
                f"(largest logit {scale:.3g}); {_remedy(rebuilt, selection, x)}"
            )
    return difference


def replayed_logits(selection: Selection, x: Tensor) -> Tensor:
    """Logits of the original with dropped channels zeroed at every consumer's input."""
    logits = None
    for node, value in Replay(selection).values(x):
        if node is selection.graph.traced.output:
            logits = value
    assert isinstance(logits, Tensor)
    return logits


def _remedy(rebuilt: nn.Module, selection: Selection, x: Tensor) -> str:
    found = first_difference(rebuilt, selection, x)
    if found is None:
        return "no single layer differs, so rounding errors add up; try it in float64"
    return f"the first set that differs is {found.name}; keep all its channels with --keep"
