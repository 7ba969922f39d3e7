"""What happens to the state of an earlier run when a new one starts.

The state is deleted only when the new run is about to make its first step. A kill before that, while images are decoded
or teachers run, leaves the state of the earlier run. A mark beside it says that a new run was started: then `--resume`
of the new run starts at the beginning instead of refusing the state of another run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfp_cli.foundation.files import write_bytes


def mark_of(last: Path) -> Path:
    """Return the path of the mark beside the state `last`."""
    return last.with_name(f".{last.name}.replaced")


@contextmanager
def replacing(last: Path, active: bool) -> Iterator[None]:
    """Mark the state of an earlier run as replaced while a new run starts.

    A new run that fails, such as on a wrong argument, removes the mark: the earlier run can still go on.

    Args:
        last: the state.
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
