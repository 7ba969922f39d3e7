"""Image folders without class folders, as a dataset without labels."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from cfp_cli.data.bit_depth import chosen_bit_depth
from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import MADE, Dataset, Item, fingerprint_of, has_lists
from cfp_cli.data.folders import contains_images, images_below, is_run, note_left_out, subfolders
from cfp_cli.data.left_out import LeftOut
from cfp_cli.data.listing import SPLITS
from cfp_cli.data.split import divide
from cfp_cli.data.split_folders import SPLIT_NAMES
from cfp_cli.data.unlabelled import find_images
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import SILENT, Progress

# Names of folders that contain the images where masks or boxes are in folders beside them, in lower case.
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
# Names of folders that contain masks or labels, and endings of the names of masks beside their images, in lower case.
_MASK_FOLDERS = {"mask", "masks", "label", "labels", "annotation", "annotations", "ground_truth", "groundtruth", "gt"}
_MASK_ENDINGS = ("_mask", "_masks", "_label", "_gt", "-mask", ".mask")


def has_labels(path: Path) -> bool:
    """Return whether a folder contains class folders with images, or lists of images and their classes.

    A path without images is taken for one with labels, so that reading it explains what is wrong.

    Raises:
        DataError: a folder cannot be read.
    """
    if not path.is_dir() or has_lists(path) or not contains_images(path):
        return True
    folders = [folder for folder in subfolders(path) if not is_run(folder)]
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    classes = [folder for folder in folders if folder not in splits]
    return any(contains_images(each) for each in (*classes, *(inner for each in splits for inner in subfolders(each))))


def open_without_labels(
    path: str | Path,
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    max_bad: float = 0.01,
    bit_depth: int | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """List the images below a folder, or those of a list file, as a dataset without classes; all labels are 0.

    Split folders are recognised as `open_dataset` does if one of them is `train`. Missing splits are made by a seeded
    choice. Without `train`, they are recognised if all contain images beside masks, and no split is made. Beside
    folders of masks or boxes, only those of a folder `images` are taken, also inside a split.

    Args:
        path: the folder; or a text file with the path of an image on each line, whose labels are not read.
        seed: seed of the choice of images for splits that are made.
        val_fraction: fraction of the images that go to `val`, where it is made.
        test_fraction: fraction of the images that go to `test`, where it is made.
        max_bad: largest fraction of images that may be broken.
        bit_depth: number of bits of white in images of more than 8 bits; None chooses it, see `open_dataset`.
        progress: reports what is not read.

    Raises:
        DataError: the path does not exist, or contains fewer than three images to make splits of.
    """
    path = Path(path)
    left_out = LeftOut()
    splits, origin = _splits(path, left_out) if path.is_dir() else (_listed(path, left_out), {"train": path.name})
    root = path if path.is_dir() else path.parent
    missing = {"test": test_fraction, "val": val_fraction}
    missing = {name: fraction for name, fraction in missing.items() if name not in splits}
    if "train" in splits and len(splits["train"]) <= len(missing):
        raise DataError(f"{path} contains {len(splits['train'])} images to score; add more")
    left_out.report(path, progress)
    if "train" in splits:
        train, made = divide({"": splits["train"]}, missing, seed)
        splits["train"] = train[""]
        for name, images in made.items():
            splits[name] = images[""]
            origin[name] = f"{MADE}, fraction {missing[name]:g}, seed {seed}"
    items = {name: tuple(Item(image, 0) for image in splits[name]) for name in SPLITS if name in splits}
    broken = BrokenImages(sum(map(len, items.values())) + len(left_out.dangling), max_bad)
    for path_to_nothing in left_out.dangling:
        broken.add(path_to_nothing, "no such file", progress)
    if bit_depth is None:
        paths = sorted(item.path for images in items.values() for item in images)
        bit_depth = chosen_bit_depth(paths, f"{path} has images of more than 8 bits", progress)
    return Dataset(root, (), items, origin, fingerprint_of(root, ("",), items), broken, bit_depth)


def _listed(path: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Return the images of a list file; those that do not exist count as broken."""
    images = find_images([path])
    left_out.dangling.extend(image for image in images if not image.is_file())
    return {"train": sorted(image for image in images if image.is_file())}


def _splits(path: Path, left_out: LeftOut) -> tuple[dict[str, list[Path]], dict[str, str]]:
    """Return the images of each split, and the folder that each split comes from."""
    root = _image_folder(path, left_out)
    named: dict[str, Path] = {}
    for folder in subfolders(root):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in named:
            raise DataError(
                f"{root} has two folders for the split {split}, '{named[split].name}' and '{folder.name}'; merge or "
                "rename one of them"
            )
        if split is not None:
            named[split] = folder
    if "train" not in named and not _are_evaluated(named.values()):
        runs = [folder for folder in subfolders(root) if is_run(folder)]
        left_out.runs.extend(runs)
        return {"train": _without_masks(root, left_out)}, {"train": "all images"}
    note_left_out(root, left_out)
    left_out.beside.extend(folder for folder in subfolders(root) if folder not in named.values())
    images = {split: _without_masks(_image_folder(folder, left_out), left_out) for split, folder in named.items()}
    return images, {split: f"{folder.name}/" for split, folder in named.items()}


def _are_evaluated(splits: Collection[Path]) -> bool:
    """Return whether split folders contain images beside masks, which `cfp eval` measures also without `train`."""
    inner = [{each.name.lower() for each in subfolders(split)} for split in splits]
    return bool(inner) and all(names & _MASK_FOLDERS and names & set(IMAGE_FOLDERS) for names in inner)


def _without_masks(root: Path, left_out: LeftOut) -> list[Path]:
    """Return the images below a folder without masks: those in folders of masks, and `NAME_mask` beside `NAME`.

    If all images are in folders of such names, they are taken for images.
    """
    images = images_below(root, left_out)
    folders = {each.parent for each in images}
    of_masks = {each for each in folders if _MASK_FOLDERS & {part.lower() for part in each.relative_to(root).parts}}
    if of_masks == folders:
        of_masks = set()
    stems = {(each.parent, each.stem) for each in images}
    masks = [each for each in images if each.parent in of_masks or _is_mask(each, stems)]
    left_out.masks.extend(masks)
    chosen = set(masks)
    return [each for each in images if each not in chosen]


def _is_mask(image: Path, stems: set[tuple[Path, str]]) -> bool:
    """Return whether an image is the mask of another one in its folder, by its name."""
    ending = next((each for each in _MASK_ENDINGS if image.stem.lower().endswith(each)), None)
    return ending is not None and (image.parent, image.stem[: -len(ending)]) in stems


def _image_folder(folder: Path, left_out: LeftOut) -> Path:
    """Return the folder `images` in a folder, if it exists, and report its neighbours as left out; else the folder."""
    inner = next((each for each in subfolders(folder) if each.name.lower() in IMAGE_FOLDERS), None)
    if inner is None or not contains_images(inner):
        return folder
    left_out.neighbours.extend(each for each in subfolders(folder) if each != inner and not is_run(each))
    note_left_out(folder, left_out)
    return inner
