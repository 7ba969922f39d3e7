"""Command lines for the user to run next, with the options that a run directory needs."""

from __future__ import annotations

import shlex
from pathlib import Path

DEFAULT_RUN = Path("cfp-run")


def command_line(run_folder: Path, command: str, *words: str | Path, arch: str | None = None) -> str:
    """Return a line such as `cfp prune --ratio 0.95`, with the options that this run needs.

    Args:
        run_folder: the run directory.
        command: name of the command.
        words: its arguments.
        arch: architecture to pass; None if the files name it.
    """
    parts = ["cfp", command, *(str(shown_path(each)) if isinstance(each, Path) else each for each in words)]
    parts += ["--arch", arch] if arch is not None else []
    parts += ["--run", str(run_folder)] if run_folder != DEFAULT_RUN else []
    return shlex.join(parts)


def shown_path(path: Path) -> Path:
    """Return a path relative to the current folder, if it is inside."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path
