"""The proof of a rebuild: the original with dropped channels zeroed at every consumer computes the same outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cfp_cli.execution.differ import differ
from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import ProofError
from cfp_cli.foundation.failures import first_line
from cfp_cli.graph import Selection
from cfp_cli.graph.difference import first_difference
from cfp_cli.graph.replay import Replay
from cfp_cli.models.forward_pass import run_network

TOLERANCE = 1e-4
_BATCH_REMEDY = "its code treats a batch of one image in another way: let it use the same code for every batch size"


def verify(model: nn.Module, rebuilt: nn.Module, selection: Selection, x: Tensor) -> float:
    """Prove that a rebuilt network computes what the channel-zeroed original computes, in evaluation mode.

    Args:
        model: the original that the selection's graph was derived from.
        rebuilt: the network that `rebuild` returned.
        selection: the kept units.
        x: images float32 [N, C, H, W] at the traced input size.

    Returns:
        The largest absolute difference of an output, such as the logits.

    Raises:
        ProofError: the difference exceeds 1e-4 of the largest value of an output, or the rebuilt network cannot run.
            The message names the first set whose rebuild differs.
    """
    if model is not selection.graph.traced.model:
        raise ProofError("the proof needs the network that its channel graph was derived from; pass that network")
    with evaluating(model), evaluating(rebuilt), full_precision(), torch.no_grad():
        expected = replayed_outputs(selection, x)
        try:
            given = tensors_of(run_network(rebuilt, x.clone()))
        except Exception as error:
            raise ProofError(
                f"the rebuilt network cannot run ({first_line(error, 160)}); {_remedy(rebuilt, selection, x)}"
            ) from error
        if len(given) != len(expected):
            raise ProofError(
                f"the rebuilt network returns {len(given)} outputs, not {len(expected)}; "
                f"{_remedy(rebuilt, selection, x)}"
            )
        largest = 0.0
        for number, (value, other) in enumerate(zip(given, expected, strict=True)):
            if other is None:
                continue
            scale = float(other.abs().max()) if other.numel() else 0.0
            difference = _distance(value, other)
            if not difference <= TOLERANCE * scale:
                which = f" in output {number}" if len(expected) > 1 else ""
                raise ProofError(
                    f"the rebuilt network differs from the channel-zeroed original by {difference:.3g}{which} "
                    f"(largest value {scale:.3g}); {_remedy(rebuilt, selection, x)}"
                )
            largest = max(largest, difference)
        _require_single_image(model, rebuilt, given, x)
    return largest


def replayed_outputs(selection: Selection, x: Tensor) -> list[Tensor | None]:
    """Outputs of the original with dropped channels zeroed at every consumer's input; None for inputs it returns."""
    outputs = selection.graph.traced.outputs
    found = {node: value for node, value in Replay(selection).values(x) if node in outputs}
    return [found.get(node) for node in outputs]


def _require_single_image(model: nn.Module, rebuilt: nn.Module, given: list[Tensor], x: Tensor) -> None:
    """Check one image alone: code that branches on the size of the batch was not traced for a single image.

    A network whose original depends on the batch cannot be checked in this way.
    """
    if len(x) < 2:
        return
    expected = tensors_of(run_network(model, x.clone()))
    alone = tensors_of(run_network(model, x[:1].clone()))
    if not _same_alone(alone, expected):
        return
    try:
        value = tensors_of(run_network(rebuilt, x[:1].clone()))
    except Exception as error:
        raise ProofError(
            f"the rebuilt network cannot run on a single image ({first_line(error, 160)}); {_BATCH_REMEDY}"
        ) from error
    if not _same_alone(value, given):
        raise ProofError(
            f"the rebuilt network has other outputs for a single image than in a batch of {len(x)}, and the original "
            f"has the same; {_BATCH_REMEDY}"
        )


def _same_alone(alone: list[Tensor], batch: list[Tensor]) -> bool:
    """Whether the outputs of one image are those that it has in a batch; outputs without a batch are not compared."""
    if len(alone) != len(batch):
        return False
    return all(
        value.numel() == other[:1].numel() and not differ(other[:1].reshape(value.shape), value)
        for value, other in zip(alone, batch, strict=True)
        if other.dim() and other.shape != value.shape
    )


def _distance(value: Tensor, other: Tensor) -> float:
    if value.shape != other.shape:
        return float("inf")
    return float((value - other).abs().max()) if value.numel() else 0.0


def _remedy(rebuilt: nn.Module, selection: Selection, x: Tensor) -> str:
    found = first_difference(rebuilt, selection, x)
    if found is None:
        return "use a lower --ratio: no single layer differs, so the rounding errors of many layers add up"
    return f"the first set that differs is {found.name}; keep all its channels with --keep '{found.name}'"
