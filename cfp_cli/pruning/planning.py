"""Make a plan: allocate the target over the channel sets, and select the channels of each set.

Source: Wang et al. 2023 (doi 10.1109/TII.2023.3288208), collaborative filter pruning.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from torch import Tensor, nn

from cfp_cli.checkpoints.fingerprint import fingerprint
from cfp_cli.foundation.errors import RunError, TargetError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.graph import ChannelGraph, ChannelSet, Selection
from cfp_cli.pruning.allocation import (
    TOLERANCE,
    Counts,
    Limits,
    Search,
    at_scale,
    by_shares,
    live_first,
    redundancy_shares,
    solve,
)
from cfp_cli.pruning.measured import MeasuredLoss, has_images, search
from cfp_cli.pruning.options import Allocation, PruneOptions, Target
from cfp_cli.pruning.plan import Plan, SetPlan
from cfp_cli.pruning.ranking import Ranking, balanced
from cfp_cli.pruning.rates import parse_rates
from cfp_cli.pruning.rebuild import rebuild
from cfp_cli.scoring.clusters import ClusterRule
from cfp_cli.scoring.scores import Scores, SetScores

# A latency is measured, so its target is met within the noise of the measurement and with fewer candidates.
LATENCY_SEARCH = Search(tolerance=0.03, halvings=8)


def make_plan(
    model: nn.Module,
    scores: Scores,
    options: PruneOptions,
    *,
    graph: ChannelGraph,
    tolerance: float = TOLERANCE,
    loader: Iterable[tuple[Tensor, Tensor]] | None = None,
    cost: Callable[[Selection], float] | None = None,
    loss: Callable[[Selection], float] | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Decide which channels every channel set keeps; the network is not changed.

    Args:
        model: the network that `scores` were made with.
        scores: scores of its channels.
        options: the target and how to reach it.
        graph: its channel graph.
        tolerance: how far from the ratio the result may be, as a fraction of the target's total.
        loader: batches of training images float32 [N, C, H, W] and labels, which are not used. Only the allocation
            `measured` needs them, without `loss`. If the options name no allocation, `default_allocation` chooses it.
        cost: total of the target for a selection. None counts parameters, which are bytes too if all are of one type,
            or multiply-adds, or measures the latency in torch.
        loss: measured loss of a selection, for the allocation `measured`; None measures it on the images of `loader`.
        progress: reports progress of the allocation `measured`.

    Raises:
        DataError: the allocation `measured` has too few images.
        UsageError: an option names something that the network does not have.
        TargetError: the target cannot be met.
        RunError: the scores belong to another network.
    """
    if options.allocation is None:
        rule = default_allocation(options.target, loader, estimated=cost is not None)
        options = replace(options, allocation=rule)
    planner = _Planner(model, scores, options, graph, cost, loss)
    selection = planner.by_rates() if options.rates is not None else planner.by_ratio(tolerance, loader, progress)
    original = Selection(graph)
    clusters = {name: tuple(int(label) for label in ranking.labels) for name, ranking in planner.rankings.items()}
    return Plan(
        sets=tuple(
            SetPlan(
                each.name,
                each.size,
                tuple(int(index) for index in selection[each.name]),
                clusters.get(each.name, ()),
                each.frozen,
            )
            for each in graph.sets
        ),
        params_before=original.parameters,
        params_after=selection.parameters,
        macs_before=original.macs,
        macs_after=selection.macs,
        requested=options.ratio,
        achieved=1 - planner.cost(selection) / planner.cost(original),
        target=options.target,
        options={
            "rates": options.rates,
            "allocation": options.allocation if options.ratio is not None else None,
            "candidates": options.candidates
            if options.allocation == "measured" and options.ratio is not None
            else None,
            "clusters": str(planner.rule),
            "min_channels": options.min_channels,
            "round_to": options.round_to,
            "keep": list(options.keep),
            "ignore": list(options.ignore),
            "published": options.published,
            "similarity": scores.similarity,
            "richness": scores.richness,
            "images": scores.images,
        },
    )


def default_allocation(
    target: Target, loader: Iterable[tuple[Tensor, Tensor]] | None, *, estimated: bool
) -> Allocation:
    """The allocation of a prune whose options name none.

    It is `measured` for multiply-adds, and for latency that is estimated, if there are at least
    `measured.FEWEST_IMAGES` training images; else it is `redundancy`. At equal parameters the smallest measured loss
    belongs to networks with several times the multiply-adds (docs/results/channel-choice.md), so there the rule
    decides. It also does where each plan is timed: of networks with about the same time, the smallest loss would belong
    to one whose timing was low by chance.

    Args:
        target: what is made small.
        loader: batches of training images and labels, the same in each pass; None if there are none.
        estimated: whether the cost of a plan is computed, not timed.
    """
    reliable = target == "macs" or (target == "latency" and estimated)
    return "measured" if reliable and has_images(loader) else "redundancy"


def fraction_left(plan: Plan, target: Target) -> float:
    """The fraction of the target that a plan leaves; of latency as it was measured, and of the bytes of the weights."""
    if target == "latency":
        return 1 - plan.achieved
    before, after = (plan.macs_before, plan.macs_after) if target == "macs" else (plan.params_before, plan.params_after)
    return after / before


