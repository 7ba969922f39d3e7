"""Compares an exported file with its checkpoint, and decides whether the difference is float32 rounding.

A file that computes correctly still differs from torch, because another runtime sums in another order. In most networks
the difference is far below 1e-4 of the largest logit. A network that amplifies rounding can exceed this. Then the
network is computed once more in float64, and the file is accepted if its error is at most 16 times the float32 error of
torch itself. The factor allows for longer sums and Winograd convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cfp_cli.execution.outputs import all_tensors_of, is_compared
from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.models.forward_pass import run_network

# From images float32 [n, channels, H, W] to the outputs of a network, in whatever structure.
Runner = Callable[[Tensor], Any]

TOLERANCE = 1e-4
# A correct file is accepted up to this multiple of the float32 error of torch.
FACTOR = 16
# Above this error a wrong operator cannot be distinguished from rounding.
LARGEST_BUDGET = 1e-2
BATCH = 32

Outputs = list[Tensor]


@dataclass(frozen=True)
class Agreement:
    """How an exported file compares with its checkpoint. Errors are fractions of the largest logit.

    For a network with other outputs than logits, they are fractions of the largest value of an output.

    Attributes:
        top1: share of images on which both predict the same class; None for a network without logits.
        error: largest difference of a logit between the file and the checkpoint, both in float32.
        budget: largest accepted error.
        float64_error: error of the file against the checkpoint in float64; None if it was not computed.
        checkpoint_float64_error: error of the checkpoint in float32 against itself in float64; None likewise.
    """

    top1: float | None
    error: float
    budget: float = TOLERANCE
    float64_error: float | None = None
    checkpoint_float64_error: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the difference is explained by rounding.

        A file within the float64 budget can predict another class only if the two largest logits are closer than the
        budget allows to tell apart.
        """
        if self.float64_error is not None:
            return self.float64_error <= self.budget
        return self.top1 in (1, None) and self.error <= self.budget


def compare(model: nn.Module, run: Runner, images: Tensor) -> Agreement:
    """Run a network and its file on the same images, the file in batches of 1, 2 and up to 32.

    Args:
        model: on the CPU, in eval mode.
        run: the file.
        images: float32 [n, channels, H, W].
    """
    return _agreement(compute_outputs(model, images), _file_outputs(run, images))


def check(model: nn.Module, run: Runner, images: Tensor, progress: Progress = SILENT) -> Agreement:
    """Compare a network with its file. If they differ by more than 1e-4, compare both with the network in float64.

    Args:
        model: on the CPU, in eval mode.
        run: the file.
        images: float32 [n, channels, H, W].
        progress: reports progress.

    Raises:
        CfpError: the file differs by more than rounding explains.
    """
    expected, actual = compute_outputs(model, images), _file_outputs(run, images)
    agreement = _agreement(expected, actual)
    what = "logits" if _are_logits(expected) else "outputs"
    if not agreement.accepted and _shapes(actual) == _shapes(expected):
        progress.say(f"{what} differ by {agreement.error:.1e} of the largest; computing the network in float64")
        exact = _float64_outputs(model, images)
        if exact is not None:
            own_error, file_error = _relative(expected, exact), _relative(actual, exact)
            budget = min(max(TOLERANCE, FACTOR * own_error), LARGEST_BUDGET)
            agreement = Agreement(agreement.top1, agreement.error, budget, file_error, own_error)
    if not agreement.accepted:
        advice = "try another --format"
        if agreement.checkpoint_float64_error and agreement.checkpoint_float64_error > LARGEST_BUDGET / FACTOR:
            advice = (
                f"the checkpoint itself is off by {agreement.checkpoint_float64_error:.1e} from float64, so its {what} "
                "are dominated by rounding; train it, or export another checkpoint"
            )
        same = "" if agreement.top1 is None else f"same class on {agreement.top1:.2%} of {len(images)} images, "
        raise CfpError(
            f"the exported network differs from the checkpoint ({same}{what} off by {agreement.error:.1e} of the "
            f"largest, allowed {agreement.budget:.1e}); {advice}"
        )
    return agreement


def _agreement(expected: Outputs, actual: Outputs) -> Agreement:
    if _shapes(actual) != _shapes(expected):
        return Agreement(0.0 if _are_logits(expected) else None, float("inf"))
    top1 = None
    if _are_logits(expected):
        top1 = (actual[0].argmax(1) == expected[0].argmax(1)).float().mean().item()
    return Agreement(top1, _relative(actual, expected))


def _are_logits(outputs: Outputs) -> bool:
    return len(outputs) == 1 and outputs[0].dim() == 2


def _shapes(outputs: Outputs) -> list[torch.Size]:
    return [each.shape for each in outputs]


def _relative(actual: Outputs, expected: Outputs) -> float:
    """Largest difference over the largest expected value, the largest over the outputs; NaN if a value is NaN."""
    errors = [
        (value - other).abs().max() / other.abs().max().clamp_min(1e-30)
        for value, other in zip(actual, expected, strict=True)
        if is_compared(other) and other.numel()
    ]
    return torch.stack([each.double() for each in errors]).max().item()


def compute_outputs(run: Runner | nn.Module, images: Tensor) -> Outputs:
    """Return the outputs of a network in eval mode or of a file, on the CPU; floating-point outputs are float32."""
    return _in_float32(_joined(run, torch.split(images, BATCH)))


def _file_outputs(run: Runner, images: Tensor) -> Outputs:
    parts = [part for part in (images[:1], images[1:3], *torch.split(images[3:], BATCH)) if len(part)]
    return _in_float32(_joined(run, parts))


def _float64_outputs(model: nn.Module, images: Tensor) -> Outputs | None:
    """Compute the outputs in float64; None if the network does not run in float64 throughout."""
    exact = copy.deepcopy(model).double()
    try:
        outputs = _joined(exact, torch.split(images.double(), BATCH))
    except (RuntimeError, TypeError):
        # The network mixes in float32 tensors of its own, so nothing better than float32 is known about its outputs.
        return None
    compared = [each for each in outputs if is_compared(each)]
    in_float64 = all(each.dtype in (torch.float64, torch.complex128) for each in compared)
    return outputs if in_float64 and all(bool(each.isfinite().all()) for each in compared) else None


def _joined(run: Runner | nn.Module, parts: Sequence[Tensor]) -> Outputs:
    """Run each part of the images and join each output. An output that does not depend on the images is taken once."""
    call: Runner = partial(run_network, run) if isinstance(run, nn.Module) else run
    with torch.inference_mode():
        results = [all_tensors_of(call(part)) for part in parts]
    outputs = []
    for pieces in zip(*results, strict=True):
        follows = all(each.dim() > 0 and len(each) == len(part) for each, part in zip(pieces, parts, strict=True))
        constant = not follows and len({each.shape for each in pieces}) == 1
        outputs.append(pieces[0] if constant else torch.cat(pieces))
    return outputs


def _in_float32(outputs: Outputs) -> Outputs:
    return [each.float() if each.is_floating_point() else each for each in outputs]
