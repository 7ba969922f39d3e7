"""What the listing of an image folder leaves out. Nothing is left out silently."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cfp_cli.foundation.progress import Progress

_EXAMPLES = 3
# The folder of masks that `cfp eval` reads, beside a folder of images.
MASK_FOLDER = "masks"


@dataclass
class LeftOut:
    """Everything that was found in image folders and is not an image of a class.

    Attributes:
        folders: hidden folders, and folders of other programs such as `@eaDir`.
        runs: run directories of this tool.
        files: files that do not have the name of an image.
        dangling: links and pipes that have the name of an image and lead to no file. They count as broken images.
        links: other links and pipes that lead to no file.
        loops: links that lead back to a folder above them.
        beside: folders beside the folders of the splits.
        neighbours: folders beside a folder `images`, whose images are used without labels.
        outside: images that are in no class folder.
        masks: masks beside images that are used without labels.
    """

    folders: list[Path] = field(default_factory=list)
    runs: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    dangling: list[Path] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    beside: list[Path] = field(default_factory=list)
    neighbours: list[Path] = field(default_factory=list)
    outside: list[Path] = field(default_factory=list)
    masks: list[Path] = field(default_factory=list)

    def report(self, root: Path, progress: Progress) -> None:
        """Report what was left out under `root`: one line for folders and files, one for each kind of link."""
        parts = []
        if self.folders:
            parts.append(f"hidden folders and folders of other programs ({_names(each.name for each in self.folders)})")
        if self.runs:
            parts.append(f"run directories of cfp ({_names(each.name for each in self.runs)})")
        if self.files:
            parts.append(
                f"files that are not images ({len(self.files)}: {_names(_kind(each.name) for each in self.files)})"
            )
        if self.outside:
            parts.append(f"images outside class folders ({len(self.outside)}, such as {self.outside[0].name})")
        if self.masks:
            example = os.path.relpath(self.masks[0], root)
            parts.append(f"masks ({len(self.masks)}, such as {example}; if these are images, rename them)")
        if self.beside:
            parts.append(f"folders beside the splits ({_names(each.name for each in self.beside)})")
        others = [each.name for each in self.neighbours if each.name != MASK_FOLDER]
        if others:
            parts.append(f"folders beside the folder of images ({_names(others)})")
        if parts:
            progress.say(f"ignored under {root}: {'; '.join(parts)}")
        if len(others) < len(self.neighbours):
            progress.say(f"{root} has folders {MASK_FOLDER}/ beside its images; only `cfp eval` reads them")
        for paths, problem in ((self.links, "lead to nothing"), (self.loops, "lead back to a folder above them")):
            if paths:
                names = _names(os.path.relpath(path, root) for path in paths)
                progress.say(f"warning: links under {root} that {problem} are ignored: {names}")


def _kind(name: str) -> str:
    """Return `*.txt` for a file with an extension, else its name."""
    stem, _, ending = name.rpartition(".")
    return f"*.{ending}" if stem and not name.startswith(".") else name


def _names(names: Iterable[str]) -> str:
    distinct = sorted(set(names))
    more = len(distinct) - _EXAMPLES
    return ", ".join(distinct[:_EXAMPLES]) + (f" and {more} more" if more > 0 else "")
