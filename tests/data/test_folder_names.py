from __future__ import annotations

from pathlib import Path

import pytest
from lines import Lines
from PIL import Image

from cfp_cli.data.class_order import class_order
from cfp_cli.data.dataset import open_dataset
from cfp_cli.foundation.errors import DataError


def tree(root: Path, *folders: str, count: int = 4) -> Path:
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True)
        for index in range(count):
            Image.new("L", (4 + index, 5), (index + 40 * number) % 256).save(root / folder / f"{index}.png")
    return root


def splits_of(root: Path, *names: str) -> Path:
    return tree(root, *(f"{name}/{label}" for name in names for label in ("crack", "ok")))


@pytest.mark.parametrize(
    "names",
    [
        ("Train", "Val", "Test"),
        ("TRAIN", "VAL", "TEST"),
        ("training", "validation", "testing"),
        ("Training", "Valid", "test"),
        ("train", "dev", "test"),
    ],
)
def test_split_folders_under_the_names_that_people_give(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = open_dataset(splits_of(tmp_path, *names))
    assert data.classes == ("crack", "ok")
    assert {split: data.counts(split) for split in data.splits} == dict.fromkeys(("train", "val", "test"), (4, 4))
    assert data.split_origin["train"] == f"{names[0]}/"


@pytest.mark.parametrize("name", ["train_set", "TestData", "images-val", "Training Set", "my.test", "eval", "holdout"])
def test_folders_that_look_like_splits_are_refused(tmp_path: Path, name: str) -> None:
    splits_of(tmp_path, name, "others")
    with pytest.raises(DataError, match=f"'{name}' that looks like a split"):
        open_dataset(tmp_path)


def test_classes_may_contain_the_words_of_splits(tmp_path: Path) -> None:
    assert open_dataset(tree(tmp_path, "contrast", "train", "test_bench", "valve/left", "interval/x")).classes == (
        "contrast",
        "interval",
        "test_bench",
        "train",
        "valve",
    )


def test_two_folders_for_one_split(tmp_path: Path) -> None:
    splits_of(tmp_path, "train", "val", "valid")
    with pytest.raises(DataError, match="two folders for the split val, 'val' and 'valid'"):
        open_dataset(tmp_path)


def test_folders_beside_splits_are_said(tmp_path: Path) -> None:
    told = Lines()
    open_dataset(splits_of(tmp_path, "train", "val", "test", "masks", "test_unlabelled"), progress=told)
    assert told.lines == [f"ignored under {tmp_path}: folders beside the splits (masks, test_unlabelled)"]


def test_classes_beside_a_split_without_train(tmp_path: Path) -> None:
    tree(tmp_path, "test/crack", "test/ok", "crack", "ok")
    with pytest.raises(DataError, match="'test' and beside it 'crack' with images"):
        open_dataset(tmp_path)


def test_the_folder_above_the_data_is_refused_with_the_right_one(tmp_path: Path) -> None:
    splits_of(tmp_path / "dataset", "train", "test")
    with pytest.raises(DataError, match=r"pass .*dataset, which contains t"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("inside", ["", "train/", "train/crack/"])
def test_folders_of_programs_are_ignored_and_said_once(tmp_path: Path, inside: str) -> None:
    splits_of(tmp_path, "train", "test")
    expected = open_dataset(tmp_path).splits
    names = (".ipynb_checkpoints", "@eaDir", ".thumbs", "__MACOSX", "__pycache__", "#recycle", "$RECYCLE.BIN")
    tree(tmp_path, *(f"{inside}{name}" for name in names))
    (tmp_path / inside / "Thumbs.db").write_bytes(b"x")
    (tmp_path / inside / "._0.png").write_bytes(b"x")
    told = Lines()
    data = open_dataset(tmp_path, progress=told)
    assert data.splits == expected
    assert told.lines == [
        f"ignored under {tmp_path}: hidden folders and folders of other programs (#recycle, $RECYCLE.BIN, "
        ".ipynb_checkpoints and 4 more); files that are not images (2: *.db, ._0.png)"
    ]


def test_images_outside_class_folders_are_said(tmp_path: Path) -> None:
    tree(tmp_path, "a", "b")
    Image.new("L", (4, 4)).save(tmp_path / "stray.png")
    told = Lines()
    open_dataset(tmp_path, progress=told)
    assert told.lines == [f"ignored under {tmp_path}: images outside class folders (1, such as stray.png)"]


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    tree(tmp_path / "store", "cracks/deep", "good")
    data = tmp_path / "data"
    data.mkdir()
    (data / "crack").symlink_to(tmp_path / "store/cracks")
    (data / "ok").mkdir()
    (data / "ok/lot").symlink_to(tmp_path / "store/good")
    (data / "ok/single.png").symlink_to(tmp_path / "store/good/0.png")
    found = open_dataset(data)
    assert [sum(found.counts(split)[label] for split in found.splits) for label in (0, 1)] == [4, 5]


def test_dangling_links_are_broken_images(tmp_path: Path) -> None:
    tree(tmp_path, "a", "b")
    (tmp_path / "a/gone.png").symlink_to(tmp_path / "nowhere.png")
    told = Lines()
    data = open_dataset(tmp_path, max_bad=0.2, progress=told)
    assert data.broken.paths == (tmp_path / "a/gone.png",)
    assert told.lines == [f"skipped {tmp_path}/a/gone.png: the link leads to no file"]
    with pytest.raises(DataError, match="1 of 9 images are broken"):
        open_dataset(tmp_path)


def test_links_to_nothing_and_loops_are_said(tmp_path: Path) -> None:
    tree(tmp_path, "a", "b")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a/back").symlink_to(tmp_path / "b")
    (tmp_path / "b/back").symlink_to(tmp_path / "a")
    told = Lines()
    data = open_dataset(tmp_path, progress=told)
    assert sum(sum(data.counts(split)) for split in data.splits) == 16
    assert told.lines == [
        f"warning: links under {tmp_path} that lead to nothing are ignored: lost",
        f"warning: links under {tmp_path} that lead back to a folder above them are ignored: a/back/back, b/back/back",
    ]


@pytest.mark.parametrize("empty_folder", [True, False])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_rare_class_needs_no_images_in_val_and_test(tmp_path: Path, split: str, empty_folder: bool) -> None:
    splits_of(tmp_path, "train", "val", "test")
    for image in (tmp_path / split / "crack").iterdir():
        image.unlink()
    if not empty_folder:
        (tmp_path / split / "crack").rmdir()
    told = Lines()
    data = open_dataset(tmp_path, progress=told)
    assert data.counts(split) == (0, 4)
    assert told.lines == [f"no images of class 'crack' in {split}; the figures on {split} say nothing about it"]


def test_a_rare_class_in_lists_and_in_made_splits_has_the_same_message(tmp_path: Path) -> None:
    tree(tmp_path, "a", "b")
    (tmp_path / "train.txt").write_text("".join(f"{label}/{i}.png {label}\n" for label in "ab" for i in (0, 1, 2)))
    (tmp_path / "test.txt").write_text("a/3.png a\n")
    told = Lines()
    assert open_dataset(tmp_path / "train.txt", progress=told).counts("test") == (1, 0)
    assert told.lines == ["no images of class 'b' in test; the figures on test say nothing about it"]
    (tmp_path / "train.txt").unlink()
    (tmp_path / "test.txt").unlink()
    for index in (1, 2, 3):
        (tmp_path / f"b/{index}.png").unlink()
    told = Lines()
    open_dataset(tmp_path, progress=told)
    assert told.lines == [
        f"no images of class 'b' in {split}; the figures on {split} say nothing about it" for split in ("val", "test")
    ]


def test_numbers_have_one_order_in_folders_and_lists(tmp_path: Path) -> None:
    numbers = [str(number) for number in range(12)]
    tree(tmp_path, *numbers)
    lines = [f"{number}/{index}.png {number}" for number in numbers for index in range(4)]
    (tmp_path / "all.txt").write_text("\n".join(lines))
    folders, listed = open_dataset(tmp_path), open_dataset(tmp_path / "all.txt")
    assert folders.classes == listed.classes == tuple(numbers)
    assert folders.splits == listed.splits
    assert class_order(["10", "9", "a"]) == ("10", "9", "a")
    assert class_order(["02", "10", "1"]) == ("1", "02", "10")


def test_in_order_changes_labels_and_keeps_names(tmp_path: Path) -> None:
    data = open_dataset(splits_of(tmp_path, "train", "test"))
    other = data.in_order(("ok", "rust", "crack"))
    assert other.counts("test") == (4, 0, 4)
    for split, items in other.splits.items():
        assert {item.path: other.classes[item.label] for item in items} == {
            item.path: data.classes[item.label] for item in data.split(split)
        }
