"""Progress that prints each message once: the stages of a command read the same images and files several times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from cfp_cli.foundation.progress import Progress

T = TypeVar("T")


class SaidOnce:
    """Passes everything on, except messages that were printed before.

    Args:
        progress: where bars and messages go.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said: set[str] = set()

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items` and show how many are done."""
        return self._progress.track(items, description, total, unit)

    def say(self, message: str) -> None:
        """Print a message that was not printed before."""
        if message not in self._said:
            self._said.add(message)
            self._progress.say(message)
