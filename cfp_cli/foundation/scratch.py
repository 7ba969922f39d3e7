"""Temporary folders that are deleted even if their process was killed: the next process deletes them."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cfp_cli.foundation.locks import try_lock
from cfp_cli.foundation.storage import FULL, storage_error

PREFIX = "cfp-scratch-"
_LOCK = ".lock"
# A folder without a lock may be one that another process has just made.
_YOUNG_SECONDS = 60.0


@contextmanager
def scratch_folder(parent: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """Make an empty folder and delete it at the end.

    Folders with the same prefix whose process has died are deleted first.

    Args:
        parent: where to make it; the system's temporary folder where None.
        prefix: of its name.

    Raises:
        StorageError: the folder cannot be made.
    """
    parent = parent or Path(tempfile.gettempdir())
    remove_dead_folders(parent, prefix)
    try:
        outer = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise storage_error(parent, error) from error
    descriptor = None
    try:
        try:
            descriptor = os.open(outer / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            with suppress(OSError):
                try_lock(descriptor)
            (outer / "files").mkdir()
        except OSError as error:
            raise storage_error(outer, error) from error
        try:
            yield outer / "files"
        except OSError as error:
            if error.errno in FULL:
                raise storage_error(parent, error) from error
            raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
        shutil.rmtree(outer, ignore_errors=True)


def remove_dead_folders(parent: Path, prefix: str) -> None:
    """Delete the folders with a prefix in `parent` whose process has died."""
    with suppress(OSError):
        for entry in os.scandir(parent):
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if _is_dead(Path(entry.path)):
                        shutil.rmtree(entry.path, ignore_errors=True)


def _is_dead(folder: Path) -> bool:
    facts = folder.stat(follow_symlinks=False)
    if sys.platform != "win32" and facts.st_uid != os.getuid():
        return False
    try:
        descriptor = os.open(folder / _LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except FileNotFoundError:
        return time.time() - facts.st_mtime > _YOUNG_SECONDS
    try:
        return try_lock(descriptor)
    finally:
        os.close(descriptor)
