"""Locks that the kernel releases when their process dies."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cfp_cli.foundation.storage import storage_error

if sys.platform == "win32":
    import msvcrt

    # Windows forbids others to read the locked bytes. This offset lies behind the text that names the holder.
    _OFFSET = 1 << 30

    def try_lock(descriptor: int) -> bool:
        """Lock an open file for this process; return False if another process holds it."""
        os.lseek(descriptor, _OFFSET, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def try_lock(descriptor: int) -> bool:
        """Lock an open file for this process; return False if another process holds it.

        Raises:
            OSError: the file system has no locks.
        """
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock.

    Attributes:
        pid: its process number; 0 if it is unknown.
        command: its command line.
        since: when it took the lock, in ISO 8601.
    """

    pid: int
    command: str
    since: str

    def __str__(self) -> str:
        """Return `cfp finetune` (process 123, since ...)."""
        return f"`{self.command}` (process {self.pid}, since {self.since})" if self.pid else "another process"


@contextmanager
def lock_file(path: Path, refuse: Callable[[Holder], Exception], patience: float = 0.0) -> Iterator[None]:
    """Hold a lock for as long as the context lasts.

    The kernel releases the lock when the process dies, also after `kill -9`. The file itself is deleted at the end; one
    that a killed process left is used again.

    Args:
        path: the lock's file; its folder exists.
        refuse: returns the error to raise if another process holds the lock.
        patience: seconds to wait for the other process.

    Raises:
        StorageError: the file cannot be written, or its file system has no locks.
    """
    descriptor = _acquire(path, refuse, time.monotonic() + patience)
    try:
        holder = Holder(os.getpid(), _command_line(), datetime.now(UTC).isoformat(timespec="seconds"))
        with suppress(OSError):
            # A full disk must not stop a command that may only need to read. Without the text the holder is unknown.
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0) if hasattr(os, "pwrite") else None
        yield
    finally:
        if sys.platform == "win32":
            os.close(descriptor)
            with suppress(OSError):
                path.unlink()
        else:
            # Deleted while the lock is held: whoever opens the path from now on makes a new file.
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _acquire(path: Path, refuse: Callable[[Holder], Exception], until: float) -> int:
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            locked = try_lock(descriptor)
            # The last holder may have deleted the file after it was opened here. A lock on it would exclude nobody.
            if locked and _same_file(descriptor, path):
                return descriptor
            if not locked and time.monotonic() >= until:
                raise refuse(_read_holder(path))
        except OSError as error:
            os.close(descriptor)
            raise storage_error(path, error) from error
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not locked:
            time.sleep(0.01)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _read_holder(path: Path) -> Holder:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Holder(int(content["pid"]), str(content["command"]), str(content["since"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Holder(0, "", "")


def _command_line() -> str:
    text = " ".join(["cfp", *sys.argv[1:]])
    return text if len(text) <= 120 else f"{text[:117]}..."
