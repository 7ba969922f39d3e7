"""A dataset as its files tell it: classes, splits and the images of each, without decoding any."""

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
from cfp_cli.foundation.files import or_nearest
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
        root: the folder that the images' paths are relative to.
        classes: class names in the order of the labels.
        splits: the images of `train`, `val` and `test`, by class and path; a set only for testing lacks the others.
        split_origin: for each split, the folder or list it comes from or how it was made.
        fingerprint: SHA-256 over the images' relative paths, byte sizes and classes, in hex. It stays the
            same when the whole set is moved, and does not depend on how splits are made.
        broken: the images that could not be decoded so far, shared by all that decode from this set.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    split_origin: Mapping[str, str]
    fingerprint: str
    broken: BrokenImages = field(compare=False)

    @property
    def bad(self) -> tuple[Path, ...]:
        """Images that could not be decoded so far."""
        return self.broken.paths

    def split(self, name: str) -> tuple[Item, ...]:
        """The images of a split.

        Raises:
            DataError: the set has no such split.
        """
        if name not in self.splits:
            raise DataError(
                f"{self.root} has no {name} split, only {', '.join(self.splits)}; add {self.root / name} or use another"
            )
        return self.splits[name]

    def counts(self, name: str) -> tuple[int, ...]:
        """The number of images of each class in a split."""
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
    """Read what a dataset holds.

    Understood are `DATA/{train,val,test}/CLASS/*`, the same without `val` or `test`, `DATA/CLASS/*`, a list file of
    `path label` lines, and a list `train.txt` with `val.txt` or `test.txt` beside it (or the folder that holds them).
    A missing `val` or `test` is made from `train`: seeded, stratified, at least one image of each class that has three.

    Args:
        path: folder or list file.
        seed: decides which images the made splits take.
        val_fraction: fraction of each class's images that a made `val` takes.
        test_fraction: fraction of each class's images that a made `test` takes.
        max_bad: largest fraction of images that may be missing or broken before that is an error.
        progress: told of each image that is missing and of classes too small to be in every split.

    Raises:
        DataError: there is no such path, it is no image folder, a class is empty, splits differ in their classes, an
            image is in two splits, or too many listed images are missing.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such file or folder {path}; {or_nearest(path, 'check the path of the data')}")
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise DataError(
            f"split fractions {val_fraction:g} and {test_fraction:g} must be above 0 and sum to less than 1; "
            "pass other fractions"
        )
    root, given, origin, broken = _given_splits(path, max_bad, progress)
    classes = _common_classes(path, given)
    if "train" in given:
        missing = {"test": test_fraction, "val": val_fraction}
        missing = {name: fraction for name, fraction in missing.items() if name not in given}
        if missing:
            given["train"], made = divide(given["train"], missing, seed)
            for name, images in made.items():
                given[name] = images
                origin[name] = f"made from train, fraction {missing[name]:g}, seed {seed}"
                for label in classes:
                    if not images[label]:
                        progress.say(f"class '{label}' has too few images to be in the made {name} split")
    splits = {
        name: tuple(Item(image, index) for index, label in enumerate(classes) for image in given[name][label])
        for name in SPLITS
        if name in given
    }
    return Dataset(root, classes, splits, origin, _fingerprint(root, classes, splits), broken)


def _given_splits(
    path: Path, max_bad: float, progress: Progress
) -> tuple[Path, dict[str, _ByClass], dict[str, str], BrokenImages]:
    lists = _lists(path)
    if lists:
        rows = {name: read_list(file) for name, file in lists.items()}
        root, origin = path if path.is_dir() else path.parent, {name: file.name for name, file in lists.items()}
        broken = BrokenImages(sum(map(len, rows.values())), max_bad)
        return root, _listed_images(rows, path, broken, progress), origin, broken
    folders = {folder.name: folder for folder in subfolders(path)}
    for wrong, right in _MISNAMED.items():
        if wrong in folders and folders.keys() & set(SPLITS):
            raise DataError(f"{path} has a folder '{wrong}' beside its splits; rename it to '{right}'")
    parts = {name: folders[name] for name in SPLITS if name in folders}
    if parts and len(parts) == len(folders) and any(not subfolders(folder) for folder in parts.values()):
        worst = next(folder for folder in parts.values() if not subfolders(folder))
        state = "holds images, not class folders" if has_images(worst) else "is empty"
        raise DataError(f"{worst} {state}; arrange the images as {worst}/CLASS/*")
    if parts and all(subfolders(folder) for folder in parts.values()):
        given = {name: class_images(folder) for name, folder in parts.items()}
        origin = {name: f"{name}/" for name in given}
    else:
        given, origin = {"train": class_images(path)}, {"train": "class folders"}
    total = sum(len(images) for split in given.values() for images in split.values())
    return path, given, origin, BrokenImages(total, max_bad)


def _lists(path: Path) -> dict[str, Path]:
    if path.is_file():
        return sibling_lists(path) or {"train": path}
    holds_trees = any(subfolders(path / name) for name in SPLITS if (path / name).is_dir())
    return {} if holds_trees or not (path / "train.txt").is_file() else sibling_lists(path / "train.txt")


def _listed_images(
    rows: Mapping[str, Sequence[tuple[Path, str]]], source: Path, broken: BrokenImages, progress: Progress
) -> dict[str, _ByClass]:
    if not any(image.is_file() for images in rows.values() for image, _ in images):
        first = next(iter(rows.values()))[0][0]
        raise DataError(
            f"no image that {source} lists exists, such as {first}; write paths relative to the list's folder"
        )
    classes = class_names({label for images in rows.values() for _, label in images}, source)
    seen: dict[Path, str] = {}
    given: dict[str, _ByClass] = {}
    for name, images in rows.items():
        given[name] = {label: [] for label in classes}
        for image, label in images:
            if seen.setdefault(image, name) != name:
                raise DataError(f"{image} is listed in {seen[image]} and in {name}; list each image in one split")
            if image.is_file():
                given[name][label].append(image)
            else:
                broken.note(image, "no such file", progress)
        given[name] = {label: sorted(members) for label, members in given[name].items()}
        for label in classes:
            if not given[name][label]:
                raise DataError(
                    f"class '{label}' has no images in {name} of {source}; add some or remove it everywhere"
                )
    return given


def _common_classes(path: Path, given: Mapping[str, _ByClass]) -> tuple[str, ...]:
    reference = "train" if "train" in given else next(iter(given))
    classes = tuple(given[reference])
    for name, images in given.items():
        for label in (*classes, *images):
            if (label in images) != (label in classes):
                holder, other = (reference, name) if label in classes else (name, reference)
                raise DataError(
                    f"class '{label}' of {path} is in {holder} but not in {other}; give all splits the same classes"
                )
    if len(classes) < 2:
        raise DataError(f"{path} has only one class, '{classes[0]}'; a classifier needs two or more")
    return classes


def _fingerprint(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Item]]) -> str:
    digest = hashlib.sha256()
    lines = []
    for items in splits.values():
        for item in items:
            # Only what lies in the root is named by where it is; a list may reach outside by an absolute path.
            name = item.path.relative_to(root) if item.path.is_relative_to(root) else item.path
            lines.append(f"{name.as_posix()}\0{item.path.stat().st_size}\0{classes[item.label]}\n")
    for line in sorted(lines):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
