"""Whether a folder may be a run directory."""

from __future__ import annotations

from pathlib import Path

from cfp_cli.data.folders import contains_images
from cfp_cli.foundation.errors import UsageError


def check_run_folder(run: Path, data: Path) -> None:
    """Check that a run directory, which need not exist, is no folder of the images. Links are followed.

    Its files and folders would be taken for images and classes.

    Raises:
        UsageError: `run` is `data` or inside it, and has images.
        DataError: a folder of `run` cannot be read.
    """
    if run.is_dir() and run.resolve().is_relative_to(data.resolve()) and contains_images(run):
        raise UsageError(f"{run} is a folder of the images in {data}; choose another --run")
