"""Images without labels: from a folder tree, a list file, a glob or an image file, decoded batch by batch."""

from __future__ import annotations

import glob
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cfp_cli.data.arrays import array_advice
from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.folders import images_below, is_image
from cfp_cli.data.left_out import LeftOut
from cfp_cli.data.raster import UInt8
from cfp_cli.data.transforms import BrokenImageError, Preprocessing
from cfp_cli.execution.cores import usable_cores
from cfp_cli.foundation.errors import DataError
from cfp_cli.foundation.files import path_hint
from cfp_cli.foundation.progress import SILENT, Progress
from cfp_cli.foundation.text_file import read_user_text


def find_images(sources: Sequence[Path]) -> tuple[Path, ...]:
    """Return the image files that the sources name, each once, in their order.

    Args:
        sources: each is a folder, whose tree is searched; an image file; a glob such as `line-3/**/*.png`; or a list
            file, with one path on each line. These paths are relative to the folder of the list, may have a label
            behind them, and need not exist.

    Raises:
        DataError: a source does not exist, contains no images, is no text file, or is a table with commas.
    """
    return tuple(dict.fromkeys(path for source in sources for path in _images_of(source)))


def _images_of(source: Path) -> list[Path]:
    if source.is_dir():
        left_out = LeftOut()
        # Links to nothing are images that cannot be read.
        images = [*images_below(source, left_out), *left_out.dangling]
        if not images:
            advice = array_advice(left_out.files, "pass a folder, a list file or a glob of images")
            raise DataError(f"no images under {source}; {advice}")
        return images
    if source.is_file():
        return [source] if is_image(source) else _listed(source)
    if source.exists():
        raise DataError(f"{source} is a pipe or a device, neither a folder nor a file; copy its content to a file")
    if glob.has_magic(str(source)):
        paths = sorted(map(Path, glob.glob(str(source), recursive=True)))  # noqa: PTH207 - patterns may be absolute
        files = [image for path in paths for image in (images_below(path) if path.is_dir() else [path])]
        images = [path for path in files if is_image(path)]
        if not images:
            advice = array_advice(files, "quote the pattern, and use ** for folders of any depth")
            raise DataError(f"no images match {source}; {advice}")
        return images
    raise DataError(f"no such file or folder {source}; {path_hint(source, 'check the path of the images')}")


def _listed(source: Path) -> list[Path]:
    try:
        lines = [line.strip() for line in read_user_text(source).splitlines()]
    except UnicodeDecodeError as error:
        advice = array_advice([source], "pass an image or a text file with a path on each line")
        raise DataError(f"{source} is neither an image, a folder nor a list; {advice}") from error
    if not any(lines):
        raise DataError(f"{source} lists no images; write the path of an image on each line")
    paths = [_path_of_line(source.parent, line) for line in lines if line]
    # The second line too has a comma where the first one is a header.
    if all(re.search("[,;]", line) for line in lines[:2]) and not any(path.is_file() for path in paths):
        raise DataError(
            f"none of the images listed in {source} exist (first: {paths[0]}); write one path on each line, without "
            "commas and a header, relative to the folder of the list"
        )
    return paths


def _path_of_line(folder: Path, line: str) -> Path:
    """Return the path of a line. A last word that is not part of the name of a file is a label."""
    path = folder / line
    if path.is_file():
        return path
    without_label = folder / (line.rsplit(maxsplit=1)[0].strip())
    return without_label if without_label.is_file() or is_image(without_label) else path


class Batch(NamedTuple):
    """Some images: their paths, and their pixels in a network's preprocessing, float32 [n, channels, H, W]."""

    paths: tuple[Path, ...]
    images: Tensor


class ImageStream:
    """Decodes images batch by batch in several threads, one batch ahead, so that any number of images fits in memory.

    Args:
        paths: image files.
        preprocessing: the transform of the network.
        batch_size: largest number of images in a batch.
        broken: collects the images that cannot be decoded; they are in no batch.
        progress: reports progress and each broken image.

    Raises:
        DataError: while it is iterated: too many images are broken.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessing: Preprocessing,
        batch_size: int,
        broken: BrokenImages,
        progress: Progress = SILENT,
    ) -> None:
        self._paths, self._preprocessing, self._batch_size = paths, preprocessing, batch_size
        self._broken, self._progress = broken, progress

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches in the order of the paths."""
        paths: list[Path] = []
        pixels: list[UInt8] = []
        for path, value in self._progress.track(self._decoded(), "predicting", total=len(self._paths), unit="image"):
            if isinstance(value, str):
                self._broken.add(path, value, self._progress)
                continue
            paths.append(path)
            pixels.append(value)
            if len(paths) == self._batch_size:
                yield self._batch(paths, pixels)
                paths, pixels = [], []
        if paths:
            yield self._batch(paths, pixels)
        self._broken.remarks.report(self._progress)

    def _batch(self, paths: list[Path], pixels: list[UInt8]) -> Batch:
        return Batch(tuple(paths), self._preprocessing.normalise(torch.from_numpy(np.stack(pixels))))

    def _decoded(self) -> Iterator[tuple[Path, UInt8 | str]]:
        """Yield the pixels of each image, or why it cannot be decoded."""
        with warnings.catch_warnings(), ThreadPoolExecutor(usable_cores()) as pool:
            # Pillow warns about metadata and sizes. A file without usable pixels raises an error instead.
            warnings.filterwarnings("ignore", module=r"PIL\.")
            rest = iter(self._paths)
            waiting: list[tuple[Path, Future[UInt8 | str]]] = []
            try:
                while True:
                    more = islice(rest, max(0, 2 * self._batch_size - len(waiting)))
                    waiting += [(path, pool.submit(self._read, path)) for path in more]
                    if not waiting:
                        return
                    path, future = waiting.pop(0)
                    yield path, future.result()
            finally:
                for _, future in waiting:
                    future.cancel()

    def _read(self, path: Path) -> UInt8 | str:
        if not path.is_file():
            return "no such file"
        try:
            return self._preprocessing.pixels(path, self._broken.remarks)
        except BrokenImageError as error:
            return str(error)
