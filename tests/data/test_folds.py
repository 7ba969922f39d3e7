from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfp_cli.data.broken import BrokenImages
from cfp_cli.data.dataset import Dataset, Item, open_dataset
from cfp_cli.data.folds import stratified_folds
from cfp_cli.foundation.errors import DataError


def dataset(counts: list[int]) -> Dataset:
    items = tuple(
        Item(Path(f"{label}/{number}.png"), label) for label, count in enumerate(counts) for number in range(count)
    )
    classes = tuple(f"class {label}" for label in range(len(counts)))
    return Dataset(Path("data"), classes, {"train": items}, {}, "", BrokenImages(len(items), 0.01))


@settings(deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(2, 6), st.integers(0, 9))
def test_each_image_is_tested_once_and_classes_are_spread_evenly(counts: list[int], count: int, seed: int) -> None:
    if sum(counts) < count:
        return
    data = dataset(counts)
    folds = stratified_folds(data, count, seed)
    assert len(folds) == count
    tested = [item for fold in folds for item in fold.splits["test"]]
    assert sorted(tested, key=str) == sorted(data.splits["train"], key=str)
    sizes = [len(fold.splits["test"]) for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for label in range(len(counts)):
        of_class = [sum(item.label == label for item in fold.splits["test"]) for fold in folds]
        assert max(of_class) - min(of_class) <= 1
    for fold in folds:
        images = [item for split in ("train", "val", "test") for item in fold.splits[split]]
        assert Counter(images) == Counter(data.splits["train"])
        assert {item.label for item in fold.splits["train"]} == set(range(len(counts)))
    assert stratified_folds(data, count, seed) == folds


def test_a_class_that_a_fold_cannot_train_on_is_refused() -> None:
    with pytest.raises(DataError, match="class 'class 1' has 1 images, so one of 5 folds has none to train on"):
        stratified_folds(dataset([9, 1]), 5, 0)
    with pytest.raises(DataError, match="3 images, too few for 4 folds"):
        stratified_folds(dataset([3]), 4, 0)


@pytest.mark.parametrize("own_test", [False, True])
def test_a_test_split_of_the_user_is_in_no_fold(tmp_path: Path, own_test: bool) -> None:
    for split, count in [("train", 12), *([("test", 4)] if own_test else [])]:
        for label in "ab":
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                (folder / f"{number}.png").write_bytes(bytes([number]))
    data = open_dataset(tmp_path)
    tested = [item.path for fold in stratified_folds(data, 3, 0) for item in fold.splits["test"]]
    assert len(tested) == 24
    assert all(path.parts[-3] == "train" for path in tested)
