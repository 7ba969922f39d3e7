"""Test figures as text: with their intervals, the worst class, and the verdict on a network that collapsed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cfp_cli.commands.tables import Parts

if TYPE_CHECKING:
    from cfp_cli.measuring.intervals import Interval
    from cfp_cli.measuring.metrics import Metrics


INTERVALS = "in brackets: 95 % intervals"
PREPROCESSING = (
    "check that its mean and std (--normalise, --mean, --std), --input-size and order of the classes (--classes) are "
    "those of its training"
)


def with_interval(value: float, interval: Interval) -> Parts:
    """A fraction as a percentage, with its 95 % interval in brackets."""
    low, high = (f"{bound * 100:.1f}".replace("100.0", "100") for bound in (interval.low, interval.high))
    return Parts((f"{value:.2%}", f"({low} to {high})"))


def figure(metrics: Metrics, name: str) -> Parts:
    """A figure over all classes, such as `accuracy`, with its interval."""
    return with_interval(getattr(metrics, name), metrics.intervals[name])


def worst_class(metrics: Metrics) -> Parts:
    """The class with the lowest recall, or the number of such classes, and this recall."""
    return Parts((f"{metrics.worst_class.label}:", *worst_recall(metrics).parts))


def worst_recall(metrics: Metrics) -> Parts:
    """The lowest recall, with its interval if one class has it: classes of different sizes have different intervals."""
    worst = metrics.worst_class
    return Parts((f"{worst.recall:.2%}",)) if len(worst.names) > 1 else with_interval(worst.recall, worst.interval)


def of_class(metrics: Metrics, name: str, metric: str) -> Parts:
    """The `recall`, `precision` or `f1` of a class, with its interval; `-` if no image says something about it."""
    each = metrics.per_class[name]
    if not each.defines(metric):
        return Parts(("-",))
    return with_interval(getattr(each, metric), metrics.class_intervals[name][metric])


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


def guessing_verdict(metrics: Metrics, network: str, remedy: str = PREPROCESSING) -> tuple[str, ...]:
    """One line if a network is no better than guessing, else nothing.

    Args:
        metrics: its metrics.
        network: what the line calls it.
        remedy: what the user can do. The cause is often the preprocessing if the network is an original.
    """
    if not metrics.only_guesses:
        return ()
    return (
        f"no better than guessing: {network} has a balanced accuracy of {metrics.balanced_accuracy:.2%} on "
        f"{metrics.images} images, and guessing has {metrics.guessing:.2%}; {remedy}",
    )
