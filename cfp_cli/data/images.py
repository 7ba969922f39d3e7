"""The images of a split, decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Dataset, Item
from cfp_cli.data.decoding import DEFAULT_BUDGET, decode_all
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import SILENT, Progress

Int64 = npt.NDArray[np.int64]


class ImageStore:
    """Images at the input size of a model, in memory or in a file map.

    Args:
        items: image files and their labels.
        preprocessing: the deterministic transform of the model.
        broken: counts the images that cannot be decoded; without it, more than 1 % of `items` is an error.
        cache_folder: where decoded images go that do not fit the budget; the system's temporary folder where None.
        budget: largest number of bytes to hold in memory.
        threads: number of decoding threads, or one for each core this process may use.
        progress: told of the images done and of those skipped.

    Attributes:
        images: uint8 [N, 3, H, W] in [0, 255], in the order of `items`.
        labels: int64 [N].
        paths: the file of each image.

    Raises:
        DataError: too many images are broken, or none decodes.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        *,
        broken: BrokenImages | None = None,
        cache_folder: Path | None = None,
        budget: int = DEFAULT_BUDGET,
        threads: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.preprocessing = preprocessing
        pixels, kept = decode_all(
            items,
            lambda _, path: preprocessing.pixels(path),
            (3, *preprocessing.input_size),
            budget=budget,
            cache_folder=cache_folder,
            threads=threads,
            broken=BrokenImages(len(items), 0.01) if broken is None else broken,
            progress=progress,
            description="decoding images",
        )
        self.images = torch.from_numpy(pixels)
        self.labels = torch.tensor([items[index].label for index in kept])
        self.paths = tuple(items[index].path for index in kept)

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, batch_size: int, indices: Int64 | Sequence[int] | None = None) -> Batches:
        """Batches of preprocessed images, in the order of `indices` or of the store.

        Args:
            batch_size: number of images in each batch; the last may be smaller.
            indices: positions in the store, of which some may be left out or repeated.
        """
        return Batches(self, batch_size, np.arange(len(self)) if indices is None else np.asarray(indices, np.int64))


class Batches:
    """A loader: every pass over it gives the same batches anew.

    Yields:
        Images float32 [n, 3, H, W] as the model wants them, and labels int64 [n].
    """

    def __init__(self, store: ImageStore, batch_size: int, indices: Int64) -> None:
        if batch_size < 1:
            raise ValueError(f"batch size {batch_size} must be at least 1")
        self.store = store
        self.batch_size = batch_size
        self.indices = indices

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.indices), self.batch_size):
            chosen = torch.from_numpy(self.indices[start : start + self.batch_size])
            yield self.store.preprocessing.normalise(self.store.images[chosen]), self.store.labels[chosen]


def load_images(
    dataset: Dataset,
    split: str,
    preprocessing: Preprocessing,
    *,
    cache_folder: Path | None = None,
    budget: int = DEFAULT_BUDGET,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> ImageStore:
    """Decode the images of one split of a dataset; its count of broken images is shared by all splits.

    Raises:
        DataError: there is no such split, too many images are broken, or none decodes.
    """
    return ImageStore(
        dataset.split(split),
        preprocessing,
        broken=dataset.broken,
        cache_folder=cache_folder,
        budget=budget,
        threads=threads,
        progress=progress,
    )


def sample(
    dataset: Dataset, count: int, seed: int, preprocessing: Preprocessing, progress: Progress = SILENT
) -> ImageStore:
    """A seeded sample of the training split, spread over the classes, in a model's preprocessing.

    Raises:
        DataError: there is no training split, or too many images are broken.
    """
    items = dataset.split("train")
    chosen = stratified_sample([item.label for item in items], count, seed)
    return ImageStore([items[index] for index in chosen], preprocessing, broken=dataset.broken, progress=progress)


def stratified_sample(labels: Tensor | Sequence[int], count: int, seed: int) -> Int64:
    """Choose images spread over the classes: each round takes one at random from every class that has one left.

    Args:
        labels: int64 [N].
        count: number of images; all of them where there are fewer.
        seed: gives the same choice for the same labels.

    Returns:
        int64 [min(count, N)] distinct positions, in the order of the rounds.
    """
    values = np.asarray(labels, np.int64)
    generator = np.random.default_rng([seed, len(values)])
    turn = np.empty(len(values), np.int64)
    for label in np.unique(values):
        members = np.flatnonzero(values == label)
        turn[members] = generator.permutation(len(members))
    # Within a round the classes come in random order, so that a round cut short favours no class.
    return np.lexsort((generator.permutation(len(values)), turn))[:count]
