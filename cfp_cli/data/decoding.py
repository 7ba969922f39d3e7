"""Decoding many images at once: threads fill one array in the order of the items, broken ones are left out."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Item
from cfp_cli.data.transforms import BrokenImageError, UInt8
from cfp_cli.execution.cores import usable_cores
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.progress import Progress

GIB = 1024**3
DEFAULT_BUDGET = 4 * GIB


def byte_array(shape: tuple[int, ...], budget: int, cache_folder: Path | None) -> UInt8:
    """A zeroed uint8 array: in memory where it fits the budget, else a file map that vanishes with the process.

    Args:
        shape: shape of the array.
        budget: largest number of bytes to hold in memory.
        cache_folder: folder of the file; the system's temporary folder where None.

    Raises:
        DataError: the file does not fit on its disk.
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
        return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)


def decode_all(
    items: Sequence[Item],
    read: Callable[[int, Path], UInt8],
    shape: tuple[int, ...],
    *,
    budget: int,
    cache_folder: Path | None,
    threads: int | None,
    broken: BrokenImages,
    progress: Progress,
    description: str,
) -> tuple[UInt8, list[int]]:
    """Decode the images of `items` in parallel.

    Args:
        items: image files.
        read: gives the uint8 pixels of item number `index` at `path`, or raises BrokenImageError.
        shape: shape of what `read` gives.
        budget: largest number of bytes to hold in memory.
        cache_folder: where the pixels go that do not fit.
        threads: number of threads, or one for each core this process may use.
        broken: told of each image that `read` refuses.
        progress: told of the images done.
        description: what `progress` says of the work.

    Returns:
        uint8 [N, *shape] of the N images that decode, in the order of `items`, and their positions in `items`.

    Raises:
        DataError: too many images are broken, or none decodes.
    """
    pixels = byte_array((len(items), *shape), budget, cache_folder)
    kept: list[int] = []

    def attempt(index: int) -> UInt8 | str:
        try:
            return read(index, items[index].path)
        except BrokenImageError as error:
            return str(error)

    workers = threads or usable_cores()
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        # Remarks on metadata and sizes; a file that gives no pixels is an error of its own.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        # A window of images in flight bounds the memory, whatever the number of images.
        blocks = (range(start, min(start + 32 * workers, len(items))) for start in range(0, len(items), 32 * workers))
        results = (result for block in blocks for result in zip(block, pool.map(attempt, block), strict=True))
        for index, result in progress.track(results, description, total=len(items), unit="image"):
            if isinstance(result, str):
                broken.note(items[index].path, result, progress)
            else:
                pixels[len(kept)] = result
                kept.append(index)
    if not kept:
        raise DataError(
            f"none of {len(items)} images can be decoded, such as {items[0].path}" if items else "no images; add some"
        )
    return pixels[: len(kept)], kept
