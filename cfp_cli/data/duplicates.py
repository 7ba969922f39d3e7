"""Find images that are in two splits: their accuracy on the second split says nothing about new images."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from cfp_cli.data.dataset import Dataset
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import Progress

_HEAD = 4096
_File = tuple[str, Path]


def images_in_two_splits(dataset: Dataset) -> list[tuple[Path, Path]]:
    """Return pairs of files in different splits that have the same content, one pair for each content.

    Only files of the same size are read, and only those whose beginnings are equal are read completely.
    """
    files = [(split, item.path) for split, items in dataset.splits.items() for item in items]
    groups = [files]
    for key in (_size, _head, _content):
        groups = [same for group in groups for same in _group(group, key) if len({split for split, _ in same}) > 1]
    pairs = []
    for group in groups:
        first_split, first = group[0]
        pairs.append((first, next(path for split, path in group if split != first_split)))
    return pairs


def report_images_in_two_splits(dataset: Dataset, progress: Progress) -> None:
    """Report the number of images that are in two splits, with an example."""
    pairs = images_in_two_splits(dataset)
    if pairs:
        one, other = pairs[0]
        progress.say(
            f"warning: images with the same content in two splits: {len(pairs)}, such as {one} and {other}; metrics "
            "of the second split are too high, remove one of each pair"
        )


def _group(files: Iterable[_File], key: Callable[[Path], Hashable]) -> Iterable[list[_File]]:
    groups: dict[Hashable, list[_File]] = defaultdict(list)
    for split, path in files:
        groups[key(path)].append((split, path))
    return groups.values()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _head(path: Path) -> Hashable:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_HEAD)).digest()
    except OSError:
        # Decoding reports files that cannot be read.
        return path


def _content(path: Path) -> Hashable:
    try:
        return sha256(path)
    except OSError:
        return path
