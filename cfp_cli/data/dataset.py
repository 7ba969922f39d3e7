"""The classes, splits and image files of a dataset. No image is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.folders import class_images, has_images, subfolders
from cfp_cli.data.listing import SPLITS, class_names, read_list, sibling_lists
from cfp_cli.data.split import divide
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import path_hint
from cfp_cli.foundation.progress import SILENT, Progress

_MISNAMED = {"valid": "val", "validation": "val", "training": "train", "testing": "test"}
_ByClass = dict[str, list[Path]]


@dataclass(frozen=True)
class Item:
    """An image file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Dataset:
    """Classes and splits of a set of images.

    Attributes:
        root: the folder that the paths of the images are relative to.
        classes: class names in the order of the labels.
        splits: the images of `train`, `val` and `test`, sorted by class and path. A dataset that has only test images
            has no other split.
        split_origin: the folder or list of each split, or how the split was made.
        fingerprint: SHA-256 over the relative paths, byte sizes and classes of the images, in hex. It does not change
            when the dataset is moved, and does not depend on how splits are made.
        broken: the images that could not be decoded so far, over all splits.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    split_origin: Mapping[str, str]
    fingerprint: str
    broken: BrokenImages = field(compare=False)

    def split(self, name: str) -> tuple[Item, ...]:
        """Return the images of a split.

        Raises:
            DataError: the dataset has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.root} has no {name} split, only {', '.join(self.splits)}; add {self.root / name} or use another"
            )
        return self.splits[name]

    def counts(self, name: str) -> tuple[int, ...]:
        """Return the number of images of each class in a split."""
        counts = [0] * len(self.classes)
        for item in self.split(name):
            counts[item.label] += 1
        return tuple(counts)


