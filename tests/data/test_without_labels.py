"""Folders without class folders are datasets without labels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from lines import Lines
from PIL import Image

from cfp_cli.data.dataset import Dataset
from cfp_cli.data.images import sample
from cfp_cli.data.transforms import Preprocessing
from cfp_cli.data.without_labels import has_labels, open_without_labels
from cfp_cli.foundation.errors import DataError


def folder(root: Path, counts: Mapping[str, int]) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = np.full((6, 6), 12 * index, np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


TREES = {
    "flat": ({".": 20}, False, (13, 3, 4)),
    "images beside masks": ({"images": 20, "masks": 20}, True, (13, 3, 4)),
    "split folders": ({"train": 6, "val": 3, "test": 4}, False, (6, 3, 4)),
    "split folders of images and labels": (
        {"train/images": 6, "train/labels": 6, "valid/images": 3, "test/images": 4},
        True,
        (6, 3, 4),
    ),
    "images with split folders": ({"images/train": 6, "images/val": 2, "labels/train": 6}, True, (5, 2, 1)),
    "photos beside masks": ({"photos": 20, "Masks": 20}, True, (13, 3, 4)),
    "masks in folders of sites": ({"a/images": 10, "a/masks": 10, "b/photos": 10, "b/masks": 10}, True, (13, 3, 4)),
    "class folders": ({"a": 10, "b": 10}, True, (13, 3, 4)),
    "a class folder beside images": ({".": 10, "b": 10}, True, (13, 3, 4)),
}


@pytest.mark.parametrize("kind", TREES)
def test_every_layout_is_listed(kind: str, tmp_path: Path) -> None:
    counts, labelled, expected = TREES[kind]
    root, progress = folder(tmp_path, counts), Lines()
    assert has_labels(root) == labelled
    dataset = open_without_labels(root, progress=progress)
    assert tuple(len(dataset.split(name)) for name in ("train", "val", "test")) == expected
    assert (dataset.classes, dataset.labelled) == ((), False)
    paths = [item.path for items in dataset.splits.values() for item in items]
    assert len(paths) == len(set(paths))
    assert not any("masks" in str(path.relative_to(root)).lower() or "labels" in path.parts for path in paths)
    if any("masks" in name.lower() for name in counts):
        assert any("masks" in line.lower() for line in progress.lines)


@pytest.mark.parametrize("names", [("test",), ("val", "test")])
def test_splits_with_masks_need_no_training_images(names: tuple[str, ...], tmp_path: Path) -> None:
    root = folder(tmp_path, {f"{name}/{kind}": 4 for name in names for kind in ("images", "masks")})
    dataset = open_without_labels(root)
    assert {name: len(items) for name, items in dataset.splits.items()} == dict.fromkeys(names, 4)
    with pytest.raises(DataError, match="train"):
        sample(dataset, 4, 0, Preprocessing((6, 6), channels=1, mean=(0.5,), std=(0.2,)))


def test_masks_beside_their_images_are_left_out(tmp_path: Path) -> None:
    root, progress = folder(tmp_path, {".": 20}), Lines()
    for index in range(20):
        Image.new("L", (6, 6)).save(root / f"{index}_mask.png")
    Image.new("L", (6, 6)).save(root / "face_mask.png")
    dataset = open_without_labels(root, progress=progress)
    names = [item.path.name for items in dataset.splits.values() for item in items]
    assert len(names) == 21
    assert "face_mask.png" in names
    assert any("masks (20, such as 0_mask.png" in line for line in progress.lines)


def test_images_in_a_folder_called_masks_are_images(tmp_path: Path) -> None:
    root, progress = folder(tmp_path, {"masks": 20}), Lines()
    assert sum(map(len, open_without_labels(root, progress=progress).splits.values())) == 20
    assert not any("masks" in line for line in progress.lines)


def test_the_splits_depend_on_the_seed_and_the_fingerprint_does_not(tmp_path: Path) -> None:
    root = folder(tmp_path, {".": 20})
    first, again, other = (open_without_labels(root, seed) for seed in (0, 0, 1))
    assert first.splits == again.splits != other.splits
    assert first.fingerprint == other.fingerprint


def test_a_sample_needs_no_labels(tmp_path: Path) -> None:
    dataset = open_without_labels(folder(tmp_path, {".": 20}))
    store = sample(dataset, 5, 0, Preprocessing((4, 4), (0.0,), (1.0,), 1))
    assert [tuple(images.shape) for images, _ in store.batches(2)] == [(2, 1, 4, 4), (2, 1, 4, 4), (1, 1, 4, 4)]


def test_what_needs_labels_is_refused(tmp_path: Path) -> None:
    dataset = open_without_labels(folder(tmp_path, {".": 20}))
    with pytest.raises(DataError, match=r"^`cfp finetune` needs labels.*/CLASS/\*"):
        dataset.require_labels("`cfp finetune`")


@pytest.mark.parametrize(
    ("counts", "message"),
    [({".": 2}, "contains 2 images"), ({"train": 4, "Training": 4}, "two folders for the split train")],
)
def test_unusable_folders_are_refused(counts: Mapping[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        open_without_labels(folder(tmp_path, counts))


def test_paths_without_images_keep_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("a.png x\n")
    assert all(has_labels(tmp_path / name) for name in ("empty", "list.txt", "missing"))
    with pytest.raises(DataError, match="no such file or folder"):
        open_without_labels(tmp_path / "missing")


def test_links_to_nothing_are_broken_images(tmp_path: Path) -> None:
    root = folder(tmp_path, {".": 9})
    (root / "link.png").symlink_to(root / "nowhere.png")
    dataset: Dataset = open_without_labels(root, max_bad=0.5)
    assert dataset.broken.total == 10


def test_the_labels_of_a_list_are_not_read(tmp_path: Path) -> None:
    folder(tmp_path, {".": 12})
    lines = [f"{index}.png defect{index}" for index in range(12)] + ["missing.png x"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    dataset = open_without_labels(tmp_path / "list.txt", max_bad=0.5)
    assert {name: len(items) for name, items in dataset.splits.items()} == {"train": 8, "val": 2, "test": 2}
    assert [path.name for path in dataset.broken.paths] == ["missing.png"]
    assert dataset.root == tmp_path
