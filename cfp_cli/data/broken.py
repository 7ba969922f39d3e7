"""Images that cannot be decoded. Each is reported once and skipped; too many of them are an error."""

from __future__ import annotations

import threading
from pathlib import Path

from cfp_cli.data.remarks import Remarks
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress


class BrokenImages:
    """The broken images of one dataset, over all its splits, and remarks about the others.

    Args:
        total: number of images in the dataset.
        max_bad: largest fraction of `total` that may be broken.

    Attributes:
        remarks: the rules of reading that applied to images of the dataset.
    """

    def __init__(self, total: int, max_bad: float) -> None:
        self.total = total
        self.max_bad = max_bad
        self.remarks = Remarks()
        self._reasons: dict[Path, str] = {}
        self._lock = threading.Lock()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The broken images that were added so far, in that order."""
        return tuple(self._reasons)

    def add(self, path: Path, reason: str, progress: Progress = SILENT) -> None:
        """Add a broken image and report it to `progress`, unless it was added before.

        Raises:
            DataError: more than `max_bad` of all images are broken.
        """
        with self._lock:
            if path in self._reasons:
                return
            self._reasons[path] = reason
            count = len(self._reasons)
        progress.say(f"skipped {path}: {reason}")
        if count > self.max_bad * self.total:
            raise DataError(
                f"{count} of {self.total} images are broken, more than the accepted {100 * self.max_bad:.3g}%; "
                f"repair or remove them (the last is {path}: {reason})"
            )
