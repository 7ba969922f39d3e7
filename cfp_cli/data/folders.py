"""Image folders: `CLASS/*` trees, read as torchvision's ImageFolder reads them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import Image

from cfp_cli.foundation.errors import DataError

# Formats that Pillow opens only with an external program or handler.
_EXTERNAL_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def image_extensions() -> frozenset[str]:
    """Return the file name extensions, in lower case with the dot, of the formats that Pillow itself decodes."""
    known = Image.registered_extensions()
    return frozenset(end for end, kind in known.items() if kind in Image.OPEN and kind not in _EXTERNAL_FORMATS)


def is_image(path: Path) -> bool:
    """Return whether a file has the name of an image. Hidden files, such as `._*` of macOS, are not images."""
    return not path.name.startswith(".") and path.suffix.lower() in image_extensions()


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in `folder` that are not hidden, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def has_images(folder: Path) -> bool:
    """Return whether `folder` itself contains an image."""
    return any(is_image(path) and path.is_file() for path in folder.iterdir())


def images_below(folder: Path) -> list[Path]:
    """Return all images in `folder` and its subfolders, sorted by path."""
    return sorted(path for path in folder.rglob("*") if is_image(path) and path.is_file())


def class_images(folder: Path) -> dict[str, list[Path]]:
    """Return the images of a `CLASS/*` tree by class name, sorted by name.

    Raises:
        DataError: there are no class folders, or one of them contains no image.
    """
    folders = subfolders(folder)
    if not folders:
        hint = "it holds images, not class folders" if has_images(folder) else "it holds no class folders"
        raise DataError(f"{folder} is not an image folder: {hint}; arrange the images as {folder}/CLASS/*")
    by_class = {path.name: images_below(path) for path in folders}
    if not any(by_class.values()):
        raise DataError(f"no images under {folder}; arrange them as {folder}/CLASS/*")
    for name, images in by_class.items():
        if not images:
            raise DataError(f"class '{name}' has no images in {folder / name}; add some or remove the folder")
    return by_class
