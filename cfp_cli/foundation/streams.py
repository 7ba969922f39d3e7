"""The standard streams, made safe to print to.

A stream may be closed (`>&-`), a file on a full disk, or a pipe whose reader has gone away. Results that cannot be
printed are an error that names stdout. Messages and progress that cannot be printed are dropped, as the work matters
more than its messages.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import IO, Any


class _Stdout(io.FileIO):
    """The descriptor of stdout. An error of a write names stdout."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            error.filename = error.filename or "stdout"
            raise


class _Stderr(io.FileIO):
    """The descriptor of stderr. After an error of a write, everything goes nowhere."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            discard(self.fileno())
            return len(memoryview(data).cast("B"))


def open_streams() -> None:
    """Make stdout and stderr safe to print to.

    A stream that the shell has closed (`>&-`) is replaced, as the next file to be opened would get its number. If that
    is stdout, `sys.stdout` stays None. Characters that the terminal's encoding lacks are printed as escapes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - open until the end
    sys.stdout, sys.stderr = _reopened(sys.stdout, _Stdout), _reopened(sys.stderr, _Stderr)


def _reopened(stream: Any, kind: type[io.FileIO]) -> Any:
    """Return a stream on the same descriptor with a raw file of a kind. Other streams, as tests use, stay."""
    if type(stream) is io.TextIOWrapper and type(getattr(stream.buffer, "raw", stream.buffer)) is io.FileIO:
        # Without a buffer (`python -u`), lines are written at once as well.
        lines = stream.line_buffering or stream.write_through
        raw = kind(stream.fileno(), "w", closefd=False)
        return io.TextIOWrapper(io.BufferedWriter(raw), stream.encoding, "backslashreplace", line_buffering=lines)
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return stream


def settle_stdout() -> None:
    """Write the rest of the buffer of stdout, or drop it. Python would report a failure at exit again."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        discard(_descriptor(sys.stdout))


def discard(descriptor: int | None) -> None:
    """Send what is written to a descriptor nowhere from now on."""
    if descriptor is not None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _descriptor(stream: IO[str]) -> int | None:
    with suppress(OSError):
        return stream.fileno()
    return None
