"""The images of a split in a model's preprocessing, as batches; seeded samples of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Dataset, Item
from cfp_cli.data.decoding import DEFAULT_BUDGET, DecodedImages
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.foundation.progress import SILENT, Progress

Int64 = npt.NDArray[np.int64]


class ImageStore(DecodedImages):
    """Images at the input size of a model: `images` is uint8 [N, C, H, W]. See `DecodedImages`."""

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
        super().__init__(
            items,
            preprocessing,
            lambda _, path, remarks: preprocessing.pixels(path, remarks),
            (preprocessing.channels, *preprocessing.input_size),
            "decoding images",
            broken=broken,
            cache_folder=cache_folder,
            budget=budget,
            threads=threads,
            progress=progress,
        )

    def batches(self, batch_size: int, indices: Int64 | Sequence[int] | None = None) -> Batches:
        """Return a loader over the images of `indices`, or over all images, in that order.

        Args:
            batch_size: number of images in each batch; the last batch may be smaller.
            indices: indices of images; an index may occur more than once.
        """
        return Batches(self, batch_size, np.arange(len(self)) if indices is None else np.asarray(indices, np.int64))


class Batches:
    """A loader that yields the same batches each time it is iterated.

    Yields:
        Preprocessed images float32 [n, C, H, W] and labels int64 [n].
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
            batch = torch.from_numpy(self.indices[start : start + self.batch_size])
            yield self.store.preprocessing.normalise(self.store.images[batch]), self.store.labels[batch]


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
    """Decode the images of one split of a dataset. Broken images are counted over all splits of the dataset.

    Raises:
        DataError: the split does not exist, too many images are broken, or none can be decoded.
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
    """Decode a seeded sample of the training split that is spread evenly over the classes.

    Raises:
        DataError: there is no training split, or too many images are broken.
    """
    items = dataset.split("train")
    indices = stratified_sample([item.label for item in items], count, seed)
    return ImageStore([items[index] for index in indices], preprocessing, broken=dataset.broken, progress=progress)


def stratified_sample(labels: Tensor | Sequence[int], count: int, seed: int) -> Int64:
    """Choose images evenly over the classes: each pass takes one random image of every class that has one left.

    Args:
        labels: int64 [N].
        count: number of images to choose; all N where it is larger.
        seed: seed of the choice.

    Returns:
        int64 [min(count, N)] distinct indices, in the order of the passes.
    """
    values = np.asarray(labels, np.int64)
    generator = np.random.default_rng([seed, len(values)])
    passes = np.empty(len(values), np.int64)
    by_class = np.argsort(values, kind="stable")
    for members in np.split(by_class, np.unique(values[by_class], return_index=True)[1][1:]):
        passes[members] = generator.permutation(len(members))
    # Within a pass the classes come in random order, so that an incomplete pass favours no class.
    return np.lexsort((generator.permutation(len(values)), passes))[:count]
