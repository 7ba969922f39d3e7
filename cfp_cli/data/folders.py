"""Image folders: `CLASS/*` trees, as torchvision's ImageFolder reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import Image

from cfp_cli.foundation.errors import DataError

# Formats that Pillow knows but hands to an outside program or handler.
_NOT_DECODED_HERE = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def image_extensions() -> frozenset[str]:
    """Lower-case file name endings, with their dot, of the formats that Pillow itself decodes."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _NOT_DECODED_HERE)


def is_image(path: Path) -> bool:
    """Whether a file's name is that of an image; hidden files, such as macOS's `._*`, are none."""
    return not path.name.startswith(".") and path.suffix.lower() in image_extensions()


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder` that are not hidden, by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def has_images(folder: Path) -> bool:
    """Whether an image lies in `folder` itself."""
    return any(is_image(path) and path.is_file() for path in folder.iterdir())


def images_below(folder: Path) -> list[Path]:
    """All images in `folder` and its subfolders, by path."""
    return sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())


def class_images(folder: Path) -> dict[str, list[Path]]:
    """The images of a `CLASS/*` tree by class name, in name order.

    Raises:
        DataError: there are no class folders, or one of them holds no image.
    """
    folders = subfolders(folder)
    if not folders:
        hint = "it holds images, not class folders" if has_images(folder) else "it holds no class folders"
        raise DataError(f"{folder} is not an image folder: {hint}; arrange the images as {folder}/CLASS/*")
    found = {path.name: images_below(path) for path in folders}
    if not any(found.values()):
        raise DataError(f"no images under {folder}; arrange them as {folder}/CLASS/*")
    for name, images in found.items():
        if not images:
            raise DataError(f"class '{name}' has no images in {folder / name}; add some or remove the folder")
    return found
