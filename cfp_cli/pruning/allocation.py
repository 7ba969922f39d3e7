"""Turn one target into a number of kept channels for every set.

A rule gives each set a share. Bisection then finds the one scale of all shares that meets the target.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np

from cfp_cli.foundation.errors import TargetError
from cfp_cli.pruning.budget import kept_count
from cfp_cli.pruning.options import RULES, Rule
from cfp_cli.scoring.scores import SetScores

TOLERANCE = 0.005
# A result is close enough to the ratio if it is within this part of the tolerance, and of what remains.
CLOSE = 0.1
CLOSE_TO_REMAINING = 0.005
MOST_PAIRS = 24
# 0 is uniform; 1 keeps equally many independent channels in every set, and such a network learns much more slowly.
DAMPING = 0.5

Counts = dict[str, int]


@dataclass(frozen=True)
class Limits:
    """Bounds on what a set may keep.

    Attributes:
        minimum: smallest number of channels of a set.
        multiple: kept counts are multiples of this number.
        full: names of sets that keep all their channels.
    """

    minimum: int = 1
    multiple: int = 1
    full: frozenset[str] = frozenset()

    def count(self, name: str, size: int, keep: float) -> int:
        """Channels that a set keeps at a fraction."""
        return size if name in self.full else kept_count(size, keep, self.minimum, self.multiple)


@dataclass(frozen=True)
class Search:
    """How a scale is searched.

    Attributes:
        tolerance: how far from the ratio the result may be, as a fraction of the total cost.
        halvings: how often the interval of scales is halved at most.
    """

    tolerance: float = TOLERANCE
    halvings: int = 40


def at_scale(allocation: Rule, scores: Mapping[str, SetScores], limits: Limits) -> Callable[[float], Counts]:
    """The rule that turns a scale in [0, 1] into kept counts by set name: 0 keeps the least, 1 keeps all.

    - `uniform`: every set keeps the same fraction.
    - `redundancy`: the fraction is proportional to a power of the share of channels that vary independently.
    """
    if allocation == "uniform":
        return lambda scale: {name: limits.count(name, s.channels, scale) for name, s in scores.items()}
    if allocation == "redundancy":
        return by_shares(redundancy_shares(scores), scores, limits)
    raise ValueError(f"no rule '{allocation}'; one of {', '.join(RULES)}")


def by_shares(
    shares: Mapping[str, float], scores: Mapping[str, SetScores], limits: Limits
) -> Callable[[float], Counts]:
    """The rule by which each set keeps a fraction proportional to its share; `at_scale` describes the scale.

    Args:
        shares: share of each set, positive.
        scores: the sets.
        limits: bounds on what a set may keep.
    """
    # At scale 1 the set of the smallest share keeps all its channels too.
    least = min(shares.values(), default=1.0)
    return lambda scale: {
        # Rounding may leave the product just below 1.
        name: limits.count(name, s.channels, min(scale * (shares[name] / least), 1.0) if scale < 1 else 1.0)
        for name, s in scores.items()
    }


def live_first(
    counts_at: Callable[[float], Counts], scores: Mapping[str, SetScores], limits: Limits
) -> Callable[[float], Counts]:
    """The rule `counts_at`, changed so that no set drops a live channel while another one keeps a dead channel.

    Up to scale 1/2 it keeps live channels only, at 1/2 all of them, and above it adds the dead ones. Without dead
    channels it is the rule itself.
    """
    if not any(each.dead for each in scores.values()):
        return counts_at
    multiple = limits.multiple
    live = {
        name: min(-(-max(each.channels - len(each.dead), 1) // multiple) * multiple, each.channels)
        for name, each in scores.items()
    }

    def counts(scale: float) -> Counts:
        if scale <= 0.5:
            least = counts_at(0.0)
            return {name: max(min(count, live[name]), least[name]) for name, count in counts_at(2 * scale).items()}
        return {name: max(count, live[name]) for name, count in counts_at(2 * scale - 1).items()}

    return counts


def solve(
    counts_at: Callable[[float], Counts],
    cost: Callable[[Counts], float],
    ratio: float,
    search: Search = Search(),
    linked: Collection[str] = (),
) -> Counts:
    """Find the scale at which the fraction `ratio` of the cost is removed.

    Args:
        counts_at: kept counts by scale, growing with it.
        cost: total cost of a network with these counts.
        ratio: fraction to remove, in [0, 1).
        search: tolerance and effort.
        linked: names of sets that constraints change together, in steps that may be wider than the tolerance, such as
            the embedding of a transformer with its heads. Where no scale meets the target, they keep the counts of the
            scale just above or below it, and the scale of the other sets is searched.

    Raises:
        TargetError: the floors, frozen channels or roundings do not allow it; the message has the reachable range.
    """
    most = counts_at(1.0)
    total = cost(most)
    # Most candidates near the end of a search are equal, and a candidate may cost an integer program.
    known: dict[tuple[int, ...], float] = {tuple(most.values()): 0.0}

    def removed(counts: Counts) -> float:
        key = tuple(counts.values())
        if key not in known:
            known[key] = 1 - cost(counts) / total
        return known[key]

    close = min(CLOSE * search.tolerance, CLOSE_TO_REMAINING * (1 - ratio))

    def nearest(tried: list[Counts]) -> Counts:
        return min(tried, key=lambda each: abs(removed(each) - ratio))

    tried, sides = _bisect(counts_at, removed, ratio, close, search.halvings)
    counts = nearest(tried)
    if linked and abs(removed(counts) - ratio) > search.tolerance:
        for side in sides:
            held = {name: side[name] for name in linked if name in side}
            rule = partial(_with_held, counts_at, held)
            counts = nearest([counts, *_bisect(rule, removed, ratio, close, search.halvings)[0]])
    if abs(removed(counts) - ratio) > search.tolerance:
        counts = _one_by_one(counts, counts_at, removed, ratio, search.tolerance)
    if abs(removed(counts) - ratio) > search.tolerance:
        most_removed = max(map(removed, tried))
        reachable = (
            f"at most {most_removed:.2%} can be removed"
            if ratio > most_removed
            else f"between 0% and {most_removed:.2%} can be removed, the nearest possible is {removed(counts):.2%},"
        )
        raise TargetError(
            f"cannot remove {ratio:.2%}: {reachable} with these floors, roundings and frozen channels; "
            "change --ratio, --min-channels or --round-to"
        )
    return counts


def _bisect(
    counts_at: Callable[[float], Counts], removed: Callable[[Counts], float], ratio: float, close: float, halvings: int
) -> tuple[list[Counts], tuple[Counts, Counts]]:
    """All counts that a bisection of the scale tries, and those of the last scales below and above the target."""
    low, high, above, below = 0.0, 1.0, counts_at(1.0), counts_at(0.0)
    tried = [above, below]
    for _ in range(halvings):
        if below == above or abs(removed(tried[-1]) - ratio) <= close:
            break
        scale = (low + high) / 2
        tried.append(counts_at(scale))
        if removed(tried[-1]) > ratio:
            low, below = scale, tried[-1]
        else:
            high, above = scale, tried[-1]
    return tried, (below, above)


def _with_held(counts_at: Callable[[float], Counts], held: Counts, scale: float) -> Counts:
    """Counts at a scale, with fixed counts of some sets."""
    return counts_at(scale) | held


def _one_by_one(
    counts: Counts,
    counts_at: Callable[[float], Counts],
    removed: Callable[[Counts], float],
    ratio: float,
    tolerance: float,
) -> Counts:
    """Approach `ratio` by changing one or two sets at a time, to the next count that some scale gave them.

    In a small network one scale changes several sets at once, and the target lies between two scales.
    """
    grid = [counts, *(counts_at(scale) for scale in np.linspace(0, 1, 513))]
    levels = {name: sorted({each[name] for each in grid}) for name in counts}

    def moves(start: Counts) -> list[Counts]:
        found = []
        for name, choices in levels.items():
            index = choices.index(start[name])
            found += [{name: choice} for choice in choices[max(index - 1, 0) : index + 2] if choice != start[name]]
        return found

    best = (removed(counts), counts)
    while abs(best[0] - ratio) > tolerance:
        single = [(removed(best[1] | move), move) for move in moves(best[1])]
        nearest = min(single, key=lambda pair: abs(pair[0] - ratio), default=best)
        if abs(nearest[0] - ratio) >= abs(best[0] - ratio):
            # Change two sets at once only where one alone does not help, and try the most promising pairs only.
            promising = sorted(combinations(single, 2), key=lambda pair: abs(pair[0][0] + pair[1][0] - best[0] - ratio))
            pairs = [one[1] | two[1] for one, two in promising[:MOST_PAIRS]]
            nearest = min(
                ((removed(best[1] | move), move) for move in pairs), key=lambda pair: abs(pair[0] - ratio), default=best
            )
        if abs(nearest[0] - ratio) >= abs(best[0] - ratio):
            break
        best = (nearest[0], best[1] | nearest[1])
    return best[1]


def redundancy(scores: SetScores) -> float:
    """How redundant a set is, in [0, 1): one minus the share of channels that vary independently over images."""
    return 1 - scores.effective / scores.channels


def redundancy_shares(scores: Mapping[str, SetScores], power: float = DAMPING) -> dict[str, float]:
    """Share of each set under the `redundancy` rule: a power of the part of its channels that vary independently."""
    return {name: (1 - redundancy(s)) ** power for name, s in scores.items()}
