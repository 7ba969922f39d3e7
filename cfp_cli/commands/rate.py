"""The rate of long work, and the time that it still needs."""

from __future__ import annotations

# The first item includes preparations, and two items say little about the others.
_FIRST = 3


class Rate:
    """Estimates from the moments at which items were finished. The first item is not counted: it includes preparations.

    Args:
        unit: name of one item.
        total: number of items; None if unknown.
    """

    def __init__(self, unit: str, total: int | None) -> None:
        self.unit, self.total = unit, total
        self._first: tuple[int, float] | None = None
        self._last = (0, 0.0)

    def add(self, done: int, now: float) -> None:
        """Note that `done` items are finished at the time `now`, in seconds."""
        if done and self._first is None:
            self._first = done, now
        if done > self._last[0]:
            self._last = done, now

    @property
    def seconds_each(self) -> float | None:
        """Seconds of one item; None while too few items are finished."""
        if self._first is None or self._last[0] < _FIRST:
            return None
        done, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return seconds / done if done and seconds > 0 else None

    @property
    def speed(self) -> str:
        """The rate in words, such as `12.3 image/s` or `3.2 s/layer`; empty while it is unknown."""
        each = self.seconds_each
        if each is None:
            return ""
        return f"{1 / each:.1f} {self.unit}/s" if each < 1 else f"{each:.1f} s/{self.unit}"

    @property
    def left(self) -> str:
        """The remaining time in words, such as `4:05 left`; empty while it is unknown."""
        each = self.seconds_each
        if each is None or self.total is None:
            return ""
        seconds = round((self.total - self._last[0]) * each)
        hours, minutes = seconds // 3600, seconds // 60 % 60
        return f"{hours}:{minutes:02}:{seconds % 60:02} left" if hours else f"{minutes}:{seconds % 60:02} left"
