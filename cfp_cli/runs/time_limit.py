"""A time limit of a command."""

from __future__ import annotations

import math
import time

# Part of the limit that is kept for the end of the command: test, export and report.
RESERVED = 0.1


class OutOfTimeError(Exception):
    """A training was stopped because it would end after the time limit; `seconds` is what it still needs."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        """Return how much time is missing."""
        return f"{self.seconds:.0f} s more than the time limit leaves"


class TimeLimit:
    """The time that remains for candidates.

    Args:
        seconds: the limit from now on; None is no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = math.inf if seconds is None else time.monotonic() + seconds * (1 - RESERVED)

    @property
    def remaining(self) -> float:
        """Seconds that remain; negative after the end, infinite without a limit."""
        return self._end - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether work of this length still ends in time."""
        return self.remaining >= seconds
