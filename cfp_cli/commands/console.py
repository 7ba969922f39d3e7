"""The only printer. Results go to stdout; messages and progress go to stderr.

On a terminal, long work shows a bar with its rate and the time left. Without one (a pipe, CI) no control character is
written, and long work prints a plain line now and then.

Text is printed as it is: names and paths of the user are never read as markup, and control characters in them are
replaced by visible symbols.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any, TypeVar

from cfp_cli.commands.rate import Rate
from cfp_cli.commands.tables import fit
from cfp_cli.execution.launch import rank
from cfp_cli.foundation.errors import StorageError, UsageError
from cfp_cli.foundation.typed_json import to_json
from cfp_cli.foundation.versions import versions

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.console import ConsoleOptions, RenderableType
    from rich.live import Live
    from rich.segment import Segment

T = TypeVar("T")

HEARTBEAT_SECONDS = 10.0
# A pipe or a file has no width, so nothing is cut there, and lines of text are not broken.
PIPE_WIDTH = 100_000
# Tables in a pipe or a file have this width, or more where a name would be cut.
TABLE_WIDTH = 80

# The library logs details here: files read and written, the device, seconds of each part.
LOGGER = logging.getLogger("cfp_cli")

# Control characters become their visible symbols. Characters that change the direction of text, and bytes that are not
# UTF-8, become the replacement character. Each is replaced by one character, so that styles keep their positions.
_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_VISIBLE |= dict.fromkeys((*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)), 0xFFFD)
_VISIBLE |= dict.fromkeys(range(0xD800, 0xE000), 0xFFFD)


def visible(text: str) -> str:
    """Replace each control character by one visible character; line breaks and tabs stay."""
    return text.translate(_VISIBLE)


class Console:
    """Prints what the user asked for with `--json`, `-q`, `-v` and `--debug`."""

    def __init__(self) -> None:
        self.json = False
        self.quiet = False
        self.debug = False
        self._verbose = False
        self.silent = _is_follower()
        self._rich: dict[str, RichConsole] = {}
        self._began = time.perf_counter()
        # Whether the line of `status` is on the screen.
        self._status = False
        self._stdout: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext

    @contextlib.contextmanager
    def only_results_on_stdout(self) -> Iterator[None]:
        """Send what libraries and the code of a network print to stderr, so that stdout has only results."""
        stdout = sys.stdout
        self._stdout = lambda: contextlib.redirect_stdout(stdout)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield
        finally:
            self._stdout = contextlib.nullcontext

    @property
    def verbose(self) -> bool:
        """Whether the log of the library is printed."""
        return self._verbose

    @verbose.setter
    def verbose(self, value: bool) -> None:
        self._verbose = value
        if value:
            LOGGER.handlers = [_LogPrinter(self)]
            LOGGER.setLevel(logging.INFO)

    def finish(self) -> None:
        """Log how long the command took."""
        LOGGER.info("finished in %.1f s", time.perf_counter() - self._began)

    def close(self) -> None:
        """Remove the status line, and stop printing the log of the library."""
        self._clear_status()
        LOGGER.handlers = []
        LOGGER.setLevel(logging.NOTSET)

    def status(self, message: str) -> None:
        """Show one line on a terminal until anything else is printed. Imports nothing, so that it appears at once."""
        stream = sys.stderr
        if self.quiet or self.silent or stream is None or not stream.isatty() or os.environ.get("TERM") == "dumb":
            return
        stream.write(f"{message} ...")
        stream.flush()
        self._status = True

    def _clear_status(self) -> None:
        if self._status:
            self._status = False
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()

    def _stream(self, name: str) -> RichConsole:
        self._clear_status()
        # rich takes a tenth of a second to import; `cfp --help` does not need it.
        if name not in self._rich:
            from rich.console import Console as RichConsole
            from rich.text import Text

            class PlainTextConsole(RichConsole):
                def render(
                    self, renderable: RenderableType, options: ConsoleOptions | None = None
                ) -> Iterable[Segment]:
                    if isinstance(renderable, Text):
                        renderable.plain = visible(renderable.plain)
                    return super().render(renderable, options)

                def render_str(self, text: str, **options: Any) -> Text:
                    return super().render_str(visible(text), **options)

            stream = PlainTextConsole(
                stderr=name == "stderr", highlight=False, soft_wrap=False, markup=False, emoji=False
            )
            if not stream.is_terminal:
                stream.width = PIPE_WIDTH
            self._rich[name] = stream
        return self._rich[name]

    @property
    def interactive(self) -> bool:
        """Whether stderr is a terminal that can redraw."""
        return not (self.quiet or self.silent) and self._stream("stderr").is_terminal

    @property
    def width(self) -> int:
        """The width of tables on stdout in characters."""
        with self._stdout():
            stream = self._stream("stdout")
            return stream.width if stream.is_terminal else TABLE_WIDTH

    def result(self, data: object, *renderables: RenderableType) -> None:
        """Print the result of a command: with `--json` one JSON value of `data`, else tables and text."""
        if not self.silent:
            with self._stdout():
                self._print_result(data, renderables)

    def _print_result(self, data: object, renderables: Iterable[RenderableType]) -> None:
        if sys.stdout is None:
            raise StorageError("the result cannot be printed, as stdout is closed; files of the command are written")
        self._clear_status()
        if self.json:
            sys.stdout.write(json.dumps(to_json(data), allow_nan=False) + "\n")
        elif not self.quiet:
            from rich.table import Table

            stream = self._stream("stdout")
            for renderable in renderables:
                if isinstance(renderable, Table):
                    fit(renderable, stream, self.width)
                stream.print(renderable)

    def say(self, message: str) -> None:
        """Print one line to stderr, except with `-q`."""
        if not (self.quiet or self.silent):
            self._stream("stderr").print(message, soft_wrap=True)

    def error(self, message: str) -> None:
        """Print a failure in one line, even with `-q`."""
        self._stream("stderr").print(f"error: {' '.join(message.split())}", soft_wrap=True, style="red")

    def track(self, items: Iterable[T], description: str, total: int | None = None, unit: str = "batch") -> Iterator[T]:
        """Yield `items` and show how many are done, at what rate, and the time left."""
        if total is None and isinstance(items, Sized):
            total = len(items)
        began, done = time.perf_counter(), 0
        if self.quiet or self.silent:
            shown: Iterable[T] = items
        elif self.interactive:
            shown = self._bar(items, description, total, unit)
        else:
            shown = self._heartbeat(items, description, total, unit)
        for item in shown:
            yield item
            done += 1
        LOGGER.info("%s: %d x %s in %.1f s", description, done, unit, time.perf_counter() - began)

    def live(self, renderable: RenderableType) -> Live:
        """A context in which one renderable is redrawn; for a terminal only, see `interactive`."""
        from rich.live import Live

        return Live(renderable, console=self._stream("stderr"), refresh_per_second=4)

    def _bar(self, items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
        from rich.progress import BarColumn, Progress, TextColumn

        # One piece of work has no count: the bar shows that it is under way.
        counted = total != 1
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            *([TextColumn("{task.completed:.0f}/" + (str(total) if total is not None else "?"))] if counted else []),
            TextColumn("{task.fields[speed]}", style="cyan", markup=False),
            TextColumn("{task.fields[left]}", markup=False),
        )
        rate = Rate(unit, total)
        with Progress(*columns, console=self._stream("stderr"), transient=True) as progress:
            task = progress.add_task(visible(description), total=total if counted else None, speed="", left="")
            for done, item in enumerate(items):
                rate.add(done, time.monotonic())
                progress.update(task, completed=done, speed=rate.speed, left=rate.left)
                yield item

    def _heartbeat(self, items: Iterable[T], description: str, total: int | None, unit: str) -> Iterator[T]:
        rate = Rate(unit, total)
        last_line = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            rate.add(done, now)
            if done and now - last_line >= HEARTBEAT_SECONDS:
                last_line = now
                count = f"{done} of {total}" if total else str(done)
                self.say(f"{description}: {', '.join(filter(None, (count, rate.left, rate.speed)))}")
            yield item


def _is_follower() -> bool:
    """Whether this is one of several processes, and not the first: then only errors are printed."""
    try:
        return rank() != 0
    except UsageError:
        # A command that needs the number reports the error.
        return False


class _LogPrinter(logging.Handler):
    """Prints the log of the library to stderr, under a line of versions."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._started = False

    def emit(self, record: logging.LogRecord) -> None:
        if not self._started:
            self._started = True
            self._console.say(", ".join(f"{name} {number}" for name, number in versions().items()))
        self._console.say(record.getMessage())
