"""Allocate by measured loss: search for the kept counts whose refitted network is nearest to the original.

Each candidate meets the target. It is rebuilt and refitted on a part of the images, without labels. Its loss is
measured on the other images, which no weight was fitted to. The search first tries a family of rules that one number
describes, such as the powers of the redundancy rule: one number cannot fit the accidents of few images. Then it raises
or lowers the share of one set at a time, and the scale of all shares follows. Such a change is kept only if it lowers
the loss clearly.

Source: after Frantar and Alistarh, SPDY, ICML 2022, which searches for the coefficients of an allocation by the true
loss of the compressed network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.execution.evaluation_mode import evaluating
from cfp_cli.execution.full_precision import full_precision
from cfp_cli.execution.outputs import tensors_of
from cfp_cli.foundation.errors import DataError, TargetError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, Selection
from cfp_cli.models.forward_pass import run_network
from cfp_cli.pruning.allocation import Counts
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.reconstruct import RecordedOutputs

# Part of the images that the candidates are fitted to. The loss is measured on the others.
FITTED = 0.75
# Output positions of each layer and batch to which candidates are fitted: a quarter of those of the final refit. Eight
# random allocations of VGG-16 had the same order of losses with both.
POSITIONS = 16
# The first change of a share is by this factor, and a smaller factor follows when no set gains by it.
FACTOR = 1.35
REDUCED = 0.6
SMALLEST_FACTOR = 1.05
# A changed share must lower the loss by this part: less is a difference between the images, not between networks.
CLEARLY = 0.02
# The family of rules is searched between these numbers, at first in steps of 1/2 and at last of 1/4.
FAMILY = (0.0, 2.5)
START, STEP, SMALLEST_STEP = 0.5, 0.5, 0.25
TINY = torch.finfo(torch.float64).tiny

Shares = Mapping[str, float]


class MeasuredLoss:
    """The loss of pruned networks after a quick refit.

    Args:
        original: the network that is pruned; it is not changed.
        graph: its channel graph.
        batches: training images float32 [N, C, H, W], two images at least.

    Raises:
        DataError: there are too few images to fit and to measure.
    """

    def __init__(self, original: nn.Module, graph: ChannelGraph, batches: Sequence[Tensor]) -> None:
        fitted, self._held_out = _split(batches)
        self._original = original
        with full_precision():
            self._outputs = RecordedOutputs.of(original, graph, fitted, POSITIONS)
            self._targets = _outputs(original, self._held_out)

    def __call__(self, selection: Selection) -> float:
        """Squared error of the outputs relative to their variance in the original, on images that were not fitted.

        The logits of each image are centred first, because a constant added to all of them changes no probability. If a
        network returns several tensors, the loss is the mean over them.
        """
        with full_precision():
            pruned = rebuild(self._original, selection).eval()
            self._outputs.fit(pruned, selection)
            found = _outputs(pruned, self._held_out)
        losses = [
            (given - target).square().mean() / (target - target.mean(0)).square().mean().clamp_min(TINY)
            for given, target in zip(found, self._targets, strict=True)
        ]
        loss = float(torch.stack(losses).mean())
        return loss if math.isfinite(loss) else math.inf


def _split(batches: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Split the images into those that candidates are fitted to, and those on which their loss is measured.

    A batch that has images of both is divided.
    """
    images = sum(map(len, batches))
    if images < 2:
        raise DataError(
            f"--allocation measured needs two training images, one to fit and one to measure, not {images}; add images"
        )
    remaining = min(max(round(FITTED * images), 1), images - 1)
    fitted, held_out = [], []
    for batch in batches:
        first, rest = batch[:remaining], batch[remaining:]
        remaining -= len(first)
        fitted += [first] if len(first) else []
        held_out += [rest] if len(rest) else []
    return fitted, held_out


def _outputs(network: nn.Module, batches: Sequence[Tensor]) -> list[Tensor]:
    """The outputs of a network, float64; logits are centred."""
    with evaluating(network), torch.no_grad():
        parts = [tensors_of(run_network(network, images)) for images in batches]
    outputs = [torch.cat(pieces).double() for pieces in zip(*parts, strict=True)]
    if len(outputs) == 1 and outputs[0].dim() == 2 and outputs[0].shape[1] > 1:
        return [outputs[0] - outputs[0].mean(1, keepdim=True)]
    return outputs


