"""Files written whole or not at all, and the hashes that name their content."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from cfp_cli.foundation.errors import CfpError

LOGGER = logging.getLogger(__name__)


def write_atomic(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name beside `path`, flush it to disk, then rename it over `path`.

    A kill at any moment leaves the old file or the new one, never half of one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a result is as readable as any other file of its owner.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
        LOGGER.info("wrote %s, %d bytes", path, path.stat().st_size)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def require_writable(folder: Path) -> None:
    """Make a folder, before the long work whose result goes there.

    Raises:
        CfpError: nothing can be written to it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise CfpError(f"{folder} cannot be written to; choose another place by --out or --run")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` atomically."""

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_atomic(path, write)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, atomically."""
    write_bytes(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def or_nearest(path: Path, otherwise: str) -> str:
    """What to do about a path that does not exist: the nearest name in its folder, or `otherwise`."""
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {path.parent / close[0]}" if close else otherwise


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
