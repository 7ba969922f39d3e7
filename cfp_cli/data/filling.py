"""Folders written whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.scratch import scratch_folder


def fill_folder(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder whole or not at all: `fill` writes into a temporary folder, which then gets its name.

    Raises:
        DataError: the folder holds something, or is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder; choose another or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent, f".{folder.name}.filling-") as scratch:
        target = scratch / folder.name
        target.mkdir()
        fill(target)
        if folder.exists():
            folder.rmdir()
        target.rename(folder)
