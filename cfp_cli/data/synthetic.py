"""A generated defect dataset, for `cfp demo` and for tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from cfp_cli.data.atomic_folder import write_folder
from cfp_cli.data.defects import DEFECTS
from cfp_cli.data.steel import Canvas, photograph, surface
from cfp_cli.execution.cores import usable_cores
from cfp_cli.foundation.errors import UsageError
from cfp_cli.foundation.progress import SILENT, Progress

CLASSES = tuple(DEFECTS)
SIZES = (64, 256)
# A change of the grey value, in [0, 1], from which a pixel belongs to a defect.
VISIBLE = 0.08


def render(label: str, size: int, seed: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Draw one grey image of a class, uint8 [size, size]. It depends on class, size and seed only."""
    return render_with_mask(label, size, seed)[0]


def render_with_mask(
    label: str, size: int, seed: tuple[int, ...]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Draw the image of `render`, and return which pixels its defects change, bool [size, size]."""
    generator = np.random.default_rng([CLASSES.index(label), *seed])
    canvas = Canvas(size, int(generator.integers(0, 2)), generator)
    steel, paint = surface(canvas), DEFECTS[label](canvas)
    return photograph(canvas, steel + paint), np.abs(paint) > VISIBLE


def boxes(mask: npt.NDArray[np.bool_], gap: int = 0) -> npt.NDArray[np.int64]:
    """Return one box around each defect of a mask, each as tight as its pixels allow.

    A defect is a set of pixels that are connected, also diagonally, or have at most `gap` other pixels between them,
    along rows and along columns. With a gap, the cracks or pits of one area are one defect.

    Args:
        mask: which pixels belong to a defect, bool [H, W], as from `render_with_mask`.
        gap: number of pixels between two parts up to which they are one defect, 0 or more.

    Returns:
        int64 [defects, 4]: first column, first row, and the column and row after the last.
    """
    # Two pixels with `gap` others between them touch when both grow by a square of side `gap + 1`.
    areas, _ = ndimage.label(ndimage.binary_dilation(mask, np.ones((gap + 1, gap + 1))), np.ones((3, 3)))
    slices = [each for each in ndimage.find_objects(areas * mask) if each is not None]
    corners = [(columns.start, rows.start, columns.stop, rows.stop) for rows, columns in slices]
    return np.array(corners, np.int64).reshape(-1, 4)


def class_sizes(per_class: int, imbalance: float) -> dict[str, int]:
    """Return the training images of each class: a geometric series from `per_class` to `per_class / imbalance`."""
    exponents = np.linspace(0.0, 1.0, len(CLASSES))
    return {
        label: max(1, round(per_class * imbalance**-exponent))
        for label, exponent in zip(CLASSES, exponents, strict=True)
    }


def generate(
    folder: str | Path,
    per_class: int = 200,
    test_per_class: int = 50,
    size: int = 64,
    seed: int = 0,
    imbalance: float = 1.0,
    threads: int | None = None,
    progress: Progress = SILENT,
) -> Path:
    """Write `folder/{train,test}/CLASS/*.png`: grey images of six kinds of defects on textured steel.

    Args:
        folder: a folder that does not exist or is empty.
        per_class: training images of the largest class.
        test_per_class: test images of each class; the test set is always balanced.
        size: height and width in pixels, 64 to 256.
        seed: seed of all images. An image does not depend on the number of images and threads.
        imbalance: ratio of the largest to the smallest class in the training set.
        threads: number of threads, or None for one on each core that this process may use.
        progress: reports progress.

    Returns:
        The folder.

    Raises:
        UsageError: a number is out of range.
        DataError: the folder is not empty.
    """
    folder = Path(folder)
    if per_class < 1 or test_per_class < 1:
        raise UsageError(
            f"{per_class} training and {test_per_class} test images of a class are too few; pass 1 or more"
        )
    if not SIZES[0] <= size <= SIZES[1]:
        raise UsageError(f"image size {size} is out of range; use {SIZES[0]} to {SIZES[1]} pixels")
    if not imbalance >= 1:
        raise UsageError(f"imbalance {imbalance:g} is below 1; pass the ratio of the largest to the smallest class")
    counts = {"train": class_sizes(per_class, imbalance), "test": dict.fromkeys(CLASSES, test_per_class)}
    jobs = [
        (split, label, index)
        for split, sizes in counts.items()
        for label, count in sizes.items()
        for index in range(count)
    ]

    def write(target: Path) -> None:
        def draw(job: tuple[str, str, int]) -> None:
            split, label, index = job
            pixels = render(label, size, (seed, list(counts).index(split), index))
            Image.fromarray(pixels).save(target / split / label / f"{label}_{index:04}.png", compress_level=1)

        for split in counts:
            for label in CLASSES:
                (target / split / label).mkdir(parents=True)
        with ThreadPoolExecutor(threads or usable_cores()) as pool:
            for _ in progress.track(pool.map(draw, jobs), "drawing images", total=len(jobs), unit="image"):
                pass

    write_folder(folder, write)
    return folder
