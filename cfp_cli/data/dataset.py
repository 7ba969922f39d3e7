"""The classes, splits and image files of a dataset. No image is decoded."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cfp_cli.data.bit_depth import chosen_bit_depth
from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.class_order import class_order
from cfp_cli.data.folders import class_images, note_left_out, relative_name, subfolders
from cfp_cli.data.left_out import LeftOut
from cfp_cli.data.listing import SPLITS, class_names, read_list, sibling_lists
from cfp_cli.data.split import divide
from cfp_cli.data.split_folders import SPLIT_NAMES, split_folders
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import path_hint
from cfp_cli.foundation.progress import SILENT, Progress

_ByClass = dict[str, list[Path]]
MADE = "made from train"


@dataclass(frozen=True, slots=True)
class Item:
    """An image file and the index of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class Dataset:
    """Classes and splits of a set of images.

    Attributes:
        root: the folder that the paths of the images are relative to.
        classes: class names in the order of the labels; none for images without labels, whose labels are all 0.
        splits: the images of `train`, `val` and `test`, sorted by class and path. A dataset that has only test images
            has no other split.
        split_origin: the folder or list of each split, or how the split was made.
        fingerprint: SHA-256 over the relative paths, byte sizes and classes of the images, in hex. It does not change
            when the dataset is moved, and does not depend on how splits are made.
        broken: the images that could not be decoded so far, over all splits.
        bit_depth: number of bits of white in images of more than 8 bits; None where no image has more.
    """

    root: Path
    classes: tuple[str, ...]
    splits: Mapping[str, tuple[Item, ...]]
    split_origin: Mapping[str, str]
    fingerprint: str
    broken: BrokenImages = field(compare=False)
    bit_depth: int | None = None

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

    @property
    def labelled(self) -> bool:
        """Whether the images have labels."""
        return bool(self.classes)

    def require_labels(self, purpose: str) -> None:
        """Check that the images have labels.

        Args:
            purpose: what needs them, such as `cfp eval`.

        Raises:
            DataError: they have none.
        """
        if not self.labelled:
            raise DataError(
                f"{purpose} needs labels, and the images of {self.root} are used without; arrange them as "
                f"{self.root}/CLASS/*, and use a network that returns logits"
            )

    def is_made(self, name: str) -> bool:
        """Return whether a split was made by a choice from the training images."""
        return self.split_origin.get(name, "").startswith(MADE)

    def in_order(self, classes: Sequence[str]) -> Dataset:
        """Return the same images with the classes in another order, which may contain further classes.

        Args:
            classes: all classes of the dataset, and any classes without images.
        """
        label_of = {name: index for index, name in enumerate(classes)}
        new_label = [label_of[name] for name in self.classes]
        splits = {
            name: tuple(sorted((Item(item.path, new_label[item.label]) for item in items), key=lambda item: item.label))
            for name, items in self.splits.items()
        }
        return replace(self, classes=tuple(classes), splits=splits)

    def without(self, name: str) -> Dataset:
        """Return the same dataset without the images of a split; the origin of all splits remains."""
        return replace(self, splits={each: items for each, items in self.splits.items() if each != name})

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
    bit_depth: int | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """List the classes, splits and image files of a dataset.

    Accepted are `DATA/{train,val,test}/CLASS/*`, the same without `val` or `test`, `DATA/CLASS/*`, a list file of
    `path label` lines, and a list `train.txt` with `val.txt` or `test.txt` beside it (or the folder of these lists).
    A missing `val` or `test` split is made from `train` by a seeded, stratified choice. It contains at least one image
    of each class that has three or more. `split_folders` lists further names of split folders, and `class_order` the
    order of classes. A class needs images in `train`, but not in `val` and `test`.

    Args:
        path: folder or list file.
        seed: seed of the choice of images for splits that are made.
        val_fraction: fraction of the images of each class that go to `val`, where it is made.
        test_fraction: fraction of the images of each class that go to `test`, where it is made.
        max_bad: largest fraction of images that may be missing or broken.
        bit_depth: number of bits of white in images of more than 8 bits; None chooses it for all images from the
            largest value in a sample, see `choose_bit_depth`.
        progress: reports each missing image, everything in the folders that is not read, and classes without images in
            a split.

    Raises:
        DataError: the path does not exist or contains no images, a class has no images to train on, a folder looks
            like a split but has an unknown name, a list has an image in two splits or classes, or too many images are
            missing.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"no such file or folder {path}; {path_hint(path, 'check the path of the data')}")
    if not (path.is_dir() or path.is_file()):
        raise DataError(f"{path} is a pipe or a device, neither a folder nor a list file; copy its content to a file")
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise DataError(
            f"split fractions {val_fraction:g} and {test_fraction:g} must be above 0 and sum to less than 1; "
            "pass other fractions"
        )
    source = _read_source(path, max_bad, progress)
    origin = dict(source.origin)
    classes = _classes(path, source.splits)
    splits = {name: {label: images.get(label, []) for label in classes} for name, images in source.splits.items()}
    missing = {"test": test_fraction, "val": val_fraction} if "train" in splits else {}
    missing = {name: fraction for name, fraction in missing.items() if name not in splits}
    if missing:
        splits["train"], made = divide(splits["train"], missing, seed)
        for name, images in made.items():
            splits[name] = images
            origin[name] = f"{MADE}, fraction {missing[name]:g}, seed {seed}"
    for name in SPLITS:
        _report_absent_classes(
            name, [label for label in classes if not splits.get(name, {label: True})[label]], progress
        )
    items = {
        name: tuple(Item(image, index) for index, label in enumerate(classes) for image in splits[name][label])
        for name in SPLITS
        if name in splits
    }
    if bit_depth is None:
        paths = sorted(item.path for images in items.values() for item in images)
        bit_depth = chosen_bit_depth(paths, f"{path} has images of more than 8 bits", progress)
    fingerprint = fingerprint_of(source.root, classes, items)
    return Dataset(source.root, classes, items, origin, fingerprint, source.broken, bit_depth)


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
    left_out = LeftOut()
    folders = split_folders(path, left_out)
    if folders:
        note_left_out(path, left_out)
        splits = {name: class_images(folder, left_out) for name, folder in folders.items()}
        origin = {name: f"{folder.name}/" for name, folder in folders.items()}
    else:
        splits, origin = {"train": class_images(path, left_out)}, {"train": "class folders"}
    total = sum(len(images) for by_class in splits.values() for images in by_class.values())
    left_out.report(path, progress)
    broken = BrokenImages(total + len(left_out.dangling), max_bad)
    for path_to_nothing in left_out.dangling:
        what = "the link leads to no file" if path_to_nothing.is_symlink() else "a pipe or a device, not a file"
        broken.add(path_to_nothing, what, progress)
    return _Source(path, splits, origin, broken)


def has_lists(path: Path) -> bool:
    """Return whether the splits of a dataset are list files."""
    return bool(_lists(path))


def _lists(path: Path) -> dict[str, Path]:
    """Return the list files of the splits by split; empty for a folder of images."""
    if path.is_file():
        return sibling_lists(path) or {"train": path}
    has_class_folders = any(subfolders(each) for each in subfolders(path) if each.name.lower() in SPLIT_NAMES)
    return {} if has_class_folders or not (path / "train.txt").is_file() else sibling_lists(path / "train.txt")


def _listed_images(
    rows: Mapping[str, Sequence[tuple[Path, str]]], source: Path, broken: BrokenImages, progress: Progress
) -> dict[str, _ByClass]:
    if not any(image.is_file() for images in rows.values() for image, _ in images):
        first = next(iter(rows.values()))[0][0]
        advice = (
            "write / between folders, not \\" if "\\" in first.name else "write paths relative to the list's folder"
        )
        raise DataError(f"none of the images listed in {source} exist (first: {first}); {advice}")
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
    if repeated:
        progress.say(f"{source} lists images more than once: {len(repeated)}, such as {repeated[0]}; each is used once")
    return splits


def _classes(path: Path, splits: Mapping[str, _ByClass]) -> tuple[str, ...]:
    """Return the classes of all splits in their order.

    Raises:
        DataError: a class has no training images, or there is only one class to train on.
    """
    classes = class_order({label for images in splits.values() for label in images})
    _require_one_spelling(path, classes, splits)
    if "train" not in splits:
        return classes
    for label in classes:
        if splits["train"].get(label):
            continue
        elsewhere = [name for name, images in splits.items() if images.get(label)]
        if elsewhere:
            raise DataError(
                f"class '{label}' of {path} is in {elsewhere[0]} but has no images in train; add some, or remove the "
                "class from all splits"
            )
        raise DataError(f"class '{label}' has no images in {path}; add some or remove the class")
    if len(classes) < 2:
        inner = path / classes[0]
        splits_inside = (
            [each.name for each in subfolders(inner) if each.name.lower() in SPLIT_NAMES] if inner.is_dir() else []
        )
        hint = (
            f"pass {inner}, which contains {splits_inside[0]}/" if splits_inside else "a classifier needs two or more"
        )
        raise DataError(f"{path} has only one class, '{classes[0]}'; {hint}")
    return classes


def _require_one_spelling(path: Path, classes: Sequence[str], splits: Mapping[str, _ByClass]) -> None:
    """Check that no two class names look the same, as after a copy from macOS, which stores accents as own characters.

    Raises:
        DataError: two names differ only in their Unicode normalisation.
    """
    by_form: dict[str, str] = {}
    for label in classes:
        other = by_form.setdefault(unicodedata.normalize("NFC", label), label)
        if other != label:
            first, second = (
                f"{name!a} in {next(split for split, images in splits.items() if name in images)}"
                for name in (other, label)
            )
            raise DataError(
                f"{path} has two classes that look like '{unicodedata.normalize('NFC', label)}' but store its accents "
                f"differently: {first} and {second}; give both the same name, such as by typing it again"
            )


def _report_absent_classes(split: str, absent: Sequence[str], progress: Progress) -> None:
    """Report classes without images in a split, which is normal for rare classes."""
    if absent:
        more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
        names = ", ".join(f"'{label}'" for label in absent[:3]) + more
        progress.say(f"no images of class {names} in {split}; the figures on {split} say nothing about it")


def fingerprint_of(root: Path, classes: Sequence[str], splits: Mapping[str, Sequence[Item]]) -> str:
    """Return the fingerprint of a dataset, see `Dataset`."""
    digest = hashlib.sha256()
    lines = []
    for items in splits.values():
        for item in items:
            # A list may contain absolute paths outside the root; those stay absolute.
            name, status = relative_name(item.path, root), os.stat(item.path)  # noqa: PTH116
            lines.append(f"{name}\0{status.st_size}\0{classes[item.label]}\n")
    for line in sorted(lines):
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()
