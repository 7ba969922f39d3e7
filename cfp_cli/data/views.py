"""Augmentation as a finite set of seeded views of each image, decoded once.

Teachers are frozen while a student learns, so what they say of a view can be computed once and kept: `ViewStore.key`
names the views. View v of image i is the same whatever the batch, the thread or the epoch it is seen in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Item
from cfp_cli.data.decoding import DEFAULT_BUDGET, decode_all
from cfp_cli.data.transforms import Preprocessing, UInt8, channels_first, decode, resized
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import SILENT, Progress

Augment = Literal["none", "paper", "geometric", "strong"]
Int64 = npt.NDArray[np.int64]

# The authors' training transform: one of {horizontal flip with p = 1/2, vertical flip with p = 1/2}, then one of
# {centre crop, resize}: six views, of which the two unflipped are twice as probable. Each is (crop, axis to flip in
# [3, H, W]). Naming those two twice makes eight views of equal weight.
_PAPER = tuple((crop, flip) for flip in (None, 2, 1) for crop in (True, False))
_PAPER_NAMED = (0, 1, 0, 1, 2, 3, 4, 5)
# Changing what a view is changes this number, so that cached answers to older views are not taken for new ones.
_VERSION = 2


class ViewStore:
    """All views of the images of a split, as uint8 in memory or in a file map.

    Args:
        items: image files and their labels.
        preprocessing: the deterministic transform of the model.
        augment: `none`: the resized image. `paper`: {none 50 %, horizontal flip 25 %, vertical flip 25 %} x {centre
            crop of the raw image, zero-padded where smaller, or resize}, 8 views. `geometric`: `views` draws of flips,
            right-angle turns where the input is square, and a random resized crop of at least three quarters.
            `strong`: the same with smaller crops, and with brightness and contrast.
        views: number of draws of each image under `geometric` and `strong`; `none` has 1 view, `paper` 8.
        seed: of the draws.
        broken: counts the images that cannot be decoded; without it, more than 1 % of `items` is an error.
        cache_folder: where the views go that do not fit the budget; the system's temporary folder where None.
        budget: largest number of bytes to hold in memory.
        threads: number of decoding threads, or one for each core this process may use.
        progress: told of the images done and of those skipped.

    Attributes:
        images: uint8 [N, distinct views, 3, H, W] in [0, 255].
        labels: int64 [N].
        paths: the file of each image.
        views: V, the number of views, all of which are to be shown equally often.
        key: names the images, the transform, the augmentation and the seed, in hex.

    Raises:
        UsageError: there is no such augmentation, or less than one view.
        DataError: too many images are broken, or none decodes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        augment: Augment = "paper",
        views: int = 8,
        seed: int = 0,
        cache_folder: Path | None = None,
        budget: int = DEFAULT_BUDGET,
        *,
        broken: BrokenImages | None = None,
        threads: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        if augment not in get_args(Augment):
            raise UsageError(f"unknown augmentation '{augment}'; use one of {', '.join(get_args(Augment))}")
        if views < 1:
            raise UsageError(f"{views} views of an image are none; ask for 1 or more")
        self.preprocessing = preprocessing
        named = {"none": (0,), "paper": _PAPER_NAMED}.get(augment, tuple(range(views)))
        self.views = len(named)
        self._stored = torch.tensor(named)
        size = preprocessing.input_size

        def read(index: int, path: Path) -> UInt8:
            image = decode(path)
            if augment == "none":
                return channels_first(resized(image, size))[None]
            if augment == "paper":
                return _paper_views(image, size)
            draw = strong_view if augment == "strong" else geometric_view
            return np.stack([draw(image, size, [seed, index, view]) for view in range(views)])

        pixels, kept = decode_all(
            items,
            read,
            (max(named) + 1, 3, *size),
            budget=budget,
            cache_folder=cache_folder,
            threads=threads,
            broken=BrokenImages(len(items), 0.01) if broken is None else broken,
            progress=progress,
            description="decoding views",
        )
        self.images = torch.from_numpy(pixels)
        self.labels = torch.tensor([items[index].label for index in kept])
        self.paths = tuple(items[index].path for index in kept)
        self.key = _key(items, kept, preprocessing, augment, self.views, seed)

    def __len__(self) -> int:
        return len(self.paths)

    def get(self, indices: Int64 | Sequence[int] | Tensor, view_indices: Int64 | Sequence[int] | Tensor) -> Tensor:
        """Preprocessed views, float32 [n, 3, H, W].

        Args:
            indices: [n] positions of images.
            view_indices: [n] the view of each, from 0 to V - 1.
        """
        stored = self._stored[torch.as_tensor(view_indices)]
        return self.preprocessing.normalise(self.images[torch.as_tensor(indices), stored])


