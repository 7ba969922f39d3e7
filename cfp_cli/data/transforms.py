"""Convert an image file to the input tensor of a network."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from cfp_cli.data.arrays import array_advice
from cfp_cli.data.deep_pixels import deep_values, is_deep, natural_depth, to_8_bits
from cfp_cli.data.image_file import open_image
from cfp_cli.data.raster import Raster, UInt8
from cfp_cli.data.remarks import Remarks

# The number of the EXIF tag.
_ORIENTATION = 0x0112
# TIFF and BigTIFF in both byte orders. Pillow does not recognise a TIFF file of numbers that it cannot decode.
_TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class InputSpec(Protocol):
    """The preprocessing of a model."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of each channel, subtracted from values in [0, 1]."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of each channel that the differences are divided by."""

    @property
    def channels(self) -> int:
        """Number of channels C."""

    @property
    def bit_depth(self) -> int | None:
        """Number of bits of white in images of more than 8 bits."""


class BrokenImageError(Exception):
    """An image file cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic transform of a model: convert the channels, resize, scale to [0, 1], normalise.

    Attributes:
        input_size: height and width in pixels.
        mean: mean of each channel, subtracted from values in [0, 1].
        std: standard deviation of each channel that the differences are divided by.
        channels: number of channels C: 1 for grey, 3 for red, green and blue; see `decode`.
        bit_depth: number of bits of white in images of more than 8 bits; None takes that of the file format.
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: int = 3
    bit_depth: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a size or a deviation is not positive, or there is not one mean and deviation for each channel.
        """
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise ValueError(f"input size {self.input_size} must be a positive height and width")
        wrong_count = len(self.mean) != self.channels or len(self.std) != self.channels
        if wrong_count or not all(0 < each < math.inf for each in self.std):
            raise ValueError(
                f"mean {self.mean} and std {self.std} must have {self.channels} values each, std finite and above 0"
            )

    @classmethod
    def of(cls, spec: InputSpec) -> Preprocessing:
        """Return the preprocessing of a model's spec."""
        return cls(spec.input_size, spec.mean, spec.std, spec.channels, spec.bit_depth)

    def decode(self, path: Path, remarks: Remarks | None = None) -> Raster:
        """Decode an image to the channels of the network, see `decode`.

        Raises:
            BrokenImageError: the file is not an image, is truncated, or lacks channels.
        """
        return decode(path, self.channels, self.bit_depth, remarks)

    def pixels(self, path: Path, remarks: Remarks | None = None) -> UInt8:
        """Decode an image and resize it.

        Args:
            path: the image file.
            remarks: collects the rules that apply to this image.

        Returns:
            uint8 [C, H, W] in [0, 255], resized by Pillow's antialiased bilinear filter. torchvision's `Resize` of a
            Pillow image has the same result.

        Raises:
            BrokenImageError: the file is not an image, is truncated, or lacks channels.
        """
        return self.decode(path, remarks).resized(self.input_size).channels_first()

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale uint8 [..., C, H, W] to float32 in [0, 1], subtract the mean and divide by the deviation."""
        values = pixels.to(torch.float32).div_(255.0)
        if any(self.mean) or any(value != 1.0 for value in self.std):
            values -= torch.tensor(self.mean, device=values.device).view(-1, 1, 1)
            values /= torch.tensor(self.std, device=values.device).view(-1, 1, 1)
        return values


def decode(path: Path, channels: int = 3, bit_depth: int | None = None, remarks: Remarks | None = None) -> Raster:
    """Decode an image file to channels of 8 bits.

    One channel is the luminance, three are red, green and blue, four are these and the opacity. Any other number needs
    a file with as many channels: pages of a TIFF file, or channels of a page. Grey becomes three equal channels.

    Args:
        path: the image file.
        channels: number of channels C.
        bit_depth: number of bits of white in images of more than 8 bits; None takes that of the file format.
        remarks: collects the rules that apply to this image.

    Raises:
        BrokenImageError: the file is not an image, is truncated, or lacks channels.
    """
    remarks = remarks or Remarks()
    try:
        with open_image(path) as image:
            pages = getattr(image, "n_frames", 1)
            if channels not in (1, 3) and pages > 1 and pages * len(image.getbands()) == channels:
                return Raster(tuple(part for page in _pages(image, path, bit_depth, remarks) for part in page))
            if pages > 1:
                remarks.add("pages", path)
                image.seek(0)
            # Pillow turns TIFF files when it loads them, and then removes the tag.
            turned = getattr(image, "tag_v2", {}).get(_ORIENTATION, 1) != 1
            plain = _page(image, path, bit_depth, remarks)
            if turned or image.getexif().get(_ORIENTATION, 1) != 1:
                remarks.add("orientation", path)
            if channels not in (1, 3):
                return _all_channels(plain, channels)
            if "A" in plain.getbands() or "transparency" in plain.info:
                remarks.add("transparency", path)
            if plain.mode == "P" and "transparency" in plain.info:
                plain = plain.convert("RGBA")
            return Raster((plain.convert("L" if channels == 1 else "RGB"),))
    except UnidentifiedImageError as error:
        raise BrokenImageError(_unknown(path)) from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError("too many pixels") from error
    # Pillow's decoders raise many kinds of errors on damaged or hostile files.
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError) as error:
        raise BrokenImageError((str(error).splitlines() or [type(error).__name__])[0][:120]) from error


def _page(image: Image.Image, path: Path, bit_depth: int | None, remarks: Remarks) -> Image.Image:
    """Return the current page of an opened image with 8 bits for each channel."""
    if not is_deep(image):
        image.load()
        # The A of LAB is a colour, not the opacity, and Pillow converts LAB only to RGB.
        return image.convert("RGB") if image.mode == "LAB" else image
    depth = bit_depth or natural_depth(image)
    image.load()
    # Pillow itself keeps the upper 8 bits of 16-bit colours.
    if depth == 16 and not image.mode.startswith(("I", "F")):
        return image
    return Image.fromarray(to_8_bits(deep_values(image), depth, path, remarks))


def _unknown(path: Path) -> str:
    """Return what is wrong with a file that Pillow does not recognise, and what to do where that is known."""
    advice = array_advice([path], "")
    if advice:
        return f"not an image; {advice}"
    with path.open("rb") as file:
        if file.read(4) in _TIFF_SIGNATURES:
            return "an unknown kind of TIFF; save 8, 16 or 32 bits, and more than 4 channels as pages"
    return "not an image"


def _pages(
    image: Image.Image, path: Path, bit_depth: int | None, remarks: Remarks
) -> Iterator[tuple[Image.Image, ...]]:
    for index in range(image.n_frames):  # type: ignore[attr-defined]
        image.seek(index)
        yield _page(image, path, bit_depth, remarks).copy().split()


def _all_channels(image: Image.Image, channels: int) -> Raster:
    """Return the channels of an image that has as many, or red, green, blue and opacity.

    Raises:
        BrokenImageError: the image lacks channels.
    """
    bands = image.getbands()
    if len(bands) == channels and image.mode not in ("CMYK", "P"):
        return Raster(image.split())
    if channels == 4:
        return Raster(image.convert("RGBA").split())
    raise BrokenImageError(f"it has {len(bands)} channels, the network needs {channels}")
