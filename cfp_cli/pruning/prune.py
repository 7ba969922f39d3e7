"""Prune a network to a target: allocate, select, rebuild, prove, restore.

Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), collaborative filter pruning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cfp_cli.foundation.errors import RunError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, ChannelSet, Selection, channel_sets
from cfp_cli.pruning.allocation import TOLERANCE, Counts, Limits, at_scale, solve
from cfp_cli.pruning.plan import Plan, SetPlan
from cfp_cli.pruning.rates import parse_rates
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.pruning.restore import FULL, Restoration
from cfp_cli.pruning.selection import Kept, Ranking, balanced
from cfp_cli.pruning.verify import verify
from cfp_cli.scoring.clusters import ClusterRule
from cfp_cli.scoring.scores import Scores

PROOF_IMAGES = 4


@dataclass(frozen=True)
class PruneOptions:
    """What a prune is asked for.

    Attributes:
        ratio: fraction of the target to remove, in [0, 1); or None with `rates`.
        rates: rates by hand, see `parse_rates`.
        target: what `ratio` counts: `params`, `flops` (multiply-adds) or `latency` (measured on this machine).
        allocation: how a ratio is spread over the sets: `redundancy` or `uniform`.
        clusters: cluster rule, `K` or `adaptive:S`.
        min_channels: fewest channels of a set.
        round_to: kept counts are multiples of it.
        keep: shell patterns; sets with a matching producer keep all channels.
        ignore: shell patterns; matching modules are not touched at all, neither outputs nor inputs.
        reference: keep per cluster what the published results kept (with `rates` only).
    """

    ratio: float | None = None
    rates: str | None = None
    target: str = "params"
    allocation: str = "redundancy"
    clusters: str = "adaptive:2"
    min_channels: int = 1
    round_to: int = 1
    keep: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    reference: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            UsageError: a value is out of range or two contradict each other.
        """
        if (self.ratio is None) == (self.rates is None):
            raise UsageError("give either a ratio or rates, such as --ratio 0.95")
        if self.ratio is not None and not 0 <= self.ratio < 1:
            raise UsageError(f"ratio {self.ratio:g} is not in [0, 1); 0.95 removes 95 %")
        if self.reference and self.rates is None:
            raise UsageError("the reference selection needs rates, such as --rates '[0.5]*13'")


def plan(
    model: nn.Module, scores: Scores, options: PruneOptions, *, graph: ChannelGraph, tolerance: float = TOLERANCE
) -> Plan:
    """Decide what every channel set keeps; changes nothing. `tolerance` is how far from the ratio it may end.

    Raises:
        UsageError: an option names what the network does not have.
        TargetError: the target cannot be met.
        RunError: the scores are those of another network.
    """
    scored = scores.by_set()
    prunable = [group for group in graph.sets if not group.frozen]
    for group in prunable:
        if group.name not in scored or scored[group.name].channels != group.size:
            raise RunError(f"the scores do not fit this network (set {group.name}); run `cfp score` on it")
    rule = ClusterRule.parse(options.clusters)
    rankings = {group.name: Ranking.of(scored[group.name], rule) for group in prunable}
    limits = Limits(options.min_channels, options.round_to, _whole(prunable, options))
    everything: Kept = {group.name: np.arange(group.size) for group in graph.sets}

    def select(counts: Counts) -> Selection:
        chosen = {name: rankings[name].keep(count) for name, count in counts.items()}
        return balanced(graph, everything | chosen, rankings, limits.whole)

    def cost(kept: Selection) -> float:
        if options.target == "latency":
            return _latency(rebuild(model, kept), scores.input_size)
        return float(kept.macs if options.target == "flops" else kept.parameters)

    if options.rates is not None:
        kept = _by_rates(options, prunable, rankings, limits, everything, select, graph)
    else:
        assert options.ratio is not None
        counts_at = at_scale(options.allocation, {group.name: scored[group.name] for group in prunable}, limits)
        # A latency is measured, so its target is met within the noise of the measurement and with fewer candidates.
        precision: dict[str, Any] = (
            {"tolerance": 0.03, "most": 8} if options.target == "latency" else {"tolerance": tolerance}
        )
        kept = select(solve(counts_at, lambda counts: cost(select(counts)), options.ratio, **precision))
    original = Selection(graph)
    achieved = 1 - cost(kept) / cost(original)
    return Plan(
        sets=tuple(_set_plan(group, kept[group.name], rankings.get(group.name)) for group in graph.sets),
        params_before=original.parameters,
        params_after=kept.parameters,
        macs_before=original.macs,
        macs_after=kept.macs,
        requested=options.ratio,
        achieved=achieved,
        target=options.target,
        options={
            "rates": options.rates,
            "allocation": options.allocation if options.ratio is not None else None,
            "clusters": str(rule),
            "min_channels": options.min_channels,
            "round_to": options.round_to,
            "keep": list(options.keep),
            "ignore": list(options.ignore),
            "reference": options.reference,
            "similarity": scores.similarity,
            "richness": scores.richness,
            "images": scores.images,
        },
    )


