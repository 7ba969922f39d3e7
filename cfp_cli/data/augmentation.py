"""Augmented views of one image: the authors' transform, and random views that a seed determines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from cfp_cli.data.raster import Raster, UInt8

# The distinct views of the authors' transform, each as (crop, axis to flip in [C, H, W]).
_PAPER_VIEWS = tuple((crop, flip) for flip in (None, 2, 1) for crop in (True, False))
# The transform picks a horizontal or a vertical flip, applies it with p = 1/2, and then crops or resizes. The two views
# without a flip are therefore twice as probable as the others. Repeating them makes eight equally probable views.
PAPER_VIEWS = (0, 1, 0, 1, 2, 3, 4, 5)


def paper_views(image: Raster, size: tuple[int, int]) -> UInt8:
    """Return the six distinct views of the authors' transform, uint8 [6, C, H, W]."""
    plain = {True: _centre_crop(image, size).channels_first(), False: image.resized(size).channels_first()}
    return np.stack([plain[crop] if flip is None else np.flip(plain[crop], flip) for crop, flip in _PAPER_VIEWS])


def geometric_view(image: Raster, size: tuple[int, int], seed: Sequence[int]) -> UInt8:
    """Return one random view with unchanged brightness, uint8 [C, H, W]. It depends on `seed` only."""
    pixels = _random_crop(image, size, np.random.default_rng(seed), smallest_area=0.75)
    view: UInt8 = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return view


def strong_view(image: Raster, size: tuple[int, int], seed: Sequence[int]) -> UInt8:
    """Return one random view with changed brightness and contrast, uint8 [C, H, W]. It depends on `seed` only."""
    generator = np.random.default_rng(seed)
    pixels = _random_crop(image, size, generator, smallest_area=0.6)
    # No noise is added: a teacher that was trained without noise is wrong on one noisy view in eight, and the student
    # would learn these errors.
    contrast, brightness = np.exp(generator.uniform(-0.2, 0.2)), generator.uniform(-10, 10)
    mean = float(pixels.mean())
    changed = (pixels - mean) * contrast + mean + brightness
    view: UInt8 = np.clip(changed + 0.5, 0, 255).astype(np.uint8)
    return view


def _centre_crop(image: Raster, size: tuple[int, int]) -> Raster:
    """Crop the centre of an image to height and width in pixels; pad with black where the image is smaller."""
    height, width = size
    left, top = _margin(image.width, width), _margin(image.height, height)
    return image.cropped(left, top, left + width, top + height)


def _margin(length: int, crop: int) -> int:
    """Return where the central `crop` of `length` pixels begins. Odd margins are rounded as in torchvision."""
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)


def _random_crop(
    image: Raster, size: tuple[int, int], generator: np.random.Generator, smallest_area: float
) -> npt.NDArray[np.float32]:
    """Crop `smallest_area` to all of the area, resize, flip at random, and rotate square inputs; float32 [C, H, W]."""
    height, width = size
    area, ratio = generator.uniform(smallest_area, 1.0), np.exp(generator.uniform(-0.15, 0.15))
    crop_width = min(image.width, image.width * np.sqrt(area * ratio))
    crop_height = min(image.height, image.height * np.sqrt(area / ratio))
    left, top = generator.random() * (image.width - crop_width), generator.random() * (image.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    pixels = image.resized(size, box).channels_first().astype(np.float32)
    for axis in (1, 2):
        if generator.random() < 0.5:
            pixels = np.flip(pixels, axis)
    turns = int(generator.integers(0, 4))
    return np.rot90(pixels, turns, axes=(1, 2)) if height == width else pixels
