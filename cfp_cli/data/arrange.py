"""`cfp data split`: copy a public dataset from its own layout to `DST/{train,val,test}/CLASS/`."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfp_cli.data.atomic_folder import write_folder
from cfp_cli.data.layouts import ByClass, read_layout
from cfp_cli.data.listing import SPLITS
from cfp_cli.data.split import divide
from cfp_cli.foundation.errors import DataError, UsageError
from cfp_cli.foundation.naming import name_some
from cfp_cli.foundation.progress import SILENT, Progress


@dataclass(frozen=True)
class Arrangement:
    """The result of `split_layout`.

    Attributes:
        layout: the layout of the source; `folders` for plain class folders and lists.
        destination: the folder that was written.
        classes: class names.
        images: number of images by split and class.
    """

    layout: str
    destination: Path
    classes: tuple[str, ...]
    images: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """Return the arrangement as plain data."""
        return {
            "layout": self.layout,
            "destination": str(self.destination),
            "classes": list(self.classes),
            "images": {split: dict(counts) for split, counts in self.images.items()},
        }


def split_layout(
    source: str | Path,
    destination: str | Path,
    layout: str = "auto",
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    counts: Mapping[str, int] | None = None,
    progress: Progress = SILENT,
) -> Arrangement:
    """Copy a public dataset to `destination/{train,val,test}/CLASS/`. Splits that the dataset has are not changed.

    Args:
        source: the folder of the dataset, or `elpv-dataset` for the installed package.
        destination: a folder that does not exist or is empty.
        layout: `auto`, `neu`, `gc10`, `x-sdd` or `elpv`; see `read_layout`.
        seed: seed of the choice of images for splits that are made, and for `counts`.
        val_fraction: fraction of the training images of each class that go to `val`, where the dataset has none.
        test_fraction: fraction of the images of each class that go to `test`, where the dataset has none.
        counts: number of training images of each class, for a long-tailed training set such as `X_SDD_LONG_TAIL`. The
            other training images are not copied. `val` and `test` are made before and keep their distribution.
        progress: reports progress.

    Raises:
        UsageError: the layout is unknown, fractions are out of range, or `counts` does not fit the classes and their
            numbers of images.
        DataError: the source has another layout, the name of a class cannot be that of a folder, or the destination is
            not empty.
    """
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise UsageError(
            f"split fractions {val_fraction:g} and {test_fraction:g} must be above 0 and sum to less than 1; "
            "pass other fractions"
        )
    dataset = read_layout(source, layout, progress)
    splits = dict(dataset.splits)
    _require_folder_names({label for images in splits.values() for label in images}, Path(source))
    names = {
        path: name for images in splits.values() for paths in images.values() for path, name in _unique_names(paths)
    }
    fractions = {"test": test_fraction, "val": val_fraction}
    missing = {name: fraction for name, fraction in fractions.items() if name not in splits}
    splits["train"], new = divide(splits["train"], missing, seed)
    splits.update(new)
    if counts is not None:
        splits["train"] = _reduce(splits["train"], counts, seed)
    splits = {name: splits[name] for name in SPLITS}
    jobs = [
        (path, Path(split, label, names[path]))
        for split, images in splits.items()
        for label, members in images.items()
        for path in members
    ]

    def write(target: Path) -> None:
        for split, images in splits.items():
            for label in images:
                (target / split / label).mkdir(parents=True)
        for path, name in progress.track(jobs, "copying images", total=len(jobs), unit="image"):
            shutil.copyfile(path, target / name)

    write_folder(Path(destination), write)
    images = {split: {label: len(members) for label, members in images.items()} for split, images in splits.items()}
    return Arrangement(dataset.layout, Path(destination), tuple(splits["train"]), images)


def _reduce(images: ByClass, counts: Mapping[str, int], seed: int) -> ByClass:
    if set(counts) != set(images):
        raise UsageError(
            f"counts are for {name_some(sorted(counts))} but the classes are {name_some(sorted(images))}; "
            "name each class once"
        )
    reduced = {}
    for label, members in images.items():
        if not 1 <= counts[label] <= len(members):
            raise UsageError(
                f"class '{label}' has {len(members)} training images, not {counts[label]}; pass 1 to {len(members)}"
            )
        order = np.random.default_rng([seed, zlib.crc32(label.encode()), 1]).permutation(len(members))
        reduced[label] = [members[index] for index in np.sort(order[: counts[label]])]
    return reduced


def _require_folder_names(labels: set[str], source: Path) -> None:
    """Check that each class can be a folder of the destination; a list may name any text as a class.

    Raises:
        DataError: a class is a path, which may lead out of the destination.
    """
    for label in sorted(labels):
        if label in (".", "..") or any(sign in label for sign in "/\\:\0"):
            raise DataError(f"class '{label}' of {source} cannot be the name of a folder; give the class another name")


def _unique_names(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """Return each file with its name. If two names are equal, all names include their folders."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        common = Path(os.path.commonpath(paths))
        names = ["__".join(path.relative_to(common).parts) for path in paths]
    return zip(paths, names, strict=True)
