"""The interface through which long work reports progress and messages.

`commands/console.py` implements it with rich. Tests and notebooks may pass their own implementation.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Reports the progress and the messages of long work."""

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items` and show how many of `total` are done, the rate, and the remaining time."""
        ...

    def say(self, message: str) -> None:
        """Print one line, such as a skipped image or the metrics of an epoch."""
        ...


class Silent:
    """Reports nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items`."""
        yield from items

    def say(self, message: str) -> None:
        """Ignore the line."""


SILENT: Progress = Silent()


@contextmanager
def working(progress: Progress, description: str) -> Generator[None]:
    """Show `description` while one piece of work runs whose parts cannot be counted, such as a trace."""
    steps = iter(progress.track((None,), description, total=1, unit="step"))
    next(steps)
    try:
        yield
        next(steps, None)
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
