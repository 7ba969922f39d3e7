from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from lines import Lines
from PIL import Image

from cfp_cli.data.dataset import Dataset, open_dataset
from cfp_cli.data.image_file import image_extensions
from cfp_cli.data.split import divide, split_counts
from cfp_cli.foundation.errors import DataError


def tree(root: Path, counts: dict[str, int]) -> Path:
    """Write small grey images: `counts` maps a class folder to its number of images."""
    for number, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            Image.new("L", (6 + index % 3, 5), (index + 40 * number) % 256).save(root / folder / f"{index:03}.png")
    return root


def names(data: Dataset, split: str) -> list[str]:
    return [item.path.relative_to(data.root).as_posix() for item in data.split(split)]


def test_given_splits_are_taken_as_they_are(tmp_path: Path) -> None:
    tree(tmp_path, {f"{split}/{label}": 3 for split in ("train", "val", "test") for label in ("b", "a", "B")})
    data = open_dataset(tmp_path)
    assert data.classes == ("B", "a", "b")
    assert {split: len(items) for split, items in data.splits.items()} == {"train": 9, "val": 9, "test": 9}
    assert names(data, "val")[:3] == ["val/B/000.png", "val/B/001.png", "val/B/002.png"]
    assert all(item.path.parent.name == data.classes[item.label] for items in data.splits.values() for item in items)
    assert data.split_origin == {"train": "train/", "val": "val/", "test": "test/"}
    assert data.broken.paths == ()


def test_missing_val_is_made_from_train_only(tmp_path: Path) -> None:
    tree(tmp_path, {"train/a": 40, "train/b": 3, "test/a": 5, "test/b": 2})
    data = open_dataset(tmp_path, seed=3)
    assert data.counts("val") == (6, 1)
    assert data.counts("train") == (34, 2)
    assert names(data, "test") == [f"test/a/{i:03}.png" for i in range(5)] + ["test/b/000.png", "test/b/001.png"]
    assert not set(names(data, "train")) & set(names(data, "val"))
    assert data.split_origin["val"] == "made from train, fraction 0.15, seed 3"


def test_class_folders_get_all_three_splits(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 20, "b": 3, "c": 100})
    data = open_dataset(tmp_path)
    assert data.counts("test") == (4, 1, 20)
    assert data.counts("val") == (3, 1, 15)
    assert data.counts("train") == (13, 1, 65)
    everything = sorted(name for split in data.splits for name in names(data, split))
    assert everything == sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))


def test_split_depends_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    tree(tmp_path / "one", {"a": 30, "b": 30})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first, again, other = (
        open_dataset(tmp_path / name, seed=seed) for name, seed in (("one", 1), ("two", 1), ("one", 2))
    )
    assert names(first, "val") == names(again, "val")
    assert names(first, "val") != names(other, "val")
    assert first.fingerprint == again.fingerprint == other.fingerprint
    # Adding a class leaves the splits of the other classes alone.
    tree(tmp_path / "two", {"0": 12})
    assert [n for n in names(open_dataset(tmp_path / "two", seed=1), "val") if n[0] != "0"] == names(first, "val")


def test_fingerprint_sees_names_sizes_and_labels(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 4, "b": 4})
    prints = {open_dataset(tmp_path).fingerprint}
    (tmp_path / "a/000.png").rename(tmp_path / "a/9.png")
    prints.add(open_dataset(tmp_path).fingerprint)
    Image.new("L", (50, 50)).save(tmp_path / "a/9.png")
    prints.add(open_dataset(tmp_path).fingerprint)
    (tmp_path / "a/9.png").rename(tmp_path / "b/9.png")
    prints.add(open_dataset(tmp_path).fingerprint)
    assert len(prints) == 4


