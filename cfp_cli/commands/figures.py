"""Test figures as text: with their intervals, the worst class, and the verdict on a network that collapsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cfp_cli.measuring.intervals import Interval
    from cfp_cli.measuring.metrics import Metrics


def with_interval(value: float, interval: Interval) -> str:
    """A fraction as a percentage, with its 95 % interval in brackets."""
    return f"{value:.2%} ({interval.low * 100:.1f} to {interval.high * 100:.1f})"


def figure(metrics: Metrics, name: str) -> str:
    """A figure over all classes, such as `accuracy`, with its interval."""
    return with_interval(getattr(metrics, name), metrics.intervals[name])


def worst_class(metrics: Metrics, separator: str = " ") -> str:
    """The class with the lowest recall, with the interval of this recall."""
    worst = metrics.worst_class
    return f"{worst.name}:{separator}{with_interval(worst.recall, worst.interval)}"


def collapse_verdict(metrics: Metrics, network: str, remedy: str) -> tuple[str, ...]:
    """One line if a network names one class for (nearly) all images, else nothing.

    Args:
        metrics: its metrics.
        network: what the line calls it.
        remedy: what the user can do.
    """
    collapse = metrics.collapse
    if collapse is None:
        return ()
    return (
        f"collapsed: {network} names '{collapse.name}' for {collapse.images} of {metrics.images} images, so its "
        f"accuracy says nothing; {remedy}",
    )
