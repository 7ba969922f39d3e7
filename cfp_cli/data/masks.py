"""Segmentation masks beside images: `images/NAME.jpg` has the mask `masks/NAME.png`, whose pixels are class indices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cfp_cli.data.image_file import open_image
from cfp_cli.data.images import ImageStore
from cfp_cli.data.left_out import MASK_FOLDER
from cfp_cli.data.without_labels import IMAGE_FOLDERS
from cfp_cli.foundation.errors import DataError

# Pixels of this index belong to no class, and no metric counts them.
IGNORED = 255

_ORIENTATION = 0x0112
# EXIF orientations that exchange height and width.
_TRANSPOSED = (5, 6, 7, 8)


class MaskBatches:
    """A loader of images and their masks. It yields the same batches each time it is iterated.

    The masks are read anew each time, and have the size of the image files.

    Args:
        store: the images, in a folder `images` beside a folder `masks`; see `mask_file`.
        batch_size: number of images in each batch; the last batch may be smaller.
        classes: number of classes; None does not check that the indices are below it.

    Yields:
        Preprocessed images float32 [n, C, H, W], and their n masks int64 [height, width]: class indices, or 255 for
        pixels of no class.

    Raises:
        DataError: an image has no mask, or a mask cannot be read, is no map of indices, has another size or contains
            the index of no class.
    """

    def __init__(self, store: ImageStore, batch_size: int, classes: int | None = None) -> None:
        self.classes = classes
        self.batches = store.batches(batch_size)
        self.masks = [mask_file(path) for path in store.paths]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, list[Tensor]]]:
        paths, start = self.batches.store.paths, 0
        for images, _ in self.batches:
            stop = start + len(images)
            pairs = zip(self.masks[start:stop], paths[start:stop], strict=True)
            yield images, [read_mask(mask, image, self.classes) for mask, image in pairs]
            start = stop


def mask_file(image: Path) -> Path:
    """Return the mask of an image: the PNG file of the same stem, in the folder `masks` beside the folder `images`.

    Subfolders of `images`, such as splits, are subfolders of `masks` too.

    Raises:
        DataError: there is no such file.
    """
    for folder in image.parents:
        if folder.name.lower() in IMAGE_FOLDERS and (folder.parent / MASK_FOLDER).is_dir():
            mask = folder.parent / MASK_FOLDER / image.relative_to(folder).with_suffix(".png")
            if mask.is_file():
                return mask
            raise DataError(f"{image} has no mask {mask}; add it, or move the image out of its folder")
    raise DataError(
        f"{image} has no mask; put the images into a folder images/ and their masks, PNG files of class indices with "
        f"the same names, into a folder {MASK_FOLDER}/ beside it; if the network is an encoder, train a head by `cfp "
        "train DATA --init CKPT --new-head`"
    )


def has_masks(images: Sequence[Path]) -> bool:
    """Return whether each image has a mask, see `mask_file`; False without images."""
    try:
        return bool([mask_file(image) for image in images])
    except DataError:
        return False


def read_mask(mask: Path, image: Path, classes: int | None = None) -> Tensor:
    """Read the class index of each pixel, int64 [height, width].

    Args:
        mask: a PNG file with one channel or with a palette, whose indices are taken.
        image: the image, which must have the same size.
        classes: number of classes; None does not check that the indices are below it.

    Raises:
        DataError: the file cannot be read, has several channels, has another size than the image, or contains the
            index of no class.
    """
    try:
        with open_image(mask) as file:
            if file.format == "JPEG":
                raise DataError(f"the mask {mask} is a JPEG file, which changes class indices; save it as PNG")
            channels = len(file.getbands())
            values = np.array(file) if channels == 1 else np.zeros((0, 0))
    except UnidentifiedImageError as error:
        raise DataError(f"the mask {mask} is not an image; save it as PNG") from error
    # Pillow's decoders raise many kinds of errors on damaged or hostile files.
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise DataError(f"the mask {mask} cannot be read ({reason}); save it again as PNG") from error
    if channels != 1 or values.dtype.kind == "f":
        kind = "floating-point numbers" if channels == 1 else f"{channels} channels"
        raise DataError(f"the mask {mask} has {kind}, not class indices; save a PNG with one channel of whole numbers")
    height, width = _size(image)
    if values.shape != (height, width):
        raise DataError(
            f"the mask {mask} has {values.shape[1]} x {values.shape[0]} pixels but its image has {width} x {height}; "
            "save it at the size of the image"
        )
    indices = torch.from_numpy(values.astype(np.int64))
    require_classes(indices, classes, f"the mask {mask}")
    return indices


def require_classes(mask: Tensor, classes: int | None, name: str = "a mask") -> None:
    """Check that each index of a mask is that of a class or 255.

    Args:
        mask: class indices, int64 [height, width].
        classes: number of classes; None checks nothing.
        name: what the message calls the mask.

    Raises:
        DataError: an index is neither.
    """
    if classes is None:
        return
    wrong = mask[(mask != IGNORED) & ((mask < 0) | (mask >= classes))]
    if len(wrong):
        raise DataError(
            f"{name} contains the class index {int(wrong[0])}, but the network has the classes 0 to {classes - 1}; "
            f"save class indices, and {IGNORED} where a pixel shall not count"
        )


def _size(image: Path) -> tuple[int, int]:
    """Return height and width of an image as it is shown, after the rotation that its EXIF data state."""
    with open_image(image) as file:
        width, height = file.size
        return (width, height) if file.getexif().get(_ORIENTATION, 1) in _TRANSPOSED else (height, width)
