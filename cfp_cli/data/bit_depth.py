"""Choose the bit depth of a dataset from a sample of its images."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cfp_cli.data.choices import BitDepth
from cfp_cli.data.deep_pixels import BIT_DEPTHS, deep_values, is_deep
from cfp_cli.data.image_file import open_image
from cfp_cli.foundation.failures import exhausted
from cfp_cli.foundation.progress import Progress

SAMPLE = 64
# Formats of 8 bits only.
_SHALLOW = {".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".ico"}


def choose_bit_depth(paths: Sequence[Path]) -> tuple[BitDepth, float] | None:
    """Return the smallest bit depth that holds the largest value in a sample of images, and that value.

    Args:
        paths: images of a dataset. Up to 64 of them, spread evenly, are read.

    Returns:
        None where no image of the sample has more than 8 bits.
    """
    candidates = [path for path in paths if path.suffix.lower() not in _SHALLOW]
    indices = np.unique(np.linspace(0, max(len(candidates) - 1, 0), SAMPLE).astype(int)) if candidates else ()
    largest = [value for value in (_largest(candidates[index]) for index in indices) if value is not None]
    if not largest:
        return None
    white = max(largest)
    return next((bits for bits in BIT_DEPTHS if white <= 2**bits - 1), BIT_DEPTHS[-1]), white


def chosen_bit_depth(paths: Sequence[Path], reason: str, progress: Progress) -> BitDepth | None:
    """Choose the bit depth of images and say so; see `choose_bit_depth`.

    Args:
        paths: the images.
        reason: the beginning of the message, which says why a choice is needed.
        progress: reports the choice.
    """
    choice = choose_bit_depth(paths)
    if choice is None:
        return None
    depth, largest = choice
    progress.say(
        f"{reason}; the largest value of a sample is {largest:g}, so the bit depth is {depth} and white is "
        f"{2**depth - 1}; pass --bit-depth to change it"
    )
    return depth


def _largest(path: Path) -> float | None:
    """Return the largest value of an image of more than 8 bits; None for other images and broken ones."""
    try:
        with warnings.catch_warnings(), open_image(path) as image:
            warnings.filterwarnings("ignore", module=r"PIL\.")
            if not is_deep(image):
                return None
            image.load()
            values = deep_values(image)
            return float(values.max()) if values.size and np.isfinite(values).all() else None
    # Decoding the dataset reports the images that cannot be read. Pillow's decoders raise many kinds of errors.
    except Exception as error:
        if exhausted(error):
            raise
        return None
