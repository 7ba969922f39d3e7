"""Write files atomically, and hash their content."""

from __future__ import annotations

import difflib
import errno
import glob
import hashlib
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from cfp_cli.foundation.errors import CfpError
from cfp_cli.foundation.locks import try_lock
from cfp_cli.foundation.storage import storage_error

LOGGER = logging.getLogger(__name__)

# Bytes that are collected before they are written.
BUFFER = 1 << 20
# Of temporary files beside the files that they become.
SUFFIX = ".tmp"


class _TemporaryFile:
    """The file that `write_atomic` fills; libraries see it as an open binary file.

    Libraries such as torch hide an error of `write` behind one of their own, so the first is kept in `error`.
    """

    def __init__(self, descriptor: int) -> None:
        self.error: BaseException | None = None
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._written = 0

    def write(self, data: Any) -> int:
        """Write bytes or a buffer; return how many bytes those are."""
        view = memoryview(data).cast("B")
        self._written += len(view)
        try:
            if len(view) >= BUFFER:
                self.flush()
                self._write(view)
            else:
                self._buffer += view
                if len(self._buffer) >= BUFFER:
                    self.flush()
        except BaseException as error:
            self.error = self.error or error
            raise
        return len(view)

    def flush(self) -> None:
        """Hand all bytes to the operating system."""
        content, self._buffer = self._buffer, bytearray()
        self._write(memoryview(content))

    def tell(self) -> int:
        """Return the number of bytes written."""
        return self._written

    def _write(self, rest: memoryview) -> None:
        while len(rest):
            rest = rest[os.write(self._descriptor, rest) :]


def write_atomic(
    path: Path, write: Callable[[BinaryIO], None], before_rename: Callable[[], None] | None = None
) -> None:
    """Write a file under a temporary name beside `path`, flush it to disk, then rename it over `path`.

    If the process is killed or the disk is full, either the old or the new file exists, never a part of one. If `path`
    is a link, the file that it points to is replaced. Temporary files that killed processes left are deleted.

    Args:
        path: file to write; its folder is made.
        write: writes the content to an open file, front to back.
        before_rename: called when the content is on the disk, immediately before the rename.

    Raises:
        StorageError: the disk is full, or the file cannot be written for another reason.
    """
    try:
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent, target.name)
        descriptor, temporary = _open_temporary(target)
    except RuntimeError as error:
        # What Python before 3.13 raises for a circle of links.
        raise storage_error(path, OSError(errno.ELOOP, "circle of links")) from error
    except OSError as error:
        raise storage_error(path, error) from error
    file, closed = _TemporaryFile(descriptor), False
    try:
        write(cast(BinaryIO, file))
        file.flush()
        os.fsync(descriptor)
        # mkstemp makes files private; give the file the usual permissions instead.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # noqa: PTH101 - tests make each call of `os` here fail
        if sys.platform == "win32":
            # Windows renames no open file. Elsewhere the file stays open, hence locked, until it has its name.
            os.close(descriptor)
            closed = True
        if before_rename is not None:
            before_rename()
        os.replace(temporary, target)  # noqa: PTH105
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        cause = file.error or error
        if isinstance(cause, OSError) and cause.errno:
            raise storage_error(path, cause) from error
        if cause is not error:
            raise cause from error
        raise
    finally:
        if not closed:
            os.close(descriptor)
    _flush_folder(target.parent)
    LOGGER.info("wrote %s, %d bytes", path, file.tell())


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Delete the temporary files in a folder whose process has died, of writing `name` or any file."""
    for leftover in folder.glob(f".{glob.escape(name) if name is not None else '*'}.*{SUFFIX}"):
        with suppress(OSError):
            descriptor = os.open(leftover, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                # A process that is alive holds the lock.
                if sys.platform != "win32" and try_lock(descriptor):
                    leftover.unlink()
            finally:
                os.close(descriptor)
            if sys.platform == "win32":
                # Windows refuses to delete a file that a process has open.
                leftover.unlink()


def _open_temporary(target: Path) -> tuple[int, str]:
    """Make a temporary file beside `target`, locked until it is closed; return its descriptor and path."""
    # File systems allow names of 255 bytes, and the temporary name is longer than the final one.
    stem = target.name if len(os.fsencode(target.name)) <= 230 else hashlib.sha256(target.name.encode()).hexdigest()
    while True:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{stem}.", suffix=SUFFIX, dir=target.parent)
        if sys.platform == "win32":
            return descriptor, temporary
        try:
            locked = try_lock(descriptor)
        except OSError:
            # A file system without locks: then no other process deletes the file either, as it cannot lock it.
            return descriptor, temporary
        # Another process may have taken the file for a leftover before it was locked here.
        if locked and os.fstat(descriptor).st_nlink:
            return descriptor, temporary
        os.close(descriptor)
        Path(temporary).unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename survive a power failure, where the system can."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Make a folder and check that it is writable, before the long work whose result goes there.

    Raises:
        CfpError: the folder is not writable.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error
    if not os.access(folder, os.W_OK):
        raise CfpError(f"{folder} cannot be written to; choose another folder with --out or --run")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomic(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def path_hint(path: Path, otherwise: str) -> str:
    """Return the advice for a path that does not exist: a name that differs by a typing error, or `otherwise`."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, 1, cutoff=0.8)
    return f"did you mean {path.parent / close[0]}" if close else otherwise


def sha256(path: Path) -> str:
    """Return the SHA-256 of the content of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
