"""The selection of the published scripts at a given ratio of parameters."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from cfp_cli.foundation.errors import TargetError, UsageError
from cfp_cli.graph import ChannelGraph
from cfp_cli.pruning.allocation import TOLERANCE
from cfp_cli.pruning.options import PruneOptions
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.planning import make_plan
from cfp_cli.scoring.scores import Scores

_HALVINGS = 12


def published_plan(
    model: nn.Module,
    scores: Scores,
    options: PruneOptions,
    *,
    graph: ChannelGraph,
    tolerance: float = TOLERANCE,
    **_images_and_progress: object,
) -> Plan:
    """What the published scripts keep, at the common rate of all sets that is nearest to the ratio.

    The scripts take rates instead of a ratio, and keep fewer channels than a rate says. This searches for the rate.

    Raises:
        TargetError: no rate is within the tolerance.
    """
    assert options.ratio is not None
    ratio, sets = options.ratio, len(graph.prunable)
    low, high = 0.0, 1.0
    plans: list[Plan] = []

    def try_rates(rates: str) -> Plan | None:
        try:
            by_rates = replace(options, ratio=None, rates=rates, published=True)
            plans.append(make_plan(model, scores, by_rates, graph=graph))
        except (TargetError, UsageError):
            # A set would keep no channel.
            return None
        return plans[-1]

    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        each = try_rates(f"[{rate:.6f}]*{sets}")
        low, high = (rate, high) if each and each.achieved < ratio else (low, rate)
    # Two neighbouring rates may differ by one channel in many sets: give some sets one rate and the rest the other.
    for count in range(1, sets):
        try_rates(f"[{high:.6f}]*{count}+[{low:.6f}]*{sets - count}")
    best = min(plans, key=lambda each: abs(each.achieved - ratio), default=None)
    if best is None or abs(best.achieved - ratio) > tolerance:
        nearest = "none" if best is None else f"{best.achieved:.2%}"
        raise TargetError(f"the published selection cannot remove {ratio:.2%} of the parameters; nearest is {nearest}")
    return replace(best, requested=ratio)
