"""Opening a dataset of many files or classes: the same order as a plain listing, and no image is opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfp_cli.data import duplicates
from cfp_cli.data.bit_depth import SAMPLE
from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.duplicates import images_in_two_splits
from cfp_cli.data.folders import images_below, is_image, relative_name, subfolders
from cfp_cli.data.images import stratified_sample
from cfp_cli.data.layouts import read_layout


def linked(folder: Path, classes: int, each: int, split: str = "") -> Path:
    """Make class folders whose images are hard links to one file per split."""
    folder.mkdir(exist_ok=True)
    source = folder / f".seed{split}.png"
    Image.fromarray(np.full((4, 4, 3), 9, np.uint8)).save(source)
    for label in range(classes):
        target = folder / split / f"class{label:04d}"
        target.mkdir(parents=True)
        for number in range(each):
            os.link(source, target / f"{number:04d}.png")
    return folder


def test_the_order_is_that_of_sorted_paths(tmp_path: Path) -> None:
    for name in ("b/1.png", "b-c/1.png", "b.d/2.PNG", "a.png", "Z.jpg", "b/x/3.png", "b/x/y.txt", "b/x-/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    expected = [path for path in tmp_path.rglob("*") if is_image(path) and path.is_file()]
    assert images_below(tmp_path) == sorted(expected)
    assert subfolders(tmp_path) == sorted(path for path in tmp_path.iterdir() if path.is_dir())


@pytest.mark.parametrize("root", [".", "/", "/data", "data/x", "/data/x/"])
@pytest.mark.parametrize("path", ["/data/x/a/1.png", "data/x/a/1.png", "a/1.png", "/dataset/1.png", "../1.png"])
def test_relative_names_are_those_of_pathlib(root: str, path: str) -> None:
    inside = Path(path).is_relative_to(root)
    assert Path(relative_name(Path(path), Path(root))) == (Path(path).relative_to(root) if inside else Path(path))


def test_many_files_are_listed_and_only_a_sample_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linked(tmp_path, 40, 250)
    opened: list[Path] = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda path, *_: opened.append(path) or open_image(path))
    dataset = open_dataset(tmp_path)
    # The bit depth is chosen from a sample.
    assert len(opened) <= SAMPLE
    assert sum(map(len, dataset.splits.values())) == 10_000


def test_thousands_of_classes_take_no_quadratic_work(tmp_path: Path, count_lines: Callable[..., int]) -> None:
    def lines(classes: int) -> int:
        root = tmp_path / str(classes)
        for split in ("train", "val", "test"):
            linked(root, classes, 1, split)

        def work() -> None:
            dataset = open_dataset(root)
            read_layout(root)
            stratified_sample([item.label for item in dataset.split("train")] * 40, 100, 0)
            assert len(dataset.classes) == classes

        return count_lines(work)

    few = lines(100)
    assert few > 0
    assert lines(1000) < 12 * few


def test_a_file_with_many_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_dataset(linked(tmp_path, 2, 50))
    read: list[Path] = []
    head = duplicates._head
    monkeypatch.setattr(duplicates, "_head", lambda file: read.append(file.path) or head(file))
    assert len(images_in_two_splits(dataset)) == 1
    assert len(read) == 1


def test_files_of_different_size_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, size in (("train", 10), ("test", 11)):
        for label in "ab":
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "1.png").write_bytes(bytes(size))
            (tmp_path / split / label / "2.png").write_bytes(bytes(size))
            (tmp_path / split / label / "3.png").write_bytes(bytes(size))
    dataset: Dataset = open_dataset(tmp_path)
    (first, second), *_ = images_in_two_splits(dataset)
    assert {first.parts[-3], second.parts[-3]} <= {"train", "val", "test"}
    monkeypatch.setattr(duplicates, "_head", lambda file: pytest.fail("read") if "test" in file.path.parts else b"")
    images_in_two_splits(dataset)


def test_samples_do_not_depend_on_how_the_classes_are_found() -> None:
    labels = np.random.default_rng(0).integers(0, 7, 100)
    generator = np.random.default_rng([3, 100])
    passes = np.empty(100, np.int64)
    for label in range(7):
        members = np.flatnonzero(labels == label)
        passes[members] = generator.permutation(len(members))
    expected = np.lexsort((generator.permutation(100), passes))[:50]
    assert np.array_equal(stratified_sample(list(labels), 50, 3), expected)
