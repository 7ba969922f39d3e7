"""A listener for tests that keeps the reported lines."""

from __future__ import annotations

from cfp_cli.foundation.progress import Silent


class Lines(Silent):
    """Reports nothing, and keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)
