"""The selection of the published scripts at a given ratio of parameters."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from cfp_cli.foundation.errors import TargetError, UsageError
from cfp_cli.graph import ChannelGraph
from cfp_cli.pruning.plan import Plan
from cfp_cli.pruning.prune import PruneOptions, plan
from cfp_cli.scoring.scores import Scores

_HALVINGS = 12
_TOLERANCE = 0.005


def reference_plan(model: nn.Module, scores: Scores, options: PruneOptions, *, graph: ChannelGraph) -> Plan:
    """What the published scripts keep, at the rate for all sets that comes nearest to the ratio.

    They take rates and not ratios, and keep fewer channels than a rate says, so that the rate is searched for.

    Raises:
        TargetError: no rate comes within half a point.
    """
    assert options.ratio is not None
    ratio, sets = options.ratio, len(graph.prunable)
    low, high = 0.0, 1.0
    found: list[Plan] = []

    def made(rates: str) -> Plan | None:
        try:
            found.append(plan(model, scores, replace(options, ratio=None, rates=rates, reference=True), graph=graph))
        except (TargetError, UsageError):
            # A set is left without a channel.
            return None
        return found[-1]

    for _ in range(_HALVINGS):
        rate = (low + high) / 2
        each = made(f"[{rate:.6f}]*{sets}")
        low, high = (rate, high) if each and each.achieved < ratio else (low, rate)
    # Between two rates that differ by one channel in many sets at once, some sets take the one and some the other.
    for count in range(1, sets):
        made(f"[{high:.6f}]*{count}+[{low:.6f}]*{sets - count}")
    best = min(found, key=lambda each: abs(each.achieved - ratio), default=None)
    if best is None or abs(best.achieved - ratio) > _TOLERANCE:
        nearest = "none" if best is None else f"{best.achieved:.2%}"
        raise TargetError(f"the reference selection cannot remove {ratio:.2%} of the parameters; nearest is {nearest}")
    return replace(best, requested=ratio)