def _paper_views(image: Image.Image, size: tuple[int, int]) -> UInt8:
    """The six distinct views of the authors' transform, uint8 [6, 3, H, W]."""
    plain = {True: channels_first(centre_crop(image, size)), False: channels_first(resized(image, size))}
    return np.stack([plain[crop] if flip is None else np.flip(plain[crop], flip) for crop, flip in _PAPER])


def centre_crop(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image at height and width in pixels, black where the image is smaller."""
    height, width = size
    left, top = _margin(image.width, width), _margin(image.height, height)
    return image.crop((left, top, left + width, top + height))


def _margin(have: int, want: int) -> int:
    """Where the middle `want` pixels of `have` begin; torchvision's rounding of odd margins."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def geometric_view(image: Image.Image, size: tuple[int, int], seed: Sequence[int]) -> UInt8:
    """One random view of an image whose brightness is kept, uint8 [3, H, W], decided by `seed` alone."""
    pixels = _turned_crop(image, size, np.random.default_rng(seed), least=0.75)
    view: UInt8 = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    return view


def strong_view(image: Image.Image, size: tuple[int, int], seed: Sequence[int]) -> UInt8:
    """One random view of an image, uint8 [3, H, W], decided by `seed` alone."""
    generator = np.random.default_rng(seed)
    pixels = _turned_crop(image, size, generator, least=0.6)
    # No noise: a teacher that never saw any is wrong on one noisy view in eight, and its student learns that.
    contrast, brightness = np.exp(generator.uniform(-0.2, 0.2)), generator.uniform(-10, 10)
    middle = float(pixels.mean())
    changed = (pixels - middle) * contrast + middle + brightness
    view: UInt8 = np.clip(changed + 0.5, 0, 255).astype(np.uint8)
    return view


def _turned_crop(
    image: Image.Image, size: tuple[int, int], generator: np.random.Generator, least: float
) -> npt.NDArray[np.float32]:
    """A crop of `least` to all of the area, perhaps mirrored, turned where the input is square; float32 [3, H, W]."""
    height, width = size
    area, ratio = generator.uniform(least, 1.0), np.exp(generator.uniform(-0.15, 0.15))
    crop_width = min(image.width, image.width * np.sqrt(area * ratio))
    crop_height = min(image.height, image.height * np.sqrt(area / ratio))
    left, top = generator.random() * (image.width - crop_width), generator.random() * (image.height - crop_height)
    box = (left, top, left + crop_width, top + crop_height)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box), np.float32).transpose(
        2, 0, 1
    )
    for axis in (1, 2):
        if generator.random() < 0.5:
            pixels = np.flip(pixels, axis)
    turns = int(generator.integers(0, 4))
    return np.rot90(pixels, turns, axes=(1, 2)) if height == width else pixels


def _key(
    items: Sequence[Item], kept: Sequence[int], preprocessing: Preprocessing, augment: str, views: int, seed: int
) -> str:
    digest = hashlib.sha256(json.dumps([_VERSION, augment, views, seed]).encode())
    digest.update(json.dumps([preprocessing.input_size, preprocessing.mean, preprocessing.std]).encode())
    for index in kept:
        # The content, not the size and time of the file: both may stay when it is edited, and change when it is copied.
        digest.update(json.dumps([index, sha256(items[index].path), items[index].label]).encode())
    return digest.hexdigest()
