"""Compares an exported file with its checkpoint, and decides whether the difference is float32 rounding.

A file that computes correctly still differs from torch, because another runtime sums in another order. In most networks
the difference is far below 1e-4 of the largest logit. A network that amplifies rounding can exceed this. Then the
network is computed once more in float64, and the file is accepted if its error is at most 16 times the float32 error of
torch itself. The factor allows for longer sums and Winograd convolutions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.progress import SILENT, Progress

Runner = Callable[[Tensor], Tensor]

TOLERANCE = 1e-4
# A correct file is accepted up to this multiple of the float32 error of torch.
FACTOR = 16
# Above this error a wrong operator cannot be distinguished from rounding.
LARGEST_BUDGET = 1e-2
BATCH = 32


@dataclass(frozen=True)
class Agreement:
    """How an exported file compares with its checkpoint. Errors are fractions of the largest logit.

    Attributes:
        top1: share of images on which both predict the same class.
        error: largest difference of a logit between the file and the checkpoint, both in float32.
        budget: largest accepted error.
        float64_error: error of the file against the checkpoint in float64; None if it was not computed.
        checkpoint_float64_error: error of the checkpoint in float32 against itself in float64; None likewise.
    """

    top1: float
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
        return self.top1 == 1 and self.error <= self.budget


def compare(model: nn.Module, run: Runner, images: Tensor) -> Agreement:
    """Run a network and its file on the same images, the file in batches of 1, 2 and up to 32.

    Args:
        model: on the CPU, in eval mode.
        run: the file.
        images: float32 [n, channels, H, W].
    """
    return _agreement(compute_logits(model, images), _file_logits(run, images))


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
    expected, actual = compute_logits(model, images), _file_logits(run, images)
    agreement = _agreement(expected, actual)
    if not agreement.accepted and actual.shape == expected.shape:
        progress.say(f"logits differ by {agreement.error:.1e} of the largest; computing the network in float64")
        exact = _float64_logits(model, images)
        if exact is not None:
            own_error, file_error = _relative(expected, exact), _relative(actual, exact)
            budget = min(max(TOLERANCE, FACTOR * own_error), LARGEST_BUDGET)
            agreement = Agreement(agreement.top1, agreement.error, budget, file_error, own_error)
    if not agreement.accepted:
        advice = "try another --format"
        if agreement.checkpoint_float64_error and agreement.checkpoint_float64_error > LARGEST_BUDGET / FACTOR:
            advice = (
                f"the checkpoint itself is off by {agreement.checkpoint_float64_error:.1e} from float64, so its logits "
                "are dominated by rounding; train it, or export another checkpoint"
            )
        raise CfpError(
            f"the exported network differs from the checkpoint (same class on {agreement.top1:.2%} of {len(images)} "
            f"images, logits off by {agreement.error:.1e} of the largest, allowed {agreement.budget:.1e}); {advice}"
        )
    return agreement


def _agreement(expected: Tensor, actual: Tensor) -> Agreement:
    if actual.shape != expected.shape:
        return Agreement(0.0, float("inf"))
    top1 = (actual.argmax(1) == expected.argmax(1)).float().mean().item()
    return Agreement(top1, _relative(actual, expected))


def _relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected logit; NaN if one of the logits is NaN."""
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()


def compute_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the logits of a network on the CPU in eval mode, float32 [n, classes]."""
    with torch.inference_mode():
        return torch.cat([model(part) for part in torch.split(images, BATCH)]).float()


def _file_logits(run: Runner, images: Tensor) -> Tensor:
    parts = [images[:1], images[1:3], *torch.split(images[3:], BATCH)]
    return torch.cat([run(part).float() for part in parts if len(part)])


def _float64_logits(model: nn.Module, images: Tensor) -> Tensor | None:
    """Compute logits in float64; None if the network does not run in float64 throughout."""
    exact = copy.deepcopy(model).double()
    try:
        with torch.inference_mode():
            logits = torch.cat([exact(part.double()) for part in torch.split(images, BATCH)])
    except (RuntimeError, TypeError):
        # The network mixes in float32 tensors of its own, so nothing better than float32 is known about its logits.
        return None
    return logits if logits.dtype == torch.float64 and bool(logits.isfinite().all()) else None
