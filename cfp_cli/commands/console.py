"""The only printer: results to stdout, talk and progress to stderr.

On a terminal, long work shows a bar with its rate and the time left. Without one (a pipe, CI) no control character is
written and long work logs a plain line now and then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import RenderableType
    from rich.live import Live

T = TypeVar("T")

HEARTBEAT_SECONDS = 10.0


class Console:
    """What a command may show, by the verbosity that the user chose."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.verbose = False
        self.debug = False
        # Of the processes that torchrun starts, the first alone prints; an error is told by whichever meets it.
        self.silent = os.environ.get("RANK", "0") != "0"
        self._rich: dict[str, RichConsole] = {}

    def _stream(self, name: str) -> RichConsole:
        # rich takes a tenth of a second to import: `cfp --help` does without.
        if name not in self._rich:
            from rich.console import Console as RichConsole

            self._rich[name] = RichConsole(stderr=name == "stderr", highlight=False, soft_wrap=False)
        return self._rich[name]

    @property
    def interactive(self) -> bool:
        """Whether stderr is a terminal that can redraw."""
        return not (self.quiet or self.silent) and self._stream("stderr").is_terminal

    def result(self, data: dict[str, Any] | list[Any], *renderables: RenderableType) -> None:
        """Give a command's result: one JSON value with `--json`, else what is to be read."""
        if self.silent:
            return
        if self.json:
            sys.stdout.write(json.dumps(data, allow_nan=False) + "\n")
        elif not self.quiet:
            for renderable in renderables:
                self._stream("stdout").print(renderable)

    def say(self, message: str) -> None:
        """Tell one line of talk that stays."""
        if not (self.quiet or self.silent):
            self._stream("stderr").print(message, markup=False, soft_wrap=True)

    def detail(self, message: str) -> None:
        """Tell one line of talk that only `-v` shows."""
        if self.verbose:
            self.say(message)

    def error(self, message: str) -> None:
        """Tell a failure in one line, whatever the verbosity."""
        self._stream("stderr").print(f"error: {' '.join(message.split())}", markup=False, soft_wrap=True, style="red")

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items` and show how many are done, at what rate, and the time left."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        if self.quiet or self.silent:
            yield from items
        elif self.interactive:
            yield from self._bar(items, description, total, unit)
        else:
            yield from self._heartbeat(items, description, total, unit)

    def live(self, renderable: RenderableType) -> Live:
        """A context in which one renderable is redrawn; for a terminal only, see `interactive`."""
        from rich.live import Live

        return Live(renderable, console=self._stream("stderr"), refresh_per_second=4)

    def _bar(self, items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: Task) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:.1f} {unit}/s" if speed else "", style="cyan")

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/" + (str(total) if total is not None else "?")),
            Rate(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._stream("stderr"), transient=True) as progress:
            yield from progress.track(items, total=total, description=description)

    def _heartbeat(self, items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
        began = told = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            if done and now - told >= HEARTBEAT_SECONDS:
                told = now
                rate = done / (now - began)
                left = f" of {total}, {(total - done) / rate:.0f} s left" if total else ""
                self.say(f"{description}: {done}{left}, {rate:.1f} {unit}/s")
            yield item