@dataclass
class _Planner:
    """Selections of one network under the options of a prune."""

    model: nn.Module
    scores: Scores
    options: PruneOptions
    graph: ChannelGraph
    total: Callable[[Selection], float] | None = None
    loss: Callable[[Selection], float] | None = None

    def __post_init__(self) -> None:
        if self.scores.network and self.scores.network != fingerprint(self.model):
            raise RunError("the scores belong to a network with other weights; run `cfp score` on this one")
        scored = self.scores.by_set()
        for each in self.graph.prunable:
            if each.name not in scored or scored[each.name].channels != each.size:
                raise RunError(f"the scores do not fit this network (set {each.name}); run `cfp score` on it")
        self.scored: Mapping[str, SetScores] = {each.name: scored[each.name] for each in self.graph.prunable}
        self.rule = ClusterRule.parse(self.options.clusters)
        self.rankings = {name: Ranking.of(each, self.rule) for name, each in self.scored.items()}
        self.limits = Limits(
            self.options.min_channels, self.options.round_to, _full_sets(self.graph.prunable, self.options)
        )

    def by_ratio(
        self, tolerance: float, loader: Iterable[tuple[Tensor, Tensor]] | None, progress: Progress
    ) -> Selection:
        """The selection that removes the ratio."""
        rule = self.options.allocation
        assert rule is not None
        if rule == "measured":
            return self.select(self._measured(tolerance, loader, progress))
        return self.select(self._solve(at_scale(rule, self.scored, self.limits), tolerance))

    def _solve(self, counts_at: Callable[[float], Counts], tolerance: float) -> Counts:
        assert self.options.ratio is not None
        measured = self.options.target == "latency" and self.total is None
        effort = LATENCY_SEARCH if measured else Search(tolerance)
        rule = live_first(counts_at, self.scored, self.limits)
        links = [link for link in self.graph.links if len(link.sets) > 1]
        linked = {self.graph.sets[index].name for link in links for index in link.sets}

        def cost(counts: Counts) -> float:
            return self.cost(self.select(counts))

        try:
            return solve(rule, cost, self.options.ratio, effort, linked)
        except TargetError:
            # A small network has few counts, and live channels first may leave none near the ratio.
            if rule is counts_at:
                raise
            return solve(counts_at, cost, self.options.ratio, effort, linked)

    def _measured(self, tolerance: float, loader: Iterable[tuple[Tensor, Tensor]] | None, progress: Progress) -> Counts:
        """The counts of the smallest measured loss."""
        loss = self.loss
        if loss is None:
            if loader is None:
                raise UsageError("--allocation measured needs training images; pass a loader")
            loss = MeasuredLoss(self.model, self.graph, loader)
        best = search(
            # Power 0 is the uniform allocation, and 1/2 that by redundancy.
            lambda power: redundancy_shares(self.scored, power),
            # Constraints change the counts, so different shares may lead to the same network.
            lambda shares: self._kept(self._solve(by_shares(shares, self.scored, self.limits), tolerance)),
            lambda counts: loss(self.select(counts)),
            candidates=self.options.candidates,
            progress=progress,
        )
        if self.loss is None and math.isinf(best.loss):
            progress.say("warning: no allocation has a finite loss, so the rule `redundancy` is used")
        return best.counts

    def _kept(self, counts: Counts) -> Counts:
        """The counts that remain when every constraint is satisfied."""
        selection = self.select(counts)
        return {name: len(selection[name]) for name in counts}

    def by_rates(self) -> Selection:
        """The selection that drops the given rate of each set."""
        assert self.options.rates is not None
        rates = parse_rates(self.options.rates, list(self.rankings))
        if not self.options.published:
            return self.select(
                {name: self.limits.count(name, self.scored[name].channels, 1 - rate) for name, rate in rates.items()}
            )
        kept = {
            name: self.rankings[name].keep_published(rate)
            for name, rate in rates.items()
            if rate > 0 and name not in self.limits.full
        }
        emptied = [name for name, indices in kept.items() if len(indices) == 0]
        if emptied:
            raise UsageError(f"the published selection keeps no channel of {emptied[0]}; lower its rate")
        return balanced(Selection(self.graph, kept), self.rankings, self.limits.full)

    def select(self, counts: Counts) -> Selection:
        """The richest channels at the given counts that satisfy every constraint."""
        kept = {name: self.rankings[name].keep(count) for name, count in counts.items()}
        return balanced(Selection(self.graph, kept), self.rankings, self.limits.full)

    def cost(self, selection: Selection) -> float:
        """The target's total for a selection: a number of parameters, multiply-adds or bytes, or milliseconds."""
        if self.total is not None:
            return self.total(selection)
        if self.options.target == "latency":
            return self._milliseconds(rebuild(self.model, selection))
        return float(selection.macs if self.options.target == "macs" else selection.parameters)

    def _milliseconds(self, network: nn.Module) -> float:
        from cfp_cli.measuring.latency import measure_latency

        return measure_latency({"model": network}, self.scores.input_shape, batches=(1,))["model"][0].median


def _full_sets(prunable: Sequence[ChannelSet], options: PruneOptions) -> frozenset[str]:
    """Sets that keep all channels: `keep` matches one of their producers, or `ignore` a producer or consumer."""
    full: set[str] = set()
    for patterns, sides in ((options.keep, ("producers",)), (options.ignore, ("producers", "consumers"))):
        for pattern in patterns:
            matches = {
                each.name
                for each in prunable
                if any(fnmatchcase(module, pattern) for side in sides for module in getattr(each, side))
            }
            if not matches:
                raise UsageError(f"pattern '{pattern}' matches no prunable module; see `cfp inspect`")
            full |= matches
    return frozenset(full)
