"""Failures that have their cause outside of this program: memory, threads, disks, other processes.

A library raises them as its own errors, at any call. This is the one place that recognises them.
"""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Iterator

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.storage import FULL, storage_error

_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "bad allocation",
    "failed to map segment",
    "unable to allocate",
    "memoryerror",
    # What oneDNN reports if it gets no memory for its code or for a tensor.
    "could not create a primitive",
    "could not create a memory object",
)
_THREADS = ("can't start new thread", "thread creation failed", "resource temporarily unavailable")
_PROCESSES = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "connection refused",
    "gloo",
    "nccl",
    "timed out after",
)


def outside_cause(error: BaseException) -> str | None:
    """Return the message for a failure whose cause lies outside of this program; None for any other error."""
    for each in _chain(error):
        text = f"{type(each).__name__}: {each}".lower()
        if isinstance(each, OSError) and each.errno in (*FULL, errno.EFBIG, errno.EROFS, errno.EIO):
            # Of a copy, the second name is the file that was written.
            return str(storage_error(str(each.filename2 or each.filename or "a file"), each))
        if message := _exhausted(each, text):
            return message
        if "no space left on device" in text:
            return "a disk is full; free space in the folders of the results and in TMPDIR, and run the command again"
        if "WORLD_SIZE" in os.environ and any(words in text for words in _PROCESSES):
            return "another process of this run ended or cannot be reached; read its message, then start all again"
        if isinstance(each, UnicodeEncodeError):
            return f"the locale cannot write {each.object[each.start : each.end]!a}; set LC_ALL=C.UTF-8"
    package = _broken_package(error)
    if package is not None:
        return (
            f"the package {package} cannot be imported ({first_line(error)}); install it again, or unset the "
            "environment variables that configure it"
        )
    if isinstance(error, OSError):
        file, reason = error.filename or "a file", error.strerror or error
        return f"cannot use {file} ({reason}); check the path and its permissions"
    return None


def _broken_package(error: BaseException) -> str | None:
    """Return the name of the package that raised an error while this program imported it; None for other errors."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    names = [str(frame.f_globals.get("__name__")) for frame in frames]
    ours = [index for index, name in enumerate(names) if name.partition(".")[0] == "cfp_cli"]
    after = ours[-1] + 1 if ours else len(frames)
    # Python leaves its own frames of an import out. The code of a module is a function of this name.
    if after < len(frames) and frames[after].f_code.co_name == "<module>":
        return names[after].partition(".")[0]
    return None


def first_line(error: BaseException, length: int = 200) -> str:
    """Return the type of an error and the first line of its message, of at most `length` characters."""
    first = (str(error).strip().splitlines() or [""])[0][:length]
    return f"{type(error).__name__}: {first}"


def exhausted(error: BaseException) -> str | None:
    """Return the message for an error whose cause is a lack of memory or threads; None for any other error.

    Code that wraps the errors of a network or a package says what failed, but not why.
    """
    causes = (each for each in _chain(error) if not isinstance(each, CfpError))
    found = (_exhausted(each, f"{type(each).__name__}: {each}".lower()) for each in causes)
    return next((message for message in found if message), None)


def _exhausted(error: BaseException, text: str) -> str | None:
    if isinstance(error, MemoryError) or any(words in text for words in _MEMORY) or _errno(error) == errno.ENOMEM:
        return "out of memory; close other programs, raise `ulimit -v`, or use smaller batches or images"
    if any(words in text for words in _THREADS) or _errno(error) == errno.EAGAIN:
        return (
            "the system starts no more threads; raise `ulimit -u` and the memory of `ulimit -v`, or use fewer threads"
        )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _errno(error: BaseException) -> int | None:
    return error.errno if isinstance(error, OSError) else None
