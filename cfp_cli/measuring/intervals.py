"""Confidence intervals of proportions, of their means, and of the difference of two networks on the same images.

All have a nominal coverage of 95 %. A proportion has Wilson's interval (1927), which is not empty at 0 and 100 % and
stays inside [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

# The 97.5th percentile of the normal distribution.
_Z = 1.959963984540054


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value and its interval."""

    value: float
    interval: Interval


def wilson(successes: int, total: int) -> Interval:
    """Return Wilson's score interval, without continuity correction; [0, 1] if `total` is 0.

    Args:
        successes: number of successes.
        total: number of trials.
    """
    if total == 0:
        return Interval(0.0, 1.0)
    fraction = successes / total
    z = _Z
    scale = 1 + z**2 / total
    centre = (fraction + z**2 / (2 * total)) / scale
    half = z / scale * math.sqrt(fraction * (1 - fraction) / total + z**2 / (4 * total**2))
    # Rounding could otherwise exclude the value itself at 0 and 1.
    return Interval(max(0.0, min(centre - half, fraction)), min(1.0, max(centre + half, fraction)))


def mean_interval(estimates: Sequence[Estimate], shared_errors: bool = False) -> Interval:
    """Return the interval of a mean of estimates, from the distances of each to its limits (MOVER).

    Source: Zou and Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27 (2008).

    Args:
        estimates: the values, in [0, 1], with their intervals.
        shared_errors: whether each error counts in two of the estimates, as in F1: an image that is missed in one class
            is a false alarm of another. The distances are then multiplied by the square root of 2, which is the most
            that this correlation can add.
    """
    count = len(estimates)
    mean = sum(each.value for each in estimates) / count
    factor = math.sqrt(2) if shared_errors and count > 1 else 1.0
    below = factor * math.hypot(*(each.value - each.interval.low for each in estimates)) / count
    above = factor * math.hypot(*(each.interval.high - each.value for each in estimates)) / count
    return Interval(max(0.0, mean - below), min(1.0, mean + above))


def paired_difference(both: int, first: int, second: int, neither: int) -> Interval:
    """Return the interval of the accuracy of a second network minus that of a first, on the same images.

    Source: method 10 of Newcombe, Improved confidence intervals for the difference between binomial proportions based
    on paired data, Statistics in Medicine 17 (1998).

    Args:
        both: images that both networks classify correctly.
        first: images that only the first classifies correctly.
        second: images that only the second classifies correctly.
        neither: images that neither classifies correctly.
    """
    total = both + first + second + neither
    p1, p2 = (both + first) / total, (both + second) / total
    (low1, high1), (low2, high2) = wilson(both + first, total), wilson(both + second, total)
    phi = _correlation(both, first, second, neither)
    below = _distance(p2 - low2, high1 - p1, phi)
    above = _distance(high2 - p2, p1 - low1, phi)
    return Interval(max(-1.0, p2 - p1 - below), min(1.0, p2 - p1 + above))


def change_of_accuracy(first: Tensor, second: Tensor, labels: Tensor) -> Interval:
    """Return the interval of the accuracy of a second network minus that of a first, see `paired_difference`.

    Args:
        first: classes that the first network predicts, int64 [N].
        second: classes that the second network predicts, int64 [N].
        labels: true classes, int64 [N].
    """
    before, after = first == labels, second == labels
    counts = (before & after, before & ~after, ~before & after, ~before & ~after)
    return paired_difference(*(int(each.sum()) for each in counts))


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Return the correlation of the two networks' successes, with the continuity correction of the source."""
    product = (both + first) * (second + neither) * (both + second) * (first + neither)
    if product == 0:
        return 0.0
    determinant = float(both * neither - first * second)
    if determinant > 0:
        determinant = max(0.0, determinant - (both + first + second + neither) / 2)
    return determinant / math.sqrt(product)


def _distance(a: float, b: float, correlation: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * correlation * a * b + b * b))
