"""Find images that are in two splits: their accuracy on the second split says nothing about new images."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cfp_cli.data.dataset import Dataset
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import Progress

_HEAD = 4096


@dataclass(frozen=True, slots=True)
class _File:
    """An image file: its split, its path, and its device and number on that device; none if it cannot be read."""

    split: str
    path: Path
    number: tuple[int, int] | None
    size: int


def images_in_two_splits(dataset: Dataset) -> list[tuple[Path, Path]]:
    """Return pairs of files in different splits that have the same content, one pair for each content.

    Only files of the same size are read, and only those whose beginnings are equal are read completely. Of several
    names of one file (hard links), only one is read.
    """
    pairs = []
    for group in _groups_in_two_splits(dataset):
        first = group[0]
        pairs.append((first.path, next(file.path for file in group if file.split != first.split)))
    return pairs


def _groups_in_two_splits(dataset: Dataset) -> list[list[_File]]:
    """Return the files of each content that is in several splits."""
    files = (_status(split, item.path) for split, items in dataset.splits.items() for item in items)
    groups = _shared(files, lambda file: file.size)
    for key in (_by_number(_head), _by_number(_content)):
        groups = [shared for group in groups for shared in _shared(group, key)]
    return groups


def repeated_test_images(dataset: Dataset) -> list[Path]:
    """Return the images of the split `test` whose content is also in another split."""
    groups = _groups_in_two_splits(dataset)
    return [file.path for group in groups for file in group if file.split == "test"]


def report_images_in_two_splits(dataset: Dataset, progress: Progress) -> None:
    """Report the number of images that are in two splits, with an example."""
    pairs = images_in_two_splits(dataset)
    if pairs:
        one, other = pairs[0]
        progress.say(
            f"warning: images with the same content in two splits: {len(pairs)}, such as {one} and {other}; metrics "
            "of the second split are too high, remove one of each pair"
        )


def _shared(files: Iterable[_File], key: Callable[[_File], Hashable]) -> list[list[_File]]:
    """Group files by a key; return the groups with files of several splits."""
    groups: dict[Hashable, list[_File]] = defaultdict(list)
    for file in files:
        groups[key(file)].append(file)
    return [group for group in groups.values() if any(file.split != group[0].split for file in group)]


def _status(split: str, path: Path) -> _File:
    try:
        status = os.stat(path)  # noqa: PTH116 - several times faster than Path.stat
    except OSError:
        # Decoding reports files that cannot be read.
        return _File(split, path, None, -1)
    return _File(split, path, (status.st_dev, status.st_ino), status.st_size)


def _by_number(read: Callable[[_File], bytes]) -> Callable[[_File], Hashable]:
    """Return a function that reads each file once, whatever its name. A file that cannot be read equals no other."""
    values: dict[tuple[int, int], bytes] = {}

    def key(file: _File) -> Hashable:
        if file.number is None:
            return file.path
        if file.number not in values:
            try:
                values[file.number] = read(file)
            except OSError:
                return file.path
        return values[file.number]

    return key


def _head(file: _File) -> bytes:
    with file.path.open("rb", buffering=0) as opened:
        return hashlib.sha256(opened.read(_HEAD)).digest()


def _content(file: _File) -> bytes:
    # The beginning of a small file is its content, and the files of a group have equal beginnings.
    return b"" if file.size <= _HEAD else sha256(file.path).encode()
