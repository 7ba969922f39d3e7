from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lines import Lines
from PIL import Image

from cfp_cli.data.dataset import open_dataset
from cfp_cli.data.duplicates import images_in_two_splits, report_images_in_two_splits
from cfp_cli.foundation.errors import DataError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Given splits of images that all have the same size in bytes."""
    seed = 0
    for split in ("train", "val", "test"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for index in range(3):
                pixels = np.random.default_rng(seed := seed + 1).integers(0, 256, (8, 8), np.uint8)
                Image.fromarray(pixels).save(tmp_path / split / label / f"{index}.bmp")
    return tmp_path


def test_different_images_are_no_duplicates(data: Path) -> None:
    progress = Lines()
    report_images_in_two_splits(open_dataset(data), progress)
    assert progress.lines == []


def test_a_copy_in_another_split_is_reported(data: Path) -> None:
    copy = data / "test/b/copy.bmp"
    copy.write_bytes((data / "train/a/1.bmp").read_bytes())
    # A copy in the same split is no leak.
    (data / "train/a/same.bmp").write_bytes((data / "train/a/2.bmp").read_bytes())
    dataset = open_dataset(data)
    assert images_in_two_splits(dataset) == [(data / "train/a/1.bmp", copy)]
    progress = Lines()
    report_images_in_two_splits(dataset, progress)
    assert len(progress.lines) == 1
    assert "1, such as" in progress.lines[0]
    assert str(copy) in progress.lines[0]


def test_equal_beginnings_are_compared_to_the_end(data: Path) -> None:
    head = bytes(5000)
    for path, last in ((data / "train/a/x.bmp", b"1"), (data / "test/a/x.bmp", b"2"), (data / "val/a/x.bmp", b"2")):
        path.write_bytes(head + last)
    assert images_in_two_splits(open_dataset(data)) == [(data / "val/a/x.bmp", data / "test/a/x.bmp")]


def test_unreadable_files_are_no_duplicates(data: Path) -> None:
    dataset = open_dataset(data)
    for path in (data / "train/a/0.bmp", data / "test/a/0.bmp"):
        path.unlink()
    assert images_in_two_splits(dataset) == []


def listed(data: Path, *more: str) -> Path:
    lines = [f"train/{label}/{index}.bmp {label}" for label in "ab" for index in range(3)]
    (data / "all.list").write_text("\n".join([*lines, *more]))
    return data / "all.list"


def test_an_image_that_a_list_names_twice_is_used_once(data: Path) -> None:
    progress = Lines()
    dataset = open_dataset(listed(data, "train/a/0.bmp a", "train/a/0.bmp a"), progress=progress)
    assert sum(map(len, dataset.splits.values())) == 6
    assert [line.partition(":")[0] for line in progress.lines] == [f"{data}/all.list lists images more than once"]
    assert images_in_two_splits(dataset) == []


def test_an_image_with_two_classes_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match=r"0\.bmp is listed as 'a' and as 'b'; list each image with one class"):
        open_dataset(listed(data, "train/a/0.bmp b"))


def test_another_spelling_of_a_path_is_found_by_content(data: Path) -> None:
    (data / "train.txt").write_text("\n".join(f"train/{label}/{i}.bmp {label}" for label in "ab" for i in range(3)))
    (data / "test.txt").write_text("train/../train/a/0.bmp a\ntest/b/0.bmp b\n")
    assert len(images_in_two_splits(open_dataset(data / "train.txt"))) == 1
