"""A decoded image with any number of channels of 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8 = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Raster:
    """An image of C channels as Pillow images of 8 bits.

    Attributes:
        parts: one grey image, one RGB image, or one grey image for each of the C channels. All have the same size.
            Pillow has no image of more than four channels, and weights the colours by the fourth when it resizes.
    """

    parts: tuple[Image.Image, ...]

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.parts[0].width

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.parts[0].height

    @property
    def mode(self) -> str:
        """Pillow's mode of the image, `L` or `RGB`; otherwise the number of channels."""
        return self.parts[0].mode if len(self.parts) == 1 else str(len(self.parts))

    def resized(self, size: tuple[int, int], box: Box | None = None) -> Raster:
        """Resize to height and width in pixels with an antialiased bilinear filter.

        Args:
            size: height and width.
            box: left, top, right and bottom of the part to resize; the whole image where None.
        """
        if box is None and (self.height, self.width) == size:
            return self
        height, width = size
        bilinear = Image.Resampling.BILINEAR
        return Raster(tuple(part.resize((width, height), bilinear, box=box) for part in self.parts))

    def cropped(self, left: int, top: int, right: int, bottom: int) -> Raster:
        """Cut out a rectangle; pixels outside the image are black."""
        return Raster(tuple(part.crop((left, top, right, bottom)) for part in self.parts))

    def channels_first(self) -> UInt8:
        """Return the pixels as uint8 [C, H, W]."""
        if len(self.parts) == 1 and self.parts[0].mode == "RGB":
            return np.ascontiguousarray(np.asarray(self.parts[0]).transpose(2, 0, 1))
        return np.stack([np.asarray(part) for part in self.parts])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return the pixels as uint8 [H, W, C], or [H, W] for one channel, as Pillow's images do."""
        pixels = self.channels_first()
        shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
        return np.array(shown, dtype=dtype, copy=copy)


def as_colours(pixels: UInt8) -> UInt8:
    """Return pixels uint8 [C, H, W] as colours uint8 [3, H, W]: the first three channels, or the first one as grey."""
    return np.repeat(pixels[:1], 3, axis=0) if len(pixels) < 3 else pixels[:3]
