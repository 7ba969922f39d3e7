"""Pruning in several steps with a short recovery between them, since one shot to a few percent loses what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import Selection, channel_sets
from cfp_cli.pruning.allocation import TOLERANCE
from cfp_cli.pruning.plan import Plan, SetPlan
from cfp_cli.pruning.prune import PruneOptions, apply, plan, proof_images
from cfp_cli.pruning.restore import Restoration
from cfp_cli.scoring.scores import Scores

# How near a step before the last comes to its share: the last one makes up for it.
_WAYPOINT = 0.03

Score = Callable[[nn.Module], Scores]
Recover = Callable[[nn.Module], nn.Module]


def prune_in_steps(
    model: nn.Module,
    options: PruneOptions,
    steps: int,
    *,
    score: Score,
    recover: Recover,
    loader: Iterable[tuple[Tensor, Tensor]],
    restoration: Restoration,
    progress: Progress = SILENT,
) -> tuple[nn.Module, Plan]:
    """Score, prune, restore and recover, `steps` times; what is left shrinks by one factor each time.

    There is no recovery after the last step: fine-tuning follows.

    Args:
        model: the original network; it is left as it is.
        options: what is asked for, with a ratio of parameters or multiply-adds.
        steps: how many times.
        score: scores a network.
        recover: trains a pruned network a little and gives it back.
        loader: batches of training images and labels, for the proof and the restoration.
        restoration: what is done after each rebuild.
        progress: told of each step.

    Returns:
        The pruned network, in eval mode, and one plan from the original's channels to those that are left.

    Raises:
        UsageError: there is no ratio, or it is of latency.
        TargetError: a step's target cannot be met.
        ProofError: a step's rebuild differs from its channel-zeroed original.
    """
    if options.ratio is None or options.target == "latency":
        raise UsageError("pruning in steps needs --ratio of params or flops; leave out --steps")
    current, whole = model, None
    for step in range(1, steps + 1):
        scores = score(current)
        example = proof_images(loader, scores.input_size).to(next(current.parameters()).device)
        graph = channel_sets(current, example[:1])
        left = (1 - options.ratio) ** (step / steps)
        so_far = 1.0 if whole is None else 1 - whole.achieved
        asked = replace(options, ratio=max(1 - left / so_far, 0.0))
        before = current
        near = TOLERANCE if step == steps else _WAYPOINT
        current, made = apply(
            before, plan(before, scores, asked, graph=graph, tolerance=near), graph=graph, example=example
        )
        whole = made if whole is None else _after(whole, made, options.target)
        progress.say(f"step {step} of {steps}: {whole.achieved:.2%} removed")
        restoration.apply(current, before, Selection(graph, made.kept), loader, progress)
        if step < steps:
            current = recover(current).eval()
    assert whole is not None
    return current, replace(whole, requested=options.ratio, options={**whole.options, "steps": steps})


def _after(first: Plan, second: Plan, target: str) -> Plan:
    """The two plans as one, from the first's channels to the second's."""
    then = second.kept
    sets = tuple(_chosen(group, then[group.name]) for group in first.sets)
    before, after = (
        (first.macs_before, second.macs_after) if target == "flops" else (first.params_before, second.params_after)
    )
    return replace(
        first,
        sets=sets,
        params_after=second.params_after,
        macs_after=second.macs_after,
        achieved=1 - after / before,
        max_abs_logit_error=max(first.max_abs_logit_error, second.max_abs_logit_error),
    )


def _chosen(group: SetPlan, kept: np.ndarray[Any, Any]) -> SetPlan:
    return replace(group, kept=tuple(group.kept[index] for index in kept))