def test_only_images_count(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 4, "b/deep/er": 4, ".hidden": 2})
    for name in ("a/._000.png", "a/Thumbs.db", "b/notes.txt", "readme.md"):
        (tmp_path / name).write_bytes(b"no image")
    data = open_dataset(tmp_path)
    assert data.classes == ("a", "b")
    assert sum(map(len, data.splits.values())) == 8
    assert {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"} <= image_extensions()
    assert not {".eps", ".pdf", ".txt"} & image_extensions()


def test_a_set_only_for_testing(tmp_path: Path) -> None:
    tree(tmp_path, {"test/a": 2, "test/b": 2})
    data = open_dataset(tmp_path)
    assert list(data.splits) == ["test"]
    with pytest.raises(DataError, match="has no train split, only test"):
        data.split("train")


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    tree(tmp_path, {"train": 5, "tram": 5})
    assert open_dataset(tmp_path).classes == ("train", "tram")


def test_list_of_names_and_of_numbers(tmp_path: Path) -> None:
    tree(tmp_path / "images here", {"x": 20})
    files = sorted((tmp_path / "images here/x").iterdir())
    lines = [f"{file.relative_to(tmp_path)} {('pit', 'crack')[i % 2]}" for i, file in enumerate(files)]
    (tmp_path / "all.txt").write_text("\n".join(lines) + "\n\n")
    named = open_dataset(tmp_path / "all.txt")
    assert named.classes == ("crack", "pit")
    assert named.root == tmp_path
    assert named.counts("test") == (2, 2)
    by_name = {item.path: named.classes[item.label] for items in named.splits.values() for item in items}
    assert by_name == {file: ("pit", "crack")[i % 2] for i, file in enumerate(files)}
    numbered = [f"{file.relative_to(tmp_path)} {i if i < 11 else 10}" for i, file in enumerate(files)]
    (tmp_path / "all.txt").write_text("\n".join(numbered))
    # In number order, not "1", "10", "2".
    assert open_dataset(tmp_path / "all.txt").classes == tuple(str(i) for i in range(11))


@pytest.mark.parametrize("rest", [".txt", "_imbalanced.txt"])
def test_sibling_lists_are_the_splits(tmp_path: Path, rest: str) -> None:
    tree(tmp_path, {"images/a": 10, "images/b": 10})
    for split, numbers in {"train": range(6), "test": range(6, 10)}.items():
        lines = [f"images/{label}/{i:03}.png {label}" for i in numbers for label in "ab"]
        (tmp_path / f"{split}{rest}").write_text("\n".join(lines))
    data = open_dataset(tmp_path / f"train{rest}")
    assert data.counts("test") == (4, 4)
    assert data.counts("train") == (5, 5)
    assert data.counts("val") == (1, 1)
    assert data.split_origin["test"] == f"test{rest}"
    if rest == ".txt":
        assert open_dataset(tmp_path).splits == data.splits


def test_missing_listed_image_is_told_and_skipped(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 60, "b": 60})
    lines = [f"{label}/{i:03}.png {label}" for i in range(60) for label in "ab"]
    (tmp_path / "all.list").write_text("\n".join([*lines, "a/gone.png a"]))
    told = Lines()
    data = open_dataset(tmp_path / "all.list", progress=told)
    assert data.broken.paths == (tmp_path / "a/gone.png",)
    assert told.lines == [f"skipped {tmp_path}/a/gone.png: no such file"]
    assert sum(map(len, data.splits.values())) == 120
    with pytest.raises(DataError, match=r"1 of 121 images are broken, .*the last is .*gone\.png"):
        open_dataset(tmp_path / "all.list", max_bad=0.001)


