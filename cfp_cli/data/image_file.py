"""Open image files with the decoders of Pillow that run no other program."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from PIL import Image, ImageFile

# Formats that Pillow opens only with an external program or handler, such as PostScript with Ghostscript. Pillow
# recognises a format by the content of a file, so the name of a file does not exclude them.
_EXTERNAL_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}


@cache
def image_formats() -> tuple[str, ...]:
    """Return the formats that Pillow itself decodes, in the order in which it tries them."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind in Image.OPEN and kind not in _EXTERNAL_FORMATS)


@cache
def image_extensions() -> frozenset[str]:
    """Return the file name extensions of these formats, in lower case with the dot."""
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in image_formats())


def open_image(path: Path | str) -> ImageFile.ImageFile:
    """Open an image file as `PIL.Image.open` does. No other program runs, whatever the file contains.

    Raises:
        UnidentifiedImageError: the file is not an image of these formats.
        OSError: the file cannot be read.
    """
    return Image.open(path, formats=image_formats())
