"""A fixed number of augmented views of each image, decoded once.

Teachers are frozen while a student learns, so their logits of a view can be computed once and cached. `ViewStore.key`
identifies the views of such a cache. View v of image i is the same in every batch, thread and epoch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cfp_cli.data.augmentation import PAPER_VIEWS, geometric_view, paper_views, strong_view
from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.choices import Augment
from cfp_cli.data.dataset import Item
from cfp_cli.data.decoding import DEFAULT_BUDGET, DecodedImages
from cfp_cli.data.images import ImageStore
from cfp_cli.data.raster import UInt8
from cfp_cli.data.remarks import Remarks
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.files import sha256
from cfp_cli.foundation.progress import SILENT, Progress

Int64 = npt.NDArray[np.int64]

# Increase this number whenever the pixels of a view change, so that no cache of older views is used.
_VERSION = 3


class ViewStore(DecodedImages):
    """All views of the images of a split: `images` is uint8 [N, distinct views, C, H, W]. See `DecodedImages`.

    Args:
        items: image files and their labels.
        preprocessing: the deterministic transform of the model.
        augment: `none`: the resized image. `paper`: {none 50 %, horizontal flip 25 %, vertical flip 25 %} x {centre
            crop of the raw image, zero-padded where smaller, or resize}, 8 views. `geometric`: `views` random flips,
            right-angle rotations where the input is square, and resized crops of at least three quarters of the
            area. `strong`: the same with smaller crops, and with random brightness and contrast.
        views: number of views of each image under `geometric` and `strong`; `none` has 1 view, `paper` 8.
        seed: seed of the random views.
        cache_folder: folder of the pixels that exceed the budget; the system's temporary folder where None.
        budget: largest number of bytes to keep in memory.
        broken: collects the images that cannot be decoded. Where None, more than 1 % of `items` is an error.
        threads: number of decoding threads, or None for one on each core that this process may use.
        progress: reports progress and each broken image.

    Attributes:
        views: V, the number of equally probable views.
        key: hash of the images, the preprocessing, the augmentation and the seed, in hex.

    Raises:
        UsageError: the augmentation is unknown, or `views` is less than 1.
        DataError: too many images are broken, or none can be decoded.
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
            raise UsageError(f"{views} views of an image are too few; pass 1 or more")
        # The index in `images` of each view: `paper` stores its repeated views once.
        stored = {"none": (0,), "paper": PAPER_VIEWS}.get(augment, tuple(range(views)))
        self.views = len(stored)
        self._stored = torch.tensor(stored)
        size = preprocessing.input_size

        def read(index: int, path: Path, remarks: Remarks) -> UInt8:
            image = preprocessing.decode(path, remarks)
            if augment == "none":
                return image.resized(size).channels_first()[None]
            if augment == "paper":
                return paper_views(image, size)
            random_view = strong_view if augment == "strong" else geometric_view
            return np.stack([random_view(image, size, [seed, index, view]) for view in range(views)])

        super().__init__(
            items,
            preprocessing,
            read,
            (max(stored) + 1, preprocessing.channels, *size),
            "decoding views",
            budget=budget,
            cache_folder=cache_folder,
            threads=threads,
            broken=broken,
            progress=progress,
        )
        self.key = self._key(items, augment, seed)

    def get(self, indices: Int64 | Sequence[int] | Tensor, view_indices: Int64 | Sequence[int] | Tensor) -> Tensor:
        """Return preprocessed views, float32 [n, C, H, W].

        Args:
            indices: [n] indices of images.
            view_indices: [n] index of the view of each image, from 0 to V - 1.
        """
        stored = self._stored[torch.as_tensor(view_indices)]
        return self.preprocessing.normalise(self.images[torch.as_tensor(indices), stored])

    def batches(self, batch_size: int) -> ViewBatches:
        """Return a loader over all views: the first view of each image, then the second, and so on.

        Args:
            batch_size: number of images in each batch; the last batch of a view may be smaller.
        """
        return ViewBatches(self, batch_size)

    def _key(self, items: Sequence[Item], augment: str, seed: int) -> str:
        preprocessing = self.preprocessing
        digest = hashlib.sha256(json.dumps([_VERSION, augment, self.views, seed]).encode())
        digest.update(json.dumps(asdict(preprocessing)).encode())
        for index in self.indices:
            # Hash the content: size and time of a file may stay when it is edited, and change when it is copied.
            digest.update(json.dumps([index, sha256(items[index].path), items[index].label]).encode())
        return digest.hexdigest()


class ViewBatches:
    """A loader of all views of a store, one view after another. It yields the same batches each time it is iterated.

    Yields:
        Preprocessed views float32 [n, C, H, W] and labels int64 [n].
    """

    def __init__(self, store: ViewStore, batch_size: int) -> None:
        self._store, self._size = store, batch_size

    def __len__(self) -> int:
        return self._store.views * -(-len(self._store) // self._size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for view in range(self._store.views):
            for start in range(0, len(self._store), self._size):
                indices = np.arange(start, min(start + self._size, len(self._store)))
                yield self._store.get(indices, np.full(len(indices), view)), self._store.labels[indices]


class WithViews:
    """A loader of the images of a store, followed by one view of each.

    Args:
        images: the images.
        augment: the augmentation of the views.
        seed: seed of the views.
        batch_size: number of images in each batch.

    Yields:
        Preprocessed images float32 [n, C, H, W] and labels int64 [n].
    """

    def __init__(self, images: ImageStore, augment: Augment, seed: int, batch_size: int) -> None:
        items = [Item(path, int(label)) for path, label in zip(images.paths, images.labels, strict=True)]
        views = ViewStore(items, images.preprocessing, augment, 1, seed)
        chosen = np.random.default_rng(seed).integers(views.views, size=len(views))
        self._images, self._views, self._chosen, self._size = images, views, chosen, batch_size

    def __len__(self) -> int:
        return sum(-(-len(each) // self._size) for each in (self._images, self._views))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from self._images.batches(self._size)
        for start in range(0, len(self._views), self._size):
            indices = np.arange(start, min(start + self._size, len(self._views)))
            yield self._views.get(indices, self._chosen[indices]), self._views.labels[indices]
