"""Convert an image file to the input tensor of a network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

UInt8 = npt.NDArray[np.uint8]


class InputSpec(Protocol):
    """The preprocessing of a model."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of red, green and blue, subtracted from values in [0, 1]."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation that the differences are divided by."""


class BrokenImageError(Exception):
    """An image file cannot be decoded; the message is the reason."""


@dataclass(frozen=True)
class Preprocessing:
    """The deterministic transform of a model: convert to RGB, resize, scale to [0, 1], normalise.

    Attributes:
        input_size: height and width in pixels.
        mean: mean of red, green and blue, subtracted from values in [0, 1].
        std: standard deviation that the differences are divided by.
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a size or a deviation is not positive, or there are not three means and deviations.
        """
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise ValueError(f"input size {self.input_size} must be a positive height and width")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 < each < math.inf for each in self.std):
            raise ValueError(f"mean {self.mean} and std {self.std} must have three values each, std finite and above 0")

    @classmethod
    def of(cls, spec: InputSpec) -> Preprocessing:
        """Return the preprocessing of a model's spec."""
        return cls(spec.input_size, spec.mean, spec.std)

    def pixels(self, path: Path) -> UInt8:
        """Decode an image, make it RGB and resize it.

        Returns:
            uint8 [3, H, W] in [0, 255], resized by Pillow's antialiased bilinear filter. torchvision's `Resize` of a
            Pillow image has the same result.

        Raises:
            BrokenImageError: the file is not an image or is truncated.
        """
        return channels_first(resized(decode(path), self.input_size))

    def normalise(self, pixels: Tensor) -> Tensor:
        """Scale uint8 [..., 3, H, W] to float32 in [0, 1], subtract the mean and divide by the deviation."""
        values = pixels.to(torch.float32).div_(255.0)
        if any(self.mean) or any(value != 1.0 for value in self.std):
            values -= torch.tensor(self.mean, device=values.device).view(3, 1, 1)
            values /= torch.tensor(self.std, device=values.device).view(3, 1, 1)
        return values


def decode(path: Path) -> Image.Image:
    """Decode an image file to 8-bit RGB. Grey becomes three equal channels; 16-bit grey keeps its upper 8 bits.

    Raises:
        BrokenImageError: the file is not an image, is truncated, or contains pixels of unknown range.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode == "F":
                raise BrokenImageError("float pixels have no known range; save the image with 8 or 16 bits")
            if image.mode.startswith("I"):
                # Pillow's own conversion clips at 255, which makes 16-bit photographs white.
                grey = np.asarray(image).astype(np.int64)
                return Image.fromarray((np.clip(grey, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError as error:
        raise BrokenImageError("not an image") from error
    except Image.DecompressionBombError as error:
        raise BrokenImageError("too many pixels") from error
    # Pillow's decoders raise many kinds of errors on damaged or hostile files.
    except (OSError, SyntaxError, ValueError, TypeError, IndexError, KeyError, OverflowError, EOFError) as error:
        raise BrokenImageError((str(error).splitlines() or [type(error).__name__])[0][:120]) from error


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize to height and width in pixels with an antialiased bilinear filter."""
    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)


def channels_first(image: Image.Image) -> UInt8:
    """Return the pixels of an RGB image as uint8 [3, H, W]."""
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
