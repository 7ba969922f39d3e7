"""Images that cannot be decoded: each is told once by its path and skipped, and too many of them are an error."""

from __future__ import annotations

import threading
from pathlib import Path

from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress


class BrokenImages:
    """The broken images of one dataset, whoever meets them first.

    Args:
        total: number of images in the dataset.
        max_bad: largest fraction of `total` that may be broken.
    """

    def __init__(self, total: int, max_bad: float) -> None:
        self.total = total
        self.max_bad = max_bad
        self._found: dict[Path, str] = {}
        self._lock = threading.Lock()

    @property
    def paths(self) -> tuple[Path, ...]:
        """Broken images met so far, in the order they were met."""
        return tuple(self._found)

    def note(self, path: Path, reason: str, progress: Progress = SILENT) -> None:
        """Remember a broken image and tell it, unless it is known already.

        Raises:
            DataError: more than `max_bad` of all images are broken.
        """
        with self._lock:
            if path in self._found:
                return
            self._found[path] = reason
            count = len(self._found)
        progress.say(f"skipped {path}: {reason}")
        if count > self.max_bad * self.total:
            raise DataError(
                f"{count} of {self.total} images are broken, the last is {path} ({reason}); "
                f"repair or remove them, or raise --max-bad above {self.max_bad:.3g}"
            )
