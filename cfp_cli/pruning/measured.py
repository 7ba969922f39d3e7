"""Allocate by measured loss: search for the kept counts whose refitted network is nearest to the original.

Each candidate meets the target. It is rebuilt and refitted on a part of the images, without labels. Its loss is
measured on the other images, which no weight was fitted to. The search starts at the best of a few rules. It then
raises or lowers the share of one set at a time, and the scale of all shares follows. A change that lowers the loss is
kept.

Source: after Frantar and Alistarh, SPDY, ICML 2022, which searches for the shares of layers by the true loss of the
compressed network.
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


def search(
    starts: Sequence[Shares],
    counts_of: Callable[[Shares], Counts],
    loss: Callable[[Counts], float],
    *,
    candidates: int,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Candidate:
    """Search for the shares of the sets whose counts have the smallest loss.

    Args:
        starts: shares to start from; the best of them is changed.
        counts_of: the counts that meet the target with given shares.
        loss: measured loss of counts.
        candidates: number of different counts whose loss is measured at most.
        seed: order in which the sets are tried.
        progress: reports progress over the candidates.

    Returns:
        The best candidate. It is never worse than the best of `starts`.

    Raises:
        TargetError: the target cannot be met with any of `starts`.
    """
    budget = iter(progress.track(range(candidates), "measuring allocations", total=candidates, unit="candidate"))
    known: dict[tuple[int, ...], float] = {}
    exhausted = False

    def measured(shares: Shares) -> Candidate | None:
        nonlocal exhausted
        counts = counts_of(shares)
        key = tuple(counts.values())
        if key not in known:
            if next(budget, None) is None:
                exhausted = True
                return None
            known[key] = loss(counts)
        return Candidate(shares, counts, known[key])

    best: Candidate | None = None
    failure: TargetError | None = None
    for shares in starts:
        try:
            candidate = measured(shares)
        except TargetError as error:
            failure = error
            continue
        if candidate is not None and (best is None or candidate.loss < best.loss):
            best = candidate
    if best is None:
        raise failure or TargetError("there are no shares to start from")
    generator, factor = np.random.default_rng(seed), FACTOR
    while factor > SMALLEST_FACTOR and not exhausted:
        names = [str(name) for name in generator.permutation(list(best.shares))]
        moves = [(name, way) for name in names for way in (factor, 1 / factor)]
        improved = False
        while moves and not exhausted:
            name, way = moves.pop(0)
            try:
                candidate = measured({**best.shares, name: best.shares[name] * way})
            except TargetError:
                continue
            if candidate is not None and candidate.loss < best.loss:
                best, improved = candidate, True
                # What helped once may help again, and its opposite does not.
                moves = [(name, way), *(move for move in moves if move[0] != name)]
        if not improved:
            factor = 1 + REDUCED * (factor - 1)
    # The bar ends where the search ends.
    for _ in budget:
        pass
    return best
