"""Outputs whose package may be missing: a command that makes several outputs writes the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cfp_cli.foundation.errors import MissingExtraError
from cfp_cli.foundation.progress import Progress


def if_installed(progress: Progress, write: Callable[[], Path]) -> Path | None:
    """Write a file with an optional package; print a message if the package is not installed."""
    try:
        return write()
    except MissingExtraError as error:
        progress.say(f"skipped: {error}")
        return None
