"""The line that names the next command, so that a user need not look it up."""

from __future__ import annotations

from pathlib import Path

from cfp_cli.commands.model_options import ModelOptions
from cfp_cli.runs.command_line import DEFAULT_RUN, command_line

# Stands for images that the command does not know.
IMAGES = "IMAGES"
DATA = "DATA"


def next_command(run_folder: Path, command: str, *words: str | Path, arch: str | None = None) -> str:
    """Return a line such as `next: cfp prune --ratio 0.95`; the arguments are those of `command_line`."""
    return f"next: {command_line(run_folder, command, *words, arch=arch)}"


def next_for_model(model: Path, how: ModelOptions, data: Path | None, pruned: bool) -> str:
    """Return the line after a command that shows a model: score it, or export it if it is pruned.

    Args:
        model: the file.
        how: the options that its command had; a file that needs them needs them again.
        data: its images; None if the command had none.
        pruned: whether the model is pruned.
    """
    if pruned:
        return next_command(DEFAULT_RUN, "export", model, "--format", "onnx", "--out", "small.onnx", *how.given)
    return next_command(DEFAULT_RUN, "score", model, data or DATA, *how.given)
