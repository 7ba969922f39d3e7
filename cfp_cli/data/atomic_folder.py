"""Write a folder completely or not at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.scratch import remove_dead_folders, scratch_folder


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary folder beside `folder`, then rename it to `folder`.

    Raises:
        DataError: `folder` is a file or contains files.
    """
    prefix = f".{folder.name}.filling-"
    remove_dead_folders(folder.parent, prefix)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not an empty folder; choose another or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(folder.parent, prefix) as scratch:
        target = scratch / folder.name
        target.mkdir()
        write(target)
        if folder.exists():
            folder.rmdir()
        target.rename(folder)
