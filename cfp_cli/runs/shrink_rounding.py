"""Choose the multiple of which `cfp shrink` keeps channels, where `--round-to auto` leaves it open."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from cfp_cli.graph import ChannelGraph
from cfp_cli.pruning.frontier import START
from cfp_cli.pruning.plan import Plan
from cfp_cli.runs.shrink_costs import Costs
from cfp_cli.runs.shrink_options import ShrinkOptions

# Multiples that are tried where a runtime is measured.
MULTIPLES = (1, 4, 8, 16)
# A larger multiple is taken if it is faster by this factor at least: it leaves fewer counts to choose from.
GAIN = 1.05
# Without a measurement, the multiple that suits most kernels.
USUAL = 8
# The median set must have this many times the multiple: sets with fewer channels than the multiple keep all of them.
ROOM = 8


def needs_table(options: ShrinkOptions) -> bool:
    """Whether the multiple is chosen by measured layers: the user names a runtime, or counts latency."""
    return options.round_to == "auto" and (options.runtime is not None or "latency" in options.costs)


def choose_multiple(
    options: ShrinkOptions, graph: ChannelGraph, costs: Costs, plan_at: Callable[[float, int], Plan]
) -> int:
    """Return the multiple of which kept counts are.

    With a measured runtime it is the fastest of `MULTIPLES` for networks of equal multiply-adds. Otherwise it is 8 for
    `--target macs`, and 1 for parameters and bytes. It is at most an eighth of the median size of the channel sets.

    Args:
        options: the options.
        graph: the channel graph.
        costs: the table of layers.
        plan_at: returns the plan of a compression of the multiply-adds and a multiple.
    """
    if options.round_to != "auto":
        return options.round_to
    sizes = [each.size for each in graph.prunable]
    most = median(sizes) / ROOM if sizes else 0
    if needs_table(options):
        possible = [each for each in MULTIPLES if each == 1 or each <= most]
        speeds = {}
        for multiple in possible:
            plan = plan_at(START, multiple)
            # Plans differ a little in their multiply-adds.
            speeds[multiple] = costs.layers_of(plan) / plan.macs_after
        chosen = possible[0]
        for multiple in possible[1:]:
            if speeds[chosen] / speeds[multiple] >= GAIN:
                chosen = multiple
        return chosen
    return USUAL if options.target == "macs" and most >= USUAL else 1