@dataclass(frozen=True)
class Candidate:
    """Kept counts, the shares that they came from, and their loss."""

    shares: Shares
    counts: Counts
    loss: float


class _Budget:
    """The candidates that may still be measured."""

    def __init__(
        self,
        counts_of: Callable[[Shares], Counts],
        loss: Callable[[Counts], float],
        candidates: int,
        progress: Progress,
    ) -> None:
        self._counts_of, self._loss = counts_of, loss
        self._left = iter(
            progress.track(range(candidates), "measuring allocations", total=candidates, unit="candidate")
        )
        self._known: dict[tuple[int, ...], float] = {}
        self.exhausted = False

    def measure(self, shares: Shares) -> Candidate | None:
        """Measure the counts of shares, unless they were measured; None if no further candidate may be.

        Raises:
            TargetError: no counts with these shares meet the target.
        """
        counts = self._counts_of(shares)
        key = tuple(counts.values())
        if key not in self._known:
            if next(self._left, None) is None:
                self.exhausted = True
                return None
            self._known[key] = self._loss(counts)
        return Candidate(shares, counts, self._known[key])

    def end(self) -> None:
        """End the bar where the search ends."""
        for _ in self._left:
            pass


def search(
    family: Callable[[float], Shares],
    counts_of: Callable[[Shares], Counts],
    loss: Callable[[Counts], float],
    *,
    candidates: int,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Candidate:
    """Search for the shares of the sets whose counts have the smallest loss.

    Args:
        family: shares by a number from `FAMILY`.
        counts_of: the counts that meet the target with given shares.
        loss: measured loss of counts.
        candidates: number of different counts whose loss is measured at most.
        seed: order in which the sets are tried.
        progress: reports progress over the candidates.

    Returns:
        The best candidate, or one whose loss is at most `CLEARLY` higher. It is never worse than one of the family that
        was measured.

    Raises:
        TargetError: the target cannot be met with any member of the family.
    """
    budget = _Budget(counts_of, loss, candidates, progress)
    best = _best_of_family(family, budget)
    generator, factor = np.random.default_rng(seed), FACTOR
    while factor > SMALLEST_FACTOR and not budget.exhausted:
        names = [str(name) for name in generator.permutation(list(best.shares))]
        moves = [(name, way) for name in names for way in (factor, 1 / factor)]
        improved = False
        while moves and not budget.exhausted:
            name, way = moves.pop(0)
            try:
                candidate = budget.measure({**best.shares, name: best.shares[name] * way})
            except TargetError:
                continue
            if candidate is not None and candidate.loss < (1 - CLEARLY) * best.loss:
                best, improved = candidate, True
                # What helped once may help again, and its opposite does not.
                moves = [(name, way), *(move for move in moves if move[0] != name)]
        if not improved:
            factor = 1 + REDUCED * (factor - 1)
    budget.end()
    return best


def _best_of_family(family: Callable[[float], Shares], budget: _Budget) -> Candidate:
    """The member of the family with the smallest loss; the search goes up or down from `START` while the loss falls.

    Raises:
        TargetError: the target cannot be met with any member.
    """
    low, high = FAMILY
    failure: TargetError | None = None
    found: dict[float, Candidate | None] = {}

    def measure(number: float) -> Candidate | None:
        nonlocal failure
        if number not in found:
            try:
                found[number] = budget.measure(family(number))
            except TargetError as error:
                found[number], failure = None, error
        return found[number]

    def loss(number: float) -> float:
        candidate = measure(number) if low <= number <= high else None
        return math.inf if candidate is None else candidate.loss

    number, step = START, STEP
    if math.isinf(loss(number)):
        number = min(np.arange(low, high + STEP, STEP).tolist(), key=loss)
    while step >= SMALLEST_STEP and not budget.exhausted:
        better = min((number + step, number - step), key=loss)
        if loss(better) < loss(number):
            number = better
        else:
            step /= 2
    best = measure(number)
    if best is None:
        raise failure or TargetError("no candidate may be measured; pass more candidates")
    return best
