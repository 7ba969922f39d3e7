"""How long work tells of itself, whoever listens.

The library knows only this protocol; `console.py` draws it with rich, tests and notebooks may pass their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A listener to long work."""

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items` and show how many of `total` are done, at what rate, and the time left."""
        ...

    def say(self, message: str) -> None:
        """Tell one line that stays, such as a skipped image or the figures of an epoch."""
        ...


class Silent:
    """The listener that shows nothing."""

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items`."""
        yield from items

    def say(self, message: str) -> None:
        """Drop the line."""


SILENT: Progress = Silent()
