"""`cfp data split`: a public set's own layout to `DST/{train,val,test}/CLASS/`."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfp_cli.data.filling import fill_folder
from cfp_cli.data.layouts import ByClass, read_layout
from cfp_cli.data.listing import SPLITS
from cfp_cli.data.split import divide
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress


@dataclass(frozen=True)
class Arrangement:
    """What `split_layout` wrote.

    Attributes:
        layout: the layout that was read; `folders` for plain class folders and lists.
        destination: the folder that was written.
        classes: class names.
        images: number of images by split and class.
    """

    layout: str
    destination: Path
    classes: tuple[str, ...]
    images: Mapping[str, Mapping[str, int]]

    def to_json(self) -> dict[str, Any]:
        """The arrangement as plain data."""
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
    """Copy a public set into `destination/{train,val,test}/CLASS/`; splits that it brings stay as they are.

    Args:
        source: the set's folder, or `elpv-dataset` for the installed package.
        destination: a folder that does not exist or is empty.
        layout: `auto`, `neu`, `gc10`, `x-sdd` or `elpv`; see `read_layout`.
        seed: decides which images the made splits take, and which `counts` leave in train.
        val_fraction: fraction of each class's training images that goes to `val`, where the set has none.
        test_fraction: fraction of each class's images that goes to `test`, where the set has none.
        counts: training images to keep of each class, for a long-tailed training set such as `X_SDD_LONG_TAIL`; `val`
            and `test` are made before and keep the natural distribution, the rest is left out.
        progress: told of the images copied.

    Raises:
        UsageError: there is no such layout, fractions are out of range, or `counts` names other classes or more images
            than there are.
        DataError: the source is not laid out so, or the destination holds something.
    """
    if not (val_fraction > 0 and test_fraction > 0 and val_fraction + test_fraction < 1):
        raise UsageError(
            f"split fractions {val_fraction:g} and {test_fraction:g} must be above 0 and sum to less than 1; "
            "pass other fractions"
        )
    found = read_layout(source, layout, progress)
    splits = dict(found.splits)
    names = {path: name for images in splits.values() for part in images.values() for path, name in _named(part)}
    missing = {name: part for name, part in (("test", test_fraction), ("val", val_fraction)) if name not in splits}
    splits["train"], made = divide(splits["train"], missing, seed)
    splits.update(made)
    if counts is not None:
        splits["train"] = _thinned(splits["train"], counts, seed)
    splits = {name: splits[name] for name in SPLITS}
    jobs = [
        (path, Path(split, label, names[path]))
        for split, images in splits.items()
        for label, members in images.items()
        for path in members
    ]

    def fill(target: Path) -> None:
        for split, images in splits.items():
            for label in images:
                (target / split / label).mkdir(parents=True)
        for path, name in progress.track(jobs, "copying images", total=len(jobs), unit="image"):
            shutil.copyfile(path, target / name)

    fill_folder(Path(destination), fill)
    images = {split: {label: len(members) for label, members in images.items()} for split, images in splits.items()}
    return Arrangement(found.layout, Path(destination), tuple(splits["train"]), images)


def _thinned(images: ByClass, counts: Mapping[str, int], seed: int) -> ByClass:
    if set(counts) != set(images):
        raise UsageError(
            f"counts are for {', '.join(sorted(counts))} but the classes are {', '.join(sorted(images))}; "
            "name each class once"
        )
    thinned = {}
    for label, members in images.items():
        if not 1 <= counts[label] <= len(members):
            raise UsageError(
                f"class '{label}' has {len(members)} training images, not {counts[label]}; ask for 1 to {len(members)}"
            )
        order = np.random.default_rng([seed, zlib.crc32(label.encode()), 1]).permutation(len(members))
        thinned[label] = [members[index] for index in np.sort(order[: counts[label]])]
    return thinned


def _named(paths: list[Path]) -> Iterator[tuple[Path, str]]:
    """The files with their names; where two names are the same, with those of the folders before them."""
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        common = Path(os.path.commonpath(paths))
        names = ["__".join(path.relative_to(common).parts) for path in paths]
    return zip(paths, names, strict=True)
