"""Rules of reading that changed images of a dataset. Each rule is reported once, with the number of images."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Literal, get_args

from cfp_cli.foundation.progress import Progress

Rule = Literal["transparency", "orientation", "pages", "above white", "below black"]

_TEXTS: dict[Rule, str] = {
    "transparency": "are partly transparent; the transparency is dropped and the colours below it are used, as in "
    "ImageFolder",
    "orientation": "have an EXIF orientation; as in ImageFolder, it is applied to TIFF files and to no others; rotate "
    "the files if they must be upright",
    "pages": "have several pages; the first is used, as in ImageFolder",
    "above white": "have values above the white of the bit depth and are clipped; pass --bit-depth if that is wrong",
    "below black": "have values below 0, which become black",
}


class Remarks:
    """Counts the images of a dataset that a rule applies to."""

    def __init__(self) -> None:
        self._paths: dict[Rule, set[Path]] = {rule: set() for rule in get_args(Rule)}
        self._said: set[Rule] = set()
        self._lock = threading.Lock()

    def add(self, rule: Rule, path: Path) -> None:
        """Add an image that a rule applies to."""
        with self._lock:
            self._paths[rule].add(path)

    def report(self, progress: Progress) -> None:
        """Report each rule that was not reported before and applies to an image."""
        for rule, paths in self._paths.items():
            if paths and rule not in self._said:
                self._said.add(rule)
                progress.say(f"{len(paths)} images, such as {min(paths)}, {_TEXTS[rule]}")
