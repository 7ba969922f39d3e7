"""Read public defect datasets in the layouts in which they are published.

| layout | content of the folder |
|---|---|
| `neu` | NEU-CLS: flat files named by class and number (`Cr_1.bmp`), or class folders, with or without splits |
| `gc10` | GC10-DET: folders `1` to `10` |
| `x-sdd` | X-SDD: class folders, with or without splits |
| `elpv` | ELPV: `labels.csv` of path, defect probability and cell type; or the installed package `elpv-dataset` |
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cfp_cli.data.choices import Layout
from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.folders import images_below, is_image, subfolders
from cfp_cli.data.split_folders import SPLIT_NAMES
from cfp_cli.foundation.errors import DataError, UsageError
from cfp_cli.foundation.progress import SILENT, Progress

ByClass = dict[str, list[Path]]

NEU = {
    "cr": "crazing",
    "in": "inclusion",
    "pa": "patches",
    "ps": "pitted_surface",
    "rs": "rolled-in_scale",
    "sc": "scratches",
}
GC10 = (
    "punching_hole",
    "welding_line",
    "crescent_gap",
    "water_spot",
    "oil_spot",
    "silk_spot",
    "inclusion",
    "rolled_pit",
    "crease",
    "waist_folding",
)
# In the order of the authors' lists, which is also the order of the long-tailed counts.
X_SDD = (
    "oxide_scale_of_temperature_system",
    "slag_inclusion",
    "finishing_roll_printing",
    "red_iron",
    "oxide_scale_of_plate_system",
    "surface_scratch",
    "iron_sheet_ash",
)
X_SDD_LONG_TAIL = dict(zip(X_SDD, (20, 20, 20, 200, 10, 10, 10), strict=True))
# Classes by the defect probability in percent that the experts of ELPV assigned.
ELPV = {0: "defect_000", 33: "defect_033", 67: "defect_067", 100: "defect_100"}
ELPV_PACKAGE = "elpv-dataset"

_ALIASES = {
    "finishing-roll_printing": "finishing_roll_printing",
    "iron-sheet_ash": "iron_sheet_ash",
    "pitted": "pitted_surface",
    "rolled": "rolled-in_scale",
    "rolled_in_scale": "rolled-in_scale",
}
_NEU_FILE = re.compile(r"(cr|in|pa|ps|rs|sc)_\d+", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """The images of a published dataset.

    Attributes:
        layout: the name of the layout.
        splits: images by split and class; only `train` where the layout has no splits.
    """

    layout: str
    splits: Mapping[str, ByClass]


def read_layout(source: str | Path, layout: str = "auto", progress: Progress = SILENT) -> Source:
    """Read a public dataset in its published layout.

    Args:
        source: its folder, or `elpv-dataset` for the installed package of that name.
        layout: `neu`, `gc10`, `x-sdd`, `elpv`, or `auto` to recognise the layout from the files; `auto` also reads
            every folder and list that `open_dataset` reads.
        progress: reports file names that occur in more than one class.

    Raises:
        UsageError: the layout is unknown.
        DataError: the source does not exist or has another layout.
    """
    if layout != "auto" and layout not in _READERS:
        raise UsageError(f"unknown layout '{layout}'; use auto, {', '.join(_READERS)}")
    folder = _elpv_package() if str(source) == ELPV_PACKAGE and not Path(source).exists() else Path(source)
    if not folder.exists():
        raise DataError(f"no such folder {folder}; check the path of the data")
    for name, read in _READERS.items():
        if layout in ("auto", name):
            splits = read(folder)
            if splits is not None:
                _report_shared_names(splits, progress)
                return Source(name, splits)
    if layout != "auto":
        raise DataError(f"{folder} does not have the layout {layout}; {_HINTS[layout]}")
    return Source("folders", _plain_folders(folder))


def _plain_folders(folder: Path) -> dict[str, ByClass]:
    dataset = open_dataset(folder, max_bad=0.0)
    made = [name for name, origin in dataset.split_origin.items() if origin.startswith("made")]
    splits = {name: items for name, items in dataset.splits.items() if name not in made}
    # `open_dataset` made the splits that the folder does not have. Undo that: move their images back to train.
    train = [item for name in ("train", *made) for item in dataset.split(name)]
    splits["train"] = tuple(sorted(train, key=lambda item: item.path))
    images: dict[str, ByClass] = {name: {label: [] for label in dataset.classes} for name in splits}
    for name, items in splits.items():
        for item in items:
            images[name][dataset.classes[item.label]].append(item.path)
    return images


def _neu(folder: Path) -> dict[str, ByClass] | None:
    flat = sorted(path for path in folder.iterdir() if is_image(path)) if folder.is_dir() else []
    if flat and all(_NEU_FILE.fullmatch(path.stem) for path in flat):
        images: ByClass = {}
        for path in flat:
            images.setdefault(NEU[path.stem[:2].lower()], []).append(path)
        return {"train": _every_class(folder, images, tuple(NEU.values()))}
    return _class_folders(folder, {**{name: name for name in NEU.values()}, **NEU}, tuple(NEU.values()))


def _x_sdd(folder: Path) -> dict[str, ByClass] | None:
    return _class_folders(folder, {name: name for name in X_SDD}, X_SDD)


def _gc10(folder: Path) -> dict[str, ByClass] | None:
    return _class_folders(folder, {str(number): name for number, name in enumerate(GC10, start=1)}, GC10)


def _elpv(folder: Path) -> dict[str, ByClass] | None:
    table = folder if folder.name == "labels.csv" else folder / "labels.csv"
    if not table.is_file():
        return None
    images: ByClass = {}
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            name, probability, _ = line.split()
            label = ELPV[round(float(probability) * 100)]
        except (ValueError, KeyError) as error:
            raise DataError(
                f"{table} line {number} is '{line[:60]}', not `path probability type`; restore the file"
            ) from error
        image = table.parent / name
        if not image.is_file():
            raise DataError(f"{table} names {name}, which does not exist; restore the images")
        images.setdefault(label, []).append(image)
    return {"train": _every_class(table, images, tuple(ELPV.values()))}


_READERS: dict[Layout, Callable[[Path], dict[str, ByClass] | None]] = {
    "elpv": _elpv,
    "gc10": _gc10,
    "neu": _neu,
    "x-sdd": _x_sdd,
}
_HINTS: dict[str, str] = {
    "elpv": "pass a folder with labels.csv and images/",
    "gc10": "pass a folder with the class folders 1 to 10",
    "neu": "pass a folder with files such as Cr_1.bmp or the class folders crazing to scratches",
    "x-sdd": "pass a folder with the class folders finishing_roll_printing to surface_scratch",
}


def _class_folders(folder: Path, known: Mapping[str, str], classes: tuple[str, ...]) -> dict[str, ByClass] | None:
    """Return the images of class folders by split and class; None where a class is unknown or missing."""
    if not folder.is_dir():
        return None
    names = {path.name.lower(): path for path in subfolders(folder)}
    roots = {split: names[name] for name, split in SPLIT_NAMES.items() if name in names} or {"train": folder}
    splits = {}
    for split, root in roots.items():
        images: ByClass = {}
        for path in subfolders(root):
            label = known.get(_canonical(path.name))
            if label is not None:
                images.setdefault(label, []).extend(images_below(path))
            elif images_below(path):
                # A folder without images, such as one of annotations, is ignored; an unknown class is another layout.
                return None
        if set(images) != set(classes):
            return None
        splits[split] = _every_class(root, images, classes)
    return splits if "train" in splits else None


def _canonical(name: str) -> str:
    plain = re.sub(r"[\s_]+", "_", name.strip().lower())
    return _ALIASES.get(plain, plain)


def _every_class(source: Path, images: ByClass, classes: tuple[str, ...]) -> ByClass:
    for label in classes:
        if not images.get(label):
            raise DataError(f"class '{label}' has no images in {source}; restore the dataset")
    return {label: sorted(images[label]) for label in sorted(classes)}


def _report_shared_names(splits: Mapping[str, ByClass], progress: Progress) -> None:
    """Report file names that occur in several classes: such datasets contain one photograph with two labels."""
    labels_of: dict[str, set[str]] = {}
    for images in splits.values():
        for label, members in images.items():
            for path in members:
                labels_of.setdefault(path.name, set()).add(label)
    shared = sorted(name for name, labels in labels_of.items() if len(labels) > 1)
    if shared:
        progress.say(f"{len(shared)} file names are in more than one class, such as {shared[0]}")


def _elpv_package() -> Path:
    found = importlib.util.find_spec("elpv_dataset")
    if found is None or found.origin is None:
        raise DataError(
            "the package elpv-dataset is not installed; run pip install elpv-dataset or pass the folder of labels.csv"
        )
    return Path(found.origin).parent / "data"