def bad_trees(root: Path) -> dict[str, tuple[Path, str]]:
    def made(name: str, counts: dict[str, int]) -> Path:
        (root / name).mkdir()
        return tree(root / name, counts)

    def listed(name: str, text: str) -> Path:
        made(name, {"a": 3, "b": 3})
        (root / name / "all.txt").write_text(text)
        return root / name / "all.txt"

    (root / "binary").mkdir()
    (root / "binary/model.pt").write_bytes(bytes(range(256)))
    return {
        "missing": (root / "nowhere", "no such file or folder .*nowhere"),
        "empty folder": (made("empty", {}), "is not an image folder: it holds no class folders"),
        "flat": (made("flat", {".": 4}), "it holds images, not class folders"),
        "flat train": (made("flat_train", {"train": 3, "test": 3}), "train holds images, not class folders"),
        "no images": (made("none", {"a": 0, "b": 0}), "no images under"),
        "empty class": (made("hole", {"a": 3, "b": 0}), "class 'b' has no images in .*hole; add some or"),
        "empty training class": (
            made("hole2", {"train/a": 3, "train/b": 0, "test/a": 1, "test/b": 1}),
            "class 'b' .* is in test but has no images in train",
        ),
        "extra class": (
            made("more", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1, "test/c": 1}),
            "class 'c' .* is in test but",
        ),
        "one class": (made("one", {"a": 3}), "only one class, 'a'"),
        "misnamed": (made("sets", {"train/a": 3, "train/b": 3, "eval/a": 3, "eval/b": 3}), "rename it to 'test'"),
        "binary": (root / "binary/model.pt", "neither a folder nor a list file"),
        "no label": (listed("l1", "a/000.png a\nb/000.png\n"), "line 2 is 'b/000.png'; write it as"),
        "empty list": (listed("l2", "\n"), "lists no images"),
        "gap": (listed("l3", "a/000.png 0\nb/000.png 2\n"), "class 1 has no images"),
        "elsewhere": (
            listed("l4", "x/000.png 0\ny/000.png 1\n"),
            r"none of the images listed in .* exist \(first: .*x/000\.png",
        ),
    }


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    for case, (path, message) in bad_trees(tmp_path).items():
        with pytest.raises(DataError, match=message) as caught:
            open_dataset(path)
        assert "\n" not in str(caught.value), case
        assert not str(caught.value).endswith("."), case


def test_image_listed_in_two_splits(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 4, "b": 4})
    (tmp_path / "train.txt").write_text("a/000.png 0\nb/000.png 1\n")
    (tmp_path / "test.txt").write_text("a/001.png 0\nb/000.png 1\n")
    with pytest.raises(DataError, match=r"b/000\.png is listed in train and in test"):
        open_dataset(tmp_path)


def test_fractions_out_of_range(tmp_path: Path) -> None:
    tree(tmp_path, {"a": 4, "b": 4})
    with pytest.raises(DataError, match="sum to less than 1"):
        open_dataset(tmp_path, val_fraction=0.5, test_fraction=0.5)


@pytest.mark.parametrize("count", range(40))
def test_shares_leave_something_everywhere(count: int) -> None:
    taken = split_counts(count, {"test": 0.2, "val": 0.15})
    assert 0 <= sum(taken.values()) < max(count, 1)
    if count >= 3:
        assert min(taken.values()) >= 1
    if count >= 10:
        assert abs(taken["test"] - 0.2 * count) <= 0.5
        assert abs(taken["val"] - 0.15 * count) <= 0.5


def test_divide_is_a_partition() -> None:
    images = {"a": list(range(50)), "b": list(range(100, 107))}
    stays, made = divide(images, {"test": 0.3, "val": 0.2}, seed=5)
    for label, members in images.items():
        assert sorted(stays[label] + made["test"][label] + made["val"][label]) == members


@pytest.mark.shared_data
def test_real_sets_open(shared: Path) -> None:
    neu = open_dataset(shared / "data/neu-cls")
    assert neu.classes == ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
    assert (neu.counts("test"), len(neu.split("train")) + len(neu.split("val"))) == ((60,) * 6, 1260)
    xsdd = open_dataset(shared / "data/x-sdd")
    assert (len(xsdd.split("test")), len(xsdd.split("train")) + len(xsdd.split("val"))) == (273, 952)
    assert len(xsdd.classes) == 7
