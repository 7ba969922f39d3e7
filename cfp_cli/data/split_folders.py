"""The folders of the splits `train`, `val` and `test` under the names that people give them."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from cfp_cli.data.folders import contains_images, has_images, subfolders
from cfp_cli.data.left_out import LeftOut
from cfp_cli.data.listing import SPLITS
from cfp_cli.foundation.errors import DataError

# Every name is compared in lower case.
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "validate": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
# Words that make a folder with class folders look like a split, such as `train_set` or `TestData`.
_SPLIT_WORDS = re.compile(r"(?<![a-z])(train|training|val|valid|validation|test|testing|eval|holdout)(?![a-z])", re.I)
_WORD_STARTS = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_folders(path: Path, left_out: LeftOut) -> dict[str, Path]:
    """Return the folders of the splits in `path` by split; empty where `path` holds class folders.

    `Train`, `training`, `valid`, `validation` and `testing` are recognised too, in any case. A folder is a split only
    if it contains folders, so that a class may have the name `train`.

    Args:
        path: the folder of the data set.
        left_out: collects the folders beside the splits.

    Raises:
        DataError: two folders are the same split, a folder looks like a split but has an unknown name, a split has no
            class folders, or the split `train` is missing beside folders of images.
    """
    folders = subfolders(path)
    named = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    splits: dict[str, Path] = {}
    for folder in named:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in splits:
            raise DataError(
                f"{path} has two folders for the split {split}, '{splits[split].name}' and '{folder.name}'; "
                "merge or rename one of them"
            )
        splits[split] = folder
    flat = [splits[split] for split in SPLITS if split in splits and not subfolders(splits[split])]
    if flat and len(named) == len(folders):
        state = "holds images, not class folders" if has_images(flat[0]) else "is empty"
        raise DataError(f"{flat[0]} {state}; arrange the images as {flat[0]}/CLASS/*")
    if flat:
        splits = {}
    others = [folder for folder in folders if folder not in splits.values()]
    _refuse_unknown_splits(path, others, splits)
    if splits and "train" not in splits and (images := _first_with_images(others)):
        raise DataError(
            f"{path} has the split folder '{next(iter(splits.values())).name}' and beside it '{images.name}' with "
            "images; move training images to train/CLASS, or pass a folder that contains only splits"
        )
    if splits:
        left_out.beside.extend(others)
    return {split: splits[split] for split in SPLITS if split in splits}


def _refuse_unknown_splits(path: Path, folders: Sequence[Path], splits: Collection[str]) -> None:
    """Refuse folders such as `train_set` or `TestData` that contain folders with images, unless that split exists."""
    for folder in folders:
        word = _SPLIT_WORDS.search(_WORD_STARTS.sub(" ", folder.name))
        split = SPLIT_NAMES.get(word[1].lower(), "test") if word is not None else None
        if split is None or split in splits or folder.name.lower() in SPLIT_NAMES:
            continue
        if _first_with_images(subfolders(folder)):
            raise DataError(
                f"{path} has a folder '{folder.name}' that looks like a split, not like a class; rename it to "
                f"'{split}', or move it elsewhere"
            )


def _first_with_images(folders: Sequence[Path]) -> Path | None:
    return next((folder for folder in folders if contains_images(folder)), None)
