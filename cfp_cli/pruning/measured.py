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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from cfp_cli.pruning.layer_fit import FitOptions
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.reconstruct import RecordedOutputs, spread

# Images that are used, to the next batch. With half as many the order of the candidates is often another.
IMAGES = 512
# Fewer images say nothing about which candidate is best, so without an explicit allocation the rule decides.
FEWEST_IMAGES = 32
# Part of the images that the candidates are fitted to. The loss is measured on the others.
FITTED = 0.75
# The fit of a candidate is quicker than the final one: a quarter of its output positions, and no steps behind
# activations. The order of the candidates stays the same (docs/results/channel-choice.md).
POSITIONS = 16
QUICK_FIT = FitOptions(steps=0)
# The first change of a share is by this factor, and a smaller factor follows when no set gains by it.
FACTOR = 1.35
REDUCED = 0.6
SMALLEST_FACTOR = 1.05
# A changed share must lower the loss by this part: less is a difference between the images, not between networks.
CLEARLY = 0.02
# The family of rules is searched between these numbers, at first in steps of 1/2 and at last of 1/4.
FAMILY = (0.0, 2.5)
START, STEP, SMALLEST_STEP = 0.5, 0.5, 0.25
# An output that varies by a smaller part of its squares is constant: the rest is rounding.
CONSTANT = 1e-6
TINY = float(torch.finfo(torch.float64).tiny)

Shares = Mapping[str, float]


class MeasuredLoss:
    """The loss of pruned networks after a quick refit.

    Args:
        original: the network that is pruned; it is not changed.
        graph: its channel graph.
        loader: batches of training images float32 [N, C, H, W] and labels, which are not used. About `IMAGES` images
            are used, spread over the loader; two at least.

    Raises:
        DataError: there are too few images to fit and to measure.
    """

    def __init__(self, original: nn.Module, graph: ChannelGraph, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
        device = next(original.parameters()).device
        fitted, self._held_out = _split([images.to(device) for images in spread(loader, IMAGES)])
        self._original = original
        with full_precision():
            self._outputs = RecordedOutputs.of(original, graph, fitted, POSITIONS)
            self._targets = list(_outputs(original, self._held_out))
        self._scales = _scales(self._targets)

    def __call__(self, selection: Selection) -> float:
        """Squared error of the outputs relative to their variance in the original, on images that were not fitted.

        The logits of each image are centred first, because a constant added to all of them changes no probability. If a
        network returns several tensors, the loss is the mean over those that are not the same for all images. If all
        are, as with a single image, the error is relative to their squares.
        """
        with full_precision():
            pruned = rebuild(self._original, selection).eval()
            self._outputs.fit(pruned, selection, QUICK_FIT)
            errors = [0.0] * len(self._scales)
            for found, targets in zip(_outputs(pruned, self._held_out), self._targets, strict=True):
                for index, (given, target) in enumerate(zip(found, targets, strict=True)):
                    errors[index] += float((given - target).square().sum())
        losses = [error / scale for error, scale in zip(errors, self._scales, strict=True) if scale is not None]
        loss = sum(losses) / len(losses)
        return loss if math.isfinite(loss) else math.inf


def has_images(loader: Iterable[tuple[Tensor, Tensor]] | None) -> bool:
    """Whether a loader has enough images to tell candidates apart."""
    images = 0
    for batch, _ in loader or ():
        images += len(batch)
        if images >= FEWEST_IMAGES:
            return True
    return False


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


def _outputs(network: nn.Module, batches: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The outputs of a network for each batch; logits are centred."""
    with evaluating(network), torch.no_grad():
        for images in batches:
            outputs = [each.float() for each in tensors_of(run_network(network, images))]
            if len(outputs) == 1 and outputs[0].dim() == 2 and outputs[0].shape[1] > 1:
                outputs = [outputs[0] - outputs[0].mean(1, keepdim=True)]
            yield outputs


def _scales(targets: Sequence[Sequence[Tensor]]) -> list[float | None]:
    """What the squared error of each output is divided by; None for a constant output beside others.

    Args:
        targets: outputs of the original, [N, ...], by batch.
    """
    squares, deviations = [], []
    for batches in zip(*targets, strict=True):
        mean = torch.stack([each.sum(0) for each in batches]).sum(0) / sum(map(len, batches))
        squares.append(max(sum(float(each.square().sum()) for each in batches), TINY))
        deviations.append(sum(float((each - mean).square().sum()) for each in batches))
    varies = [deviation > CONSTANT * square for deviation, square in zip(deviations, squares, strict=True)]
    if not any(varies):
        return [*squares]
    return [deviation if used else None for deviation, used in zip(deviations, varies, strict=True)]


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

    It first tries the side on which the smaller loss is known.

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

    def known(above: bool, number: float) -> float:
        """The smallest loss that is known on one side of a number."""
        sides = (found[each] for each in found if each != number and (each > number) == above)
        return min((each.loss for each in sides if each is not None), default=math.inf)

    number, step = START, STEP
    if math.isinf(loss(number)):
        number = min([START, *np.arange(low, high + STEP, STEP).tolist()], key=loss)
    while step >= SMALLEST_STEP and not budget.exhausted:
        # The candidates may end before both sides are measured.
        upwards = known(True, number) <= known(False, number)
        better = min((number + step, number - step) if upwards else (number - step, number + step), key=loss)
        if loss(better) < loss(number):
            number = better
        else:
            step /= 2
    best = measure(number) or next((each for each in found.values() if each is not None), None)
    if best is None:
        raise failure or TargetError("no candidate may be measured; pass more candidates")
    return best
