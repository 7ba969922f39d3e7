"""Marks the state file of an earlier run when a new run starts.

The new run deletes that file just before its first step. If it is killed earlier, while it decodes images or runs
teachers, the file remains. A mark beside the file shows that a new run was started: with `--resume`, the new run then
starts from the beginning instead of refusing the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfp_cli.foundation.files import write_bytes


def mark_of(last: Path) -> Path:
    """Return the path of the mark of the state file `last`."""
    return last.with_name(f".{last.name}.replaced")


@contextmanager
def replacing(last: Path, active: bool) -> Iterator[None]:
    """Mark the state file of an earlier run while a new run starts.

    If the new run fails, such as on a wrong argument, it removes the mark, and the earlier run can still be resumed.

    Args:
        last: the state file.
        active: whether this process starts a run from the beginning and writes its files.
    """
    if not active or not last.exists():
        yield
        return
    write_bytes(mark_of(last), b"")
    try:
        yield
    except Exception:
        mark_of(last).unlink(missing_ok=True)
        raise