def apply(model: nn.Module, plan: Plan, *, graph: ChannelGraph, example: Tensor) -> tuple[nn.Module, Plan]:
    """Rebuild `model` as `plan` says and prove the rebuild; batch norm keeps its sliced statistics.

    Args:
        model: the original network; it is left as it is.
        plan: what stays.
        graph: the network's channel sets.
        example: images float32 [N, 3, H, W] on which the proof is made.

    Returns:
        The pruned network in eval mode, and the plan with the proof's error.

    Raises:
        RunError: the plan is not one of this network.
        ProofError: the rebuilt network differs from the channel-zeroed original.
    """
    known = {group.name: group.size for group in graph.sets}
    for group in plan.sets:
        if known.get(group.name) != group.channels:
            raise RunError(
                f"the plan does not fit this network (set {group.name}); prune the checkpoint it was made for"
            )
    selection = Selection(graph, plan.kept)
    pruned = rebuild(model, selection)
    error = verify(model, pruned, selection, example)
    return pruned.eval(), replace(plan, max_abs_logit_error=error)


def prune(
    model: nn.Module,
    scores: Scores,
    ratio: float | None = None,
    *,
    loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    graph: ChannelGraph | None = None,
    restoration: Restoration = FULL,
    progress: Progress = SILENT,
    **options: Any,
) -> tuple[nn.Module, Plan]:
    """Prune a network to a target.

    Args:
        model: the network that `scores` were made with; it is left as it is.
        scores: scores of its channels.
        ratio: fraction of parameters (or of `target`) to remove.
        loader: batches of training images (float32 [N, 3, H, W]) and labels, on which the rebuild is proven and
            restored; without it the proof uses seeded noise and the network keeps its sliced tensors.
        graph: the network's channel sets, where they are known already.
        restoration: what is done after the rebuild.
        progress: told of the restoration.
        options: fields of `PruneOptions`.

    Returns:
        The pruned network, in eval mode, and its plan.

    Raises:
        UsageError: an option is out of range.
        TargetError: the target cannot be met.
        ProofError: the rebuilt network differs from the channel-zeroed original.
    """
    wanted = PruneOptions(ratio=ratio, **options)
    example = proof_images(loader, scores.input_size).to(next(model.parameters()).device)
    graph = graph or channel_sets(model, example[:1])
    pruned, made = apply(model, plan(model, scores, wanted, graph=graph), graph=graph, example=example)
    if loader is not None:
        restoration.apply(pruned, model, Selection(graph, made.kept), loader, progress)
    return pruned, made


def proof_images(loader: Iterable[tuple[Tensor, Tensor]] | None, input_size: tuple[int, int]) -> Tensor:
    """A few images for the proof: the first of `loader`, or seeded noise."""
    if loader is not None:
        for images, _ in loader:
            return images[:PROOF_IMAGES]
    return torch.rand(PROOF_IMAGES, 3, *input_size, generator=torch.Generator().manual_seed(0))


def _whole(prunable: Sequence[ChannelSet], options: PruneOptions) -> frozenset[str]:
    """Sets that stay whole by `--keep` (their producers match) or `--ignore` (their producers or consumers match)."""
    whole: set[str] = set()
    for patterns, sides in ((options.keep, ("producers",)), (options.ignore, ("producers", "consumers"))):
        for pattern in patterns:
            matches = {
                group.name
                for group in prunable
                if any(fnmatchcase(module, pattern) for side in sides for module in getattr(group, side))
            }
            if not matches:
                raise UsageError(f"pattern '{pattern}' matches no prunable module; see `cfp inspect`")
            whole |= matches
    return frozenset(whole)


def _by_rates(
    options: PruneOptions,
    prunable: Sequence[ChannelSet],
    rankings: dict[str, Ranking],
    limits: Limits,
    everything: Kept,
    select: Any,
    graph: ChannelGraph,
) -> Selection:
    assert options.rates is not None
    rates = parse_rates(options.rates, [group.name for group in prunable])
    if not options.reference:
        sizes = {group.name: group.size for group in prunable}
        kept: Selection = select({name: limits.count(name, sizes[name], 1 - rate) for name, rate in rates.items()})
        return kept
    chosen = {
        name: rankings[name].keep_reference(rate) if rate > 0 and name not in limits.whole else everything[name]
        for name, rate in rates.items()
    }
    emptied = [name for name, indices in chosen.items() if len(indices) == 0]
    if emptied:
        raise UsageError(f"the reference selection leaves no channel of {emptied[0]}; lower its rate")
    return balanced(graph, everything | chosen, rankings, limits.whole)


def _set_plan(group: ChannelSet, kept: np.ndarray[Any, Any], ranking: Ranking | None) -> SetPlan:
    clusters = () if ranking is None else tuple(int(label) for label in ranking.labels)
    return SetPlan(group.name, group.size, tuple(int(index) for index in kept), clusters, tuple(group.frozen))


def _latency(model: nn.Module, input_size: tuple[int, int]) -> float:
    from cfp_cli.measuring.latency import measure

    return measure({"model": model}, input_size, batches=(1,))["model"][0].median
