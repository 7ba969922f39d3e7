"""Pixels of more than 8 bits: 16-bit and 32-bit whole numbers, signed ones, and floating-point numbers.

One rule converts them to 8 bits: with a bit depth of B, 0 is black and 2^B - 1 is white. Values below and above are
clipped. The upper 8 bits are kept. A bit depth of 1 means numbers from 0 to 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from cfp_cli.data.choices import BitDepth
from cfp_cli.data.image_file import open_image
from cfp_cli.data.remarks import Remarks

UInt8 = npt.NDArray[np.uint8]
BIT_DEPTHS: tuple[BitDepth, ...] = get_args(BitDepth)

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_MIN_IS_WHITE = 0
_UNSIGNED = (1,)
# Pillow's names of 16-bit colours in a file, and the same with the bytes of each number exchanged.
_EXCHANGED = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA")
    for order, other in {"L": "B", "N": "B", "B": "L"}.items()
}


class UnreadableDepthError(ValueError):
    """Pillow would read the wrong numbers from this file; the message is the reason."""


def is_deep(image: Image.Image) -> bool:
    """Return whether the pixels of an opened image have more than 8 bits.

    Raises:
        UnreadableDepthError: Pillow would read wrong numbers from this file.
    """
    if image.mode.startswith(("I", "F")):
        # Pillow exchanges black and white in images of 8 bits only.
        if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE:
            raise UnreadableDepthError("0 is white in this TIFF file; save it with 0 as black (MinIsBlack)")
        return True
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    raw_modes = [_raw_mode(tile) for tile in getattr(image, "tile", ())]
    deep = any(";16" in mode for mode in raw_modes)
    if max(bits) > 8 and not deep:
        raise UnreadableDepthError(f"{max(bits)} bits in separate planes; save the channels of a pixel together")
    return deep


def natural_depth(image: Image.Image) -> BitDepth:
    """Return the bit depth of the format of an image that `is_deep`, where none is recorded.

    Raises:
        UnreadableDepthError: the image has floating-point numbers, whose range is not known.
    """
    if image.mode == "F":
        raise UnreadableDepthError("float pixels have no known range; pass --bit-depth, or save 8 or 16 bits")
    return 16


def deep_values(image: Image.Image) -> npt.NDArray[Any]:
    """Return the numbers in the file of an opened image that `is_deep`: [H, W], or [H, W, C] for colours.

    Raises:
        UnreadableDepthError: Pillow does not decode all bits of this format.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        tags = getattr(image, "tag_v2", None)
        # The TIFF standard says that numbers are unsigned where the tag is missing.
        unsigned = image.mode == "I" and tags is not None and tags.get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED
        return values.view(np.uint32) if unsigned and values.dtype == np.int32 else values
    # Pillow keeps the upper byte of 16-bit colours. Decoding once more with the bytes exchanged returns the lower one.
    upper = np.asarray(image).astype(np.uint16)
    with open_image(image.filename) as again:  # type: ignore[attr-defined]
        again.seek(image.tell())
        tiles = [_exchanged(tile) for tile in again.tile]
        if None in tiles:
            raise UnreadableDepthError("16 bits with transparency; save the image without transparency")
        again.tile = tiles
        lower = np.asarray(again).astype(np.uint16)
    return (upper << 8) | lower


def to_8_bits(values: npt.NDArray[Any], depth: int, path: Path, remarks: Remarks) -> UInt8:
    """Convert numbers to 8 bits by the rule of this module.

    Args:
        values: whole or floating-point numbers of any shape.
        depth: number of bits of white, see `BitDepth`.
        path: file of the numbers, for `remarks`.
        remarks: collects the files with numbers below black or above white.

    Raises:
        UnreadableDepthError: there are NaN or infinite numbers.
    """
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UnreadableDepthError("pixels are NaN or infinite")
    white = 2**depth - 1
    if values.size and values.min() < 0:
        remarks.add("below black", path)
    # Floating-point values may exceed 1 by a rounding error.
    if values.size and values.max() > white * (1 + 1e-6):
        remarks.add("above white", path)
    clipped = np.clip(values.astype(np.float64), 0, white)
    scaled = np.rint(clipped * 255) if depth == 1 else np.floor(clipped / 2 ** (depth - 8))
    return scaled.astype(np.uint8)


def _raw_mode(tile: Any) -> str:
    arguments = tile[3]
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _exchanged(tile: Any) -> Any:
    name = _EXCHANGED.get(_raw_mode(tile))
    if name is None:
        return None
    arguments = tile[3]
    return tile._replace(args=(name, *arguments[1:]) if isinstance(arguments, tuple) else name)