def open_dataset(
    path: str | Path,
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    max_bad: float = 0.01,
    progress: Progress = SILENT,
) -> Dataset:
    """List the classes, splits and image files of a dataset.

    Accepted are `DATA/{train,val,test}/CLASS/*`, the same without `val` or `test`, `DATA/CLASS/*`, a list file of
    `path label` lines, and a list `train.txt` with `val.txt` or `test.txt` beside it (or the folder of these lists).
    A missing `val` or `test` split is made from `train` by a seeded, stratified choice. It contains at least one image
    of each class that has three or more.

    Args:
        path: folder or list file.
        seed: seed of the choice of images for splits that are made.
        val_fraction: fraction of the images of each class that go to `val`, where it is made.
        test_fraction: fraction of the images of each class that go to `test`, where it is made.
        max_bad: largest fraction of images that may be missing or broken.
        progress: reports each missing image, and classes that are too small for every split.

    Raises:
        DataError: the path does not exist or contains no images, a class is empty, the splits have different classes,
            a list has an image in two splits or classes, or too many listed images are missing.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such file or folder {path}; {path_hint(path, 'check the path of the data')}")
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise DataError(
            f"split fractions {val_fraction:g} and {test_fraction:g} must be above 0 and sum to less than 1; "
            "pass other fractions"
        )
    source = _read_source(path, max_bad, progress)
    splits, origin = dict(source.splits), dict(source.origin)
    classes = _common_classes(path, splits)
    missing = {"test": test_fraction, "val": val_fraction} if "train" in splits else {}
    missing = {name: fraction for name, fraction in missing.items() if name not in splits}
    if missing:
        splits["train"], made = divide(splits["train"], missing, seed)
        for name, images in made.items():
            splits[name] = images
            origin[name] = f"made from train, fraction {missing[name]:g}, seed {seed}"
            for label in classes:
                if not images[label]:
                    progress.say(f"class '{label}' has too few images for the {name} split that was made")
    items = {
        name: tuple(Item(image, index) for index, label in enumerate(classes) for image in splits[name][label])
        for name in SPLITS
        if name in splits
    }
    return Dataset(source.root, classes, items, origin, _fingerprint(source.root, classes, items), source.broken)


@dataclass(frozen=True)
class _Source:
    """The splits that a folder or a list contains, and the attributes `root`, `split_origin`, `broken` of `Dataset`."""

    root: Path
    splits: dict[str, _ByClass]
    origin: dict[str, str]
    broken: BrokenImages


def _read_source(path: Path, max_bad: float, progress: Progress) -> _Source:
    lists = _lists(path)
    if lists:
        rows = {name: read_list(file) for name, file in lists.items()}
        broken = BrokenImages(sum(map(len, rows.values())), max_bad)
        splits = _listed_images(rows, path, broken, progress)
        origin = {name: file.name for name, file in lists.items()}
        return _Source(path if path.is_dir() else path.parent, splits, origin, broken)
    folders = _split_folders(path)
    if folders:
        splits = {name: class_images(folder) for name, folder in folders.items()}
        origin = {name: f"{name}/" for name in splits}
    else:
        splits, origin = {"train": class_images(path)}, {"train": "class folders"}
    total = sum(len(images) for by_class in splits.values() for images in by_class.values())
    return _Source(path, splits, origin, BrokenImages(total, max_bad))


def _split_folders(path: Path) -> dict[str, Path]:
    """Return the folders `train`, `val` and `test` of `path`; empty where these are class folders or do not exist."""
    folders = {folder.name: folder for folder in subfolders(path)}
    for wrong, right in _MISNAMED.items():
        if wrong in folders and folders.keys() & set(SPLITS):
            raise DataError(f"{path} has a folder '{wrong}' beside its splits; rename it to '{right}'")
    splits = {name: folders[name] for name in SPLITS if name in folders}
    without_classes = [folder for folder in splits.values() if not subfolders(folder)]
    if without_classes and len(splits) == len(folders):
        worst = without_classes[0]
        state = "holds images, not class folders" if has_images(worst) else "is empty"
        raise DataError(f"{worst} {state}; arrange the images as {worst}/CLASS/*")
    return {} if without_classes else splits


def _lists(path: Path) -> dict[str, Path]:
    """Return the list files of the splits by split; empty for a folder of images."""
    if path.is_file():
        return sibling_lists(path) or {"train": path}
    has_class_folders = any(subfolders(path / name) for name in SPLITS if (path / name).is_dir())
    return {} if has_class_folders or not (path / "train.txt").is_file() else sibling_lists(path / "train.txt")


def _listed_images(
    rows: Mapping[str, Sequence[tuple[Path, str]]], source: Path, broken: BrokenImages, progress: Progress
) -> dict[str, _ByClass]:
    if not any(image.is_file() for images in rows.values() for image, _ in images):
        first = next(iter(rows.values()))[0][0]
        raise DataError(
            f"none of the images listed in {source} exist (first: {first}); write paths relative to the list's folder"
        )
    classes = class_names({label for images in rows.values() for _, label in images}, source)
    entry_of: dict[Path, tuple[str, str]] = {}
    repeated: list[Path] = []
    splits: dict[str, _ByClass] = {}
    for name, images in rows.items():
        by_class: _ByClass = {label: [] for label in classes}
        for image, label in images:
            if image in entry_of:
                split, other = entry_of[image]
                if split != name:
                    raise DataError(f"{image} is listed in {split} and in {name}; list each image in one split")
                if other != label:
                    raise DataError(f"{image} is listed as '{other}' and as '{label}'; list each image with one class")
                repeated.append(image)
                continue
            entry_of[image] = (name, label)
            if image.is_file():
                by_class[label].append(image)
            else:
                broken.add(image, "no such file", progress)
        splits[name] = {label: sorted(images) for label, images in by_class.items()}
        for label in classes:
            if not splits[name][label]:
                raise DataError(
                    f"class '{label}' has no images in {name} of {source}; add some or remove the class everywhere"
                )
    if repeated:
        progress.say(f"{source} lists images more than once: {len(repeated)}, such as {repeated[0]}; each is used once")
    return splits


def _common_classes(path: Path, splits: Mapping[str, _ByClass]) -> tuple[str, ...]:
    reference = "train" if "train" in splits else next(iter(splits))
    classes = tuple(splits[reference])
    for name, images in splits.items():
        for label in (*classes, *images):
            if (label in images) != (label in classes):
                has, lacks = (reference, name) if label in classes else (name, reference)
                raise DataError(
                    f"class '{label}' of {path} is in {has} but not in {lacks}; give all splits the same classes"
                )
    if len(classes) < 2:
        raise DataError(f"{path} has only one class, '{classes[0]}'; a classifier needs two or more")
    return classes


def _fingerprint(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Item]]) -> str:
    digest = hashlib.sha256()
    lines = []
    for items in splits.values():
        for item in items:
            # A list may contain absolute paths outside the root; those stay absolute.
            name = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
            lines.append(f"{name.as_posix()}\0{item.path.stat().st_size}\0{classes[item.label]}\n")
    for line in sorted(lines):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
