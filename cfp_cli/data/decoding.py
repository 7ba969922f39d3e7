"""Decode the images of a split once, in parallel, to memory or to a file, and keep the pixels as one array."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Item
from cfp_cli.data.raster import UInt8
from cfp_cli.data.remarks import Remarks
from cfp_cli.data.transforms import BrokenImageError, Preprocessing
from cfp_cli.execution.cores import usable_cores
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import Progress
from cfp_cli.foundation.storage import storage_error

GIB = 1024**3
DEFAULT_BUDGET = 4 * GIB
_MAX_BAD = 0.01


class DecodedImages:
    """The images of a split as uint8 pixels, in memory or in a file map.

    Args:
        items: image files and their labels.
        preprocessing: the deterministic transform of the model.
        read: returns the uint8 pixels of item number `index` at `path`, or raises BrokenImageError; it also adds the
            rules that applied to the remarks.
        shape: shape of the array that `read` returns.
        description: name of the work for `progress`.
        budget: largest number of bytes to keep in memory; larger arrays go to a file.
        cache_folder: folder of that file; the system's temporary folder where None.
        threads: number of decoding threads, or None for one on each core that this process may use.
        broken: collects the images that cannot be decoded. Where None, more than 1 % of `items` is an error.
        progress: reports progress and each broken image.

    Attributes:
        images: uint8 [N, *shape] in [0, 255] of the N images that can be decoded, in the order of `items`.
        labels: int64 [N].
        paths: the file of each image.
        indices: the index of each image in `items`.
        preprocessing: the deterministic transform of the model.

    Raises:
        DataError: too many images are broken, none can be decoded, or the file does not fit on its disk.
    """

    def __init__(
        self,
        items: Sequence[Item],
        preprocessing: Preprocessing,
        read: Callable[[int, Path, Remarks], UInt8],
        shape: tuple[int, ...],
        description: str,
        *,
        budget: int,
        cache_folder: Path | None,
        threads: int | None,
        broken: BrokenImages | None,
        progress: Progress,
    ) -> None:
        broken = BrokenImages(len(items), _MAX_BAD) if broken is None else broken
        array = _allocate((len(items), *shape), budget, cache_folder)
        self.indices = _decode(items, read, array, description, threads or usable_cores(), broken, progress)
        self.preprocessing = preprocessing
        self.images = torch.from_numpy(array[: len(self.indices)])
        self.labels = torch.tensor([items[index].label for index in self.indices])
        self.paths = tuple(items[index].path for index in self.indices)

    def __len__(self) -> int:
        return len(self.paths)


def _allocate(shape: tuple[int, ...], budget: int, cache_folder: Path | None) -> UInt8:
    """Make a zeroed uint8 array in memory, or in a file that is deleted when the process ends.

    Raises:
        DataError: the file does not fit on its disk.
        StorageError: the file cannot be made.
    """
    size = int(np.prod(shape, dtype=np.int64))
    if size <= budget:
        return np.zeros(shape, np.uint8)
    folder = Path(tempfile.gettempdir()) if cache_folder is None else cache_folder
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"the decoded images need {size / GIB:.1f} GiB but {folder} has {free / GIB:.1f} GiB free; "
            "use a smaller input size, fewer views or another folder"
        )
    with tempfile.TemporaryFile(dir=folder, prefix="cfp-images-") as file:
        if hasattr(os, "posix_fallocate"):
            # Otherwise the system would kill the process when the disk is full at a later write to the memory.
            try:
                os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                raise storage_error(folder, error) from error
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def _decode(
    items: Sequence[Item],
    read: Callable[[int, Path, Remarks], UInt8],
    array: UInt8,
    description: str,
    threads: int,
    broken: BrokenImages,
    progress: Progress,
) -> list[int]:
    """Write the pixels of `items` to the first rows of `array`; return the indices of the items that can be decoded."""
    decoded: list[int] = []

    def attempt(index: int) -> UInt8 | str:
        try:
            return read(index, items[index].path, broken.remarks)
        except BrokenImageError as error:
            return str(error)

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # Pillow warns about metadata and sizes. A file without usable pixels raises an error instead.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        # Submit the images in blocks, which bounds the memory of decoded images that wait to be copied.
        size = 32 * threads
        blocks = (range(start, min(start + size, len(items))) for start in range(0, len(items), size))
        results = (result for block in blocks for result in zip(block, pool.map(attempt, block), strict=True))
        for index, result in progress.track(results, description, total=len(items), unit="image"):
            if isinstance(result, str):
                broken.add(items[index].path, result, progress)
            else:
                array[len(decoded)] = result
                decoded.append(index)
    broken.remarks.report(progress)
    if not decoded:
        raise DataError(
            f"none of {len(items)} images can be decoded, such as {items[0].path}; replace them"
            if items
            else "there are no images to decode; add images to the split"
        )
    return decoded
